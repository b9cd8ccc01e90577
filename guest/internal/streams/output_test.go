package streams

import (
	"bytes"
	"os"
	"syscall"
	"testing"

	"vimto/guest/internal/wire"
	"vimto/guest/internal/wiretest"
)

// startOutput returns an output that pumps to the port there, and the end that a command would have.
func startOutput(t *testing.T) (out *Output, command int, there *wire.Port) {
	t.Helper()
	here, there := wiretest.Pair(t)
	ours, theirs, err := makePipe(uint32(os.Getuid()), uint32(os.Getgid()), false)
	if err != nil {
		t.Fatal(err)
	}
	if out, err = newOutput(wire.KindStdout, ours); err != nil {
		t.Fatal(err)
	}
	go out.Pump(here)
	return out, theirs, there
}

// collect reads stdout frames until n bytes came.
func collect(t *testing.T, p *wire.Port, n int) []byte {
	t.Helper()
	var got []byte
	for len(got) < n {
		k, payload, err := p.Next()
		if err != nil || k != wire.KindStdout {
			t.Fatalf("after %d bytes: %s, %v", len(got), k, err)
		}
		got = append(got, payload...)
	}
	return got
}

func writeAll(fd int, data []byte) {
	for len(data) > 0 {
		n, err := syscall.Write(fd, data)
		if err != nil {
			return
		}
		data = data[n:]
	}
}

func TestOutputIsWholeAndInOrder(t *testing.T) {
	out, command, there := startOutput(t)
	want := bytes.Repeat([]byte("0123456789\x00\xff\r\n"), 50000)
	go func() {
		writeAll(command, want)
		syscall.Close(command)
	}()
	if got := collect(t, there, len(want)); !bytes.Equal(got, want) {
		t.Error("the bytes differ")
	}
	out.Finish()
}

func TestOutputStopsAtItsWindow(t *testing.T) {
	out, command, there := startOutput(t)
	data := make([]byte, wire.OutputWindow+pipeSize/2)
	written := make(chan struct{})
	go func() {
		writeAll(command, data)
		syscall.Close(command)
		close(written)
	}()
	got := len(collect(t, there, wire.OutputWindow))
	if got != wire.OutputWindow {
		t.Fatalf("%d bytes came without an acknowledgement", got)
	}
	<-written
	if err := out.credit.Add(1000); err != nil {
		t.Fatal(err)
	}
	if got := len(collect(t, there, 1000)); got != 1000 {
		t.Errorf("%d bytes came for a credit of 1000", got)
	}
	if err := out.credit.Add(wire.OutputWindow); err != nil {
		t.Fatal(err)
	}
	collect(t, there, len(data)-wire.OutputWindow-1000)
	out.Finish()
}

func TestFinishDrainsThePipeThoughAGrandchildHoldsIt(t *testing.T) {
	here, there := wiretest.Pair(t)
	ours, command, err := makePipe(uint32(os.Getuid()), uint32(os.Getgid()), false)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(command)
	want := bytes.Repeat([]byte("x"), 60000) // less than any pipe holds
	writeAll(command, want)
	out, err := newOutput(wire.KindStdout, ours)
	if err != nil {
		t.Fatal(err)
	}
	out.stop() // as if the command had ended before the first read
	go out.Pump(here)
	if got := collect(t, there, len(want)); !bytes.Equal(got, want) {
		t.Error("the bytes differ")
	}
	out.Finish()
}

func TestDrainEndsThoughAGrandchildGoesOnWriting(t *testing.T) {
	here, there := wiretest.Pair(t)
	zero, err := syscall.Open("/dev/zero", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(zero)
	out := &Output{kind: wire.KindStdout, fd: zero, credit: wire.NewCredit(wire.OutputWindow)}
	go func() {
		for {
			_, payload, err := there.Next()
			if err != nil || out.credit.Add(uint32(len(payload))) != nil {
				return
			}
		}
	}()
	out.drain(here, make([]byte, wire.HeaderSize+wire.MaxStream))
}

func TestNoticesAreWholeLines(t *testing.T) {
	here, there := wiretest.Pair(t)
	out, theirs, err := NewNotices("teardown")
	if err != nil {
		t.Fatal(err)
	}
	go out.Pump(here)
	writeAll(theirs, []byte("one\n\ntw"))
	expect := func(want string) {
		t.Helper()
		k, payload, err := there.Next()
		if got := (wire.Notice{Level: "teardown", Text: want}).Frame()[wire.HeaderSize:]; err != nil || k != wire.KindNotice || !bytes.Equal(payload, got) {
			t.Fatalf("%s, %s, %v instead of %s", k, payload, err, got)
		}
	}
	expect("one\n")
	writeAll(theirs, []byte("o\nthree"))
	expect("two")
	syscall.Close(theirs)
	expect("three")
	out.Finish()
}
