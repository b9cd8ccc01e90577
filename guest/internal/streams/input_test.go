package streams

import (
	"bytes"
	"os"
	"syscall"
	"testing"

	"vimto/guest/internal/wire"
	"vimto/guest/internal/wiretest"
)

func TestInputIsWrittenAcknowledgedAndClosed(t *testing.T) {
	here, there := wiretest.Pair(t)
	ours, theirs, err := makePipe(uint32(os.Getuid()), uint32(os.Getgid()), true)
	if err != nil {
		t.Fatal(err)
	}
	in := &input{queue: wire.NewQueue(wire.StdinWindow), file: os.NewFile(uintptr(ours), "stdin")}
	go in.pump(here)
	for _, text := range []string{"hello ", "world"} {
		if err := in.queue.Put([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	in.queue.End()
	reader := os.NewFile(uintptr(theirs), "reader")
	var got bytes.Buffer
	if _, err := got.ReadFrom(reader); err != nil || got.String() != "hello world" {
		t.Errorf("%q, %v", got.String(), err)
	}
	acknowledged := 0
	for acknowledged < got.Len() {
		k, payload, err := there.Next()
		if err != nil || k != wire.KindAck || wire.ParseAck(payload).Stream != wire.Stdin {
			t.Fatal(k, payload, err)
		}
		acknowledged += int(wire.ParseAck(payload).Count)
	}
}

func TestInputThatNobodyReadsIsAcknowledgedAllTheSame(t *testing.T) {
	here, there := wiretest.Pair(t)
	ours, theirs, err := makePipe(uint32(os.Getuid()), uint32(os.Getgid()), true)
	if err != nil {
		t.Fatal(err)
	}
	syscall.Close(theirs)
	in := &input{queue: wire.NewQueue(wire.StdinWindow), file: os.NewFile(uintptr(ours), "stdin")}
	go in.pump(here)
	for i := 0; i < 100; i++ {
		if err := in.queue.Put(make([]byte, wire.StdinWindow)); err != nil {
			t.Fatal(err)
		}
		if k, _, err := there.Next(); err != nil || k != wire.KindAck {
			t.Fatal(k, err)
		}
	}
	in.queue.End()
}
