package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

type goldenFrame struct {
	name           string
	kind           kind
	payload, frame []byte
}

// golden reads the frames that the Python tests read too. In a copy of guest/ alone, as the wheel has
// it, they are missing and the tests that need them are skipped.
func golden(t *testing.T) map[string]goldenFrame {
	t.Helper()
	text, err := os.ReadFile("../tests/golden/wire/frames.txt")
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("no golden frames beside this copy of the source")
	}
	if err != nil {
		t.Fatal(err)
	}
	frames := map[string]goldenFrame{}
	for _, line := range strings.Split(string(text), "\n") {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] == "#" {
			continue
		}
		number, err := strconv.Atoi(fields[1])
		if err != nil {
			t.Fatal(err)
		}
		payload, err1 := hex.DecodeString(strings.Trim(fields[2], "-"))
		frame, err2 := hex.DecodeString(fields[3])
		if err1 != nil || err2 != nil {
			t.Fatal(line)
		}
		frames[fields[0]] = goldenFrame{fields[0], kind(number), payload, frame}
	}
	return frames
}

// pair returns two ports that are connected to each other.
func pair(t *testing.T) (*port, *port) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Shutdown(fds[0], syscall.SHUT_RDWR) })
	return newPort(fds[0]), newPort(fds[1])
}

func TestGoldenFramesEncodeAndDecode(t *testing.T) {
	frames := golden(t)
	seen := map[kind]bool{}
	for name, g := range frames {
		seen[g.kind] = true
		if got := encode(g.kind, g.payload); !bytes.Equal(got, g.frame) {
			t.Errorf("%s: encoded %x, want %x", name, got, g.frame)
		}
		here, there := pair(t)
		if err := there.write(g.frame); err != nil {
			t.Fatal(err)
		}
		k, payload, err := here.next()
		if err != nil || k != g.kind || !bytes.Equal(payload, g.payload) {
			t.Errorf("%s: decoded kind %d, payload %q, error %v", name, k, payload, err)
		}
	}
	for k := kindReady; k <= kindSignalled; k++ {
		if !seen[k] {
			t.Errorf("no golden frame of kind %d", k)
		}
	}
}

func TestGoldenMessagesAreWhatWeSend(t *testing.T) {
	frames := golden(t)
	for name, got := range map[string][]byte{
		"ready":           ready{"0123abcd", "6.1.0-56-amd64", 2, 1234, []string{"proc", "9p", "overlay"}}.frame(),
		"started":         started{57, 89}.frame(),
		"notice":          notice{"warning", "the kernel complained:\nWARNING: CPU: 0"}.frame(),
		"exit":            exit{stage: "command"}.frame(),
		"exit-signal":     exit{status: 134, signal: 6, core: true, stage: "command"}.frame(),
		"opened":          opened{7, ""}.frame(),
		"signalled":       signalled{15, ""}.frame(),
		"signalled-stuck": signalled{0, "`dd` (process 213) is in uninterruptible sleep\npercpu_rwsem_wait"}.frame(),
	} {
		// The golden file is written by Python, which has its own ways to escape; ours must be read the same.
		var ours, theirs any
		if err := json.Unmarshal(got[headerSize:], &ours); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(frames[name].payload, &theirs); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(ours, theirs) || kind(got[4]) != frames[name].kind {
			t.Errorf("%s: we send %q", name, got)
		}
	}
	if got := ackFrame(streamStdin, 65536); !bytes.Equal(got, frames["ack-stdin"].frame) {
		t.Errorf("ack: %x", got)
	}
	if got := dataAckFrame(7, 7); !bytes.Equal(got, frames["data-ack"].frame) {
		t.Errorf("data-ack: %x", got)
	}
}

func TestHeaderLimits(t *testing.T) {
	for _, c := range []struct {
		header []byte
		ok     bool
	}{
		{[]byte{0, 0, 4, 0, byte(kindStdin)}, true},
		{[]byte{1, 0, 4, 0, byte(kindStdin)}, false},
		{[]byte{0, 0, 0, 1, byte(kindRun)}, true},
		{[]byte{1, 0, 0, 1, byte(kindRun)}, false},
		{[]byte{2, 0, 0, 0, byte(kindSignal)}, false},
		{[]byte{0, 0, 0, 0, 0}, false},
		{[]byte{0, 0, 0, 0, byte(kindSignalled) + 1}, false},
		{[]byte{255, 255, 255, 255, byte(kindStdout)}, false},
	} {
		if _, _, err := parseHeader(c.header); (err == nil) != c.ok {
			t.Errorf("%v: %v", c.header, err)
		}
	}
}

func TestPortTellsTheEndFromATruncatedFrame(t *testing.T) {
	for _, c := range []struct {
		bytes string
		want  error
	}{{"", io.EOF}, {"\x05\x00", io.ErrUnexpectedEOF}, {"\x05\x00\x00\x00\x04abc", io.ErrUnexpectedEOF}} {
		here, there := pair(t)
		if err := there.write([]byte(c.bytes)); err != nil {
			t.Fatal(err)
		}
		_ = syscall.Shutdown(there.fd, syscall.SHUT_WR)
		if _, _, err := here.next(); !errors.Is(err, c.want) {
			t.Errorf("%q: %v, want %v", c.bytes, err, c.want)
		}
	}
}

func TestPortReadsFramesThatStraddleItsBuffer(t *testing.T) {
	here, there := pair(t)
	big := bytes.Repeat([]byte("0123456789abcdef"), maxStream/16)
	sizes := []int{0, 1, 70000, maxStream, 3, 65531, 65536}
	go func() {
		for _, n := range sizes {
			_ = there.send(kindStdin, big[:n])
		}
	}()
	for _, n := range sizes {
		k, payload, err := here.next()
		if err != nil || k != kindStdin || !bytes.Equal(payload, big[:n]) {
			t.Fatalf("frame of %d: kind %d, %d bytes, %v", n, k, len(payload), err)
		}
	}
}
