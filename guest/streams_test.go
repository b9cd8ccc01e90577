package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"syscall"
	"testing"
)

// startOutput returns an output that pumps to the port there, and the end that a command would have.
func startOutput(t *testing.T) (out *output, command int, there *port) {
	t.Helper()
	here, there := pair(t)
	ours, theirs, err := makePipe(uint32(os.Getuid()), uint32(os.Getgid()), false)
	if err != nil {
		t.Fatal(err)
	}
	if out, err = newOutput(kindStdout, ours); err != nil {
		t.Fatal(err)
	}
	go out.pump(here)
	return out, theirs, there
}

// collect reads stdout frames until n bytes came.
func collect(t *testing.T, p *port, n int) []byte {
	t.Helper()
	var got []byte
	for len(got) < n {
		k, payload, err := p.next()
		if err != nil || k != kindStdout {
			t.Fatalf("after %d bytes: kind %d, %v", len(got), k, err)
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
	out.finish()
}

func TestOutputStopsAtItsWindow(t *testing.T) {
	out, command, there := startOutput(t)
	data := make([]byte, outputWindow+pipeSize/2)
	written := make(chan struct{})
	go func() {
		writeAll(command, data)
		syscall.Close(command)
		close(written)
	}()
	got := len(collect(t, there, outputWindow))
	if got != outputWindow {
		t.Fatalf("%d bytes came without an acknowledgement", got)
	}
	<-written
	if out.credit.left != 0 {
		t.Errorf("%d bytes of credit are left", out.credit.left)
	}
	if err := out.credit.add(1000); err != nil {
		t.Fatal(err)
	}
	if got := len(collect(t, there, 1000)); got != 1000 {
		t.Errorf("%d bytes came for a credit of 1000", got)
	}
	if err := out.credit.add(outputWindow); err != nil {
		t.Fatal(err)
	}
	collect(t, there, len(data)-outputWindow-1000)
	out.finish()
}

func TestFinishDrainsThePipeThoughAGrandchildHoldsIt(t *testing.T) {
	here, there := pair(t)
	ours, command, err := makePipe(uint32(os.Getuid()), uint32(os.Getgid()), false)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(command)
	want := bytes.Repeat([]byte("x"), 60000) // less than any pipe holds
	writeAll(command, want)
	out, err := newOutput(kindStdout, ours)
	if err != nil {
		t.Fatal(err)
	}
	out.stop() // as if the command had ended before the first read
	go out.pump(here)
	if got := collect(t, there, len(want)); !bytes.Equal(got, want) {
		t.Error("the bytes differ")
	}
	out.finish()
}

func TestDrainEndsThoughAGrandchildGoesOnWriting(t *testing.T) {
	here, there := pair(t)
	zero, err := syscall.Open("/dev/zero", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(zero)
	out := &output{kind: kindStdout, fd: zero, credit: newCredit(outputWindow)}
	go func() {
		for {
			_, payload, err := there.next()
			if err != nil || out.credit.add(uint32(len(payload))) != nil {
				return
			}
		}
	}()
	out.drain(here, make([]byte, headerSize+maxStream))
}

func TestNoticesAreWholeLines(t *testing.T) {
	here, there := pair(t)
	ours, theirs, err := makePipe(uint32(os.Getuid()), uint32(os.Getgid()), false)
	if err != nil {
		t.Fatal(err)
	}
	out, err := newOutput(kindNotice, ours)
	if err != nil {
		t.Fatal(err)
	}
	out.level = "teardown"
	go out.pump(here)
	writeAll(theirs, []byte("one\n\ntw"))
	expect := func(want string) {
		t.Helper()
		k, payload, err := there.next()
		if got := (notice{"teardown", want}).frame()[headerSize:]; err != nil || k != kindNotice || !bytes.Equal(payload, got) {
			t.Fatalf("kind %d, %s, %v instead of %s", k, payload, err, got)
		}
	}
	expect("one\n")
	writeAll(theirs, []byte("o\nthree"))
	expect("two")
	syscall.Close(theirs)
	expect("three")
	out.finish()
}

func TestInputIsWrittenAcknowledgedAndClosed(t *testing.T) {
	here, there := pair(t)
	ours, theirs, err := makePipe(uint32(os.Getuid()), uint32(os.Getgid()), true)
	if err != nil {
		t.Fatal(err)
	}
	in := &input{queue: newQueue(stdinWindow)}
	go in.pump(here, os.NewFile(uintptr(ours), "stdin"))
	for _, text := range []string{"hello ", "world"} {
		if err := in.queue.put([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	in.queue.end()
	reader := os.NewFile(uintptr(theirs), "reader")
	var got bytes.Buffer
	if _, err := got.ReadFrom(reader); err != nil || got.String() != "hello world" {
		t.Errorf("%q, %v", got.String(), err)
	}
	acknowledged := 0
	for acknowledged < got.Len() {
		k, payload, err := there.next()
		if err != nil || k != kindAck || payload[0] != streamStdin {
			t.Fatal(k, payload, err)
		}
		acknowledged += int(binary.LittleEndian.Uint32(payload[1:]))
	}
}

func TestInputThatNobodyReadsIsAcknowledgedAllTheSame(t *testing.T) {
	here, there := pair(t)
	ours, theirs, err := makePipe(uint32(os.Getuid()), uint32(os.Getgid()), true)
	if err != nil {
		t.Fatal(err)
	}
	syscall.Close(theirs)
	in := &input{queue: newQueue(stdinWindow)}
	go in.pump(here, os.NewFile(uintptr(ours), "stdin"))
	for i := 0; i < 100; i++ {
		if err := in.queue.put(make([]byte, stdinWindow)); err != nil {
			t.Fatal(err)
		}
		if k, _, err := there.next(); err != nil || k != kindAck {
			t.Fatal(k, err)
		}
	}
	in.queue.end()
}

func TestQueueRefusesMoreThanItsWindow(t *testing.T) {
	q := newQueue(10)
	if err := q.put(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if q.put([]byte("x")) == nil {
		t.Error("11 bytes fit into a window of 10")
	}
	q.drop()
	if _, ok := q.take(); ok {
		t.Error("something was taken from a dropped queue")
	}
}

func TestCreditRefusesWhatWasNeverSent(t *testing.T) {
	c := newCredit(10)
	c.spend(4)
	if c.add(5) == nil || c.add(4) != nil || c.wait() != 10 {
		t.Errorf("credit is %d", c.left)
	}
	c.close()
	if c.wait() != 0 {
		t.Error("a closed credit grants something")
	}
}
