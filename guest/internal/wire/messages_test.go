package wire

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
	"testing"
)

type goldenFrame struct {
	name           string
	kind           Kind
	payload, frame []byte
}

// golden reads the frames that the Python tests read too. In a copy of guest/ alone, as the wheel has
// it, they are missing and the tests that need them are skipped.
func golden(t *testing.T) map[string]goldenFrame {
	t.Helper()
	text, err := os.ReadFile("../../../tests/golden/wire/frames.txt")
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
		frames[fields[0]] = goldenFrame{fields[0], Kind(number), payload, frame}
	}
	return frames
}

func pair(t *testing.T) (*Port, *Port) {
	t.Helper()
	here, there, err := NewPair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(here.HangUp)
	return here, there
}

func TestGoldenFramesEncodeAndDecode(t *testing.T) {
	frames := golden(t)
	seen := map[Kind]bool{}
	for name, g := range frames {
		seen[g.kind] = true
		if !strings.HasPrefix(name+"-", g.kind.String()+"-") {
			t.Errorf("%s is a frame called %s", name, g.kind)
		}
		if got := encode(g.kind, g.payload); !bytes.Equal(got, g.frame) {
			t.Errorf("%s: encoded %x, want %x", name, got, g.frame)
		}
		here, there := pair(t)
		if err := there.Write(g.frame); err != nil {
			t.Fatal(err)
		}
		k, payload, err := here.Next()
		if err != nil || k != g.kind || !bytes.Equal(payload, g.payload) {
			t.Errorf("%s: decoded %s, payload %q, error %v", name, k, payload, err)
		}
	}
	for k := KindReady; k <= KindSignalled; k++ {
		if !seen[k] {
			t.Errorf("no golden %s frame", k)
		}
	}
}

func TestGoldenMessagesAreWhatWeSend(t *testing.T) {
	frames := golden(t)
	for name, got := range map[string][]byte{
		"ready":           Ready{"0123abcd", "6.1.0-56-amd64", 2, 1234, []string{"proc", "9p", "overlay"}}.Frame(),
		"started":         Started{57, 89}.Frame(),
		"notice":          Notice{"warning", "the kernel complained:\nWARNING: CPU: 0"}.Frame(),
		"exit":            Exit{Stage: "command"}.Frame(),
		"exit-signal":     Exit{Status: 134, Signal: 6, Core: true, Stage: "command"}.Frame(),
		"opened":          Opened{7, ""}.Frame(),
		"signalled":       Signalled{15, ""}.Frame(),
		"signalled-stuck": Signalled{0, "`dd` (process 213) is in uninterruptible sleep\npercpu_rwsem_wait"}.Frame(),
	} {
		// The golden file is written by Python, which has its own ways to escape; ours must be read the same.
		var ours, theirs any
		if err := json.Unmarshal(got[HeaderSize:], &ours); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(frames[name].payload, &theirs); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(ours, theirs) || Kind(got[4]) != frames[name].kind {
			t.Errorf("%s: we send %q", name, got)
		}
	}
	if got := AckFrame(65536); !bytes.Equal(got, frames["ack-stdin"].frame) {
		t.Errorf("ack: %x", got)
	}
	if got := ChannelAckFrame(7, 7); !bytes.Equal(got, frames["data-ack"].frame) {
		t.Errorf("data-ack: %x", got)
	}
}

func TestHeaderLimits(t *testing.T) {
	for _, c := range []struct {
		header []byte
		ok     bool
	}{
		{[]byte{0, 0, 4, 0, byte(KindStdin)}, true},
		{[]byte{1, 0, 4, 0, byte(KindStdin)}, false},
		{[]byte{0, 0, 0, 1, byte(KindRun)}, true},
		{[]byte{1, 0, 0, 1, byte(KindRun)}, false},
		{[]byte{2, 0, 0, 0, byte(KindSignal)}, false},
		{[]byte{0, 0, 0, 0, byte(KindSignal)}, false},
		{[]byte{3, 0, 0, 0, byte(KindData)}, false},
		{[]byte{4, 0, 0, 0, byte(KindAck)}, false},
		{[]byte{0, 0, 0, 0, 0}, false},
		{[]byte{0, 0, 0, 0, byte(len(kinds))}, false},
		{[]byte{255, 255, 255, 255, byte(KindStdout)}, false},
	} {
		if _, _, err := parseHeader(c.header); (err == nil) != c.ok {
			t.Errorf("%v: %v", c.header, err)
		}
	}
}

func TestErrorsNameTheKind(t *testing.T) {
	for _, c := range []struct{ frame, want string }{
		{"\x09\x00\x00\x00\x09", "resize frame of 9 bytes instead of 4"},
		{"\x03\x00\x00\x00\x0e", "data frame of 3 bytes: it must have 4 to 262144"},
		{"\x01\x00\x00\x00\x63", "frame of kind 99, which is unknown"},
	} {
		if _, _, err := parseHeader([]byte(c.frame)); err == nil || err.Error() != c.want {
			t.Errorf("%q: %v, want %s", c.frame, err, c.want)
		}
	}
	for k, want := range map[Kind]string{KindExit: "exit", 0: "unknown (0)", 99: "unknown (99)"} {
		if k.String() != want {
			t.Errorf("kind %d is called %s", k, k)
		}
	}
	if _, err := ParseOpen([]byte("{")); err == nil || !strings.HasPrefix(err.Error(), "open frame: ") {
		t.Error(err)
	}
}

func TestPortTellsTheEndFromATruncatedFrame(t *testing.T) {
	for _, c := range []struct {
		bytes string
		want  error
	}{{"", io.EOF}, {"\x05\x00", io.ErrUnexpectedEOF}, {"\x05\x00\x00\x00\x04abc", io.ErrUnexpectedEOF}} {
		here, there := pair(t)
		if err := there.Write([]byte(c.bytes)); err != nil {
			t.Fatal(err)
		}
		here.HangUp()
		if _, _, err := here.Next(); !errors.Is(err, c.want) {
			t.Errorf("%q: %v, want %v", c.bytes, err, c.want)
		}
	}
}

func TestPortReadsFramesThatStraddleItsBuffer(t *testing.T) {
	here, there := pair(t)
	big := bytes.Repeat([]byte("0123456789abcdef"), MaxStream/16)
	sizes := []int{0, 1, 70000, MaxStream, 3, 65531, 65536}
	go func() {
		for _, n := range sizes {
			_ = there.Send(KindStdin, big[:n])
		}
	}()
	for _, n := range sizes {
		k, payload, err := here.Next()
		if err != nil || k != KindStdin || !bytes.Equal(payload, big[:n]) {
			t.Fatalf("frame of %d bytes: %s, %d bytes, %v", n, k, len(payload), err)
		}
	}
}
