// Package streams connects the streams of commands in the guest to the host.
package streams

import (
	"fmt"
	"os"
	"syscall"

	"vimto/guest/internal/wire"
)

// Closed, among a process's descriptors, is one that it finds closed.
const Closed = ^uintptr(0)

// Stdio are the command's stdin, stdout and stderr: our ends, and the descriptors that it gets.
type Stdio struct {
	Files [3]uintptr // the command's descriptors; CloseFiles closes them here

	input    *input
	output   [3]*Output // by number; nil for stdin, and where the command has no stream of its own
	terminal *terminal  // what the streams lead to; nil if they do not
}

// Open makes the streams as the order has them. The host may send stdin at once.
func Open(o *wire.Order) (*Stdio, error) {
	s := &Stdio{Files: [3]uintptr{Closed, Closed, Closed}}
	s.input = &input{queue: wire.NewQueue(wire.StdinWindow), toTerminal: o.Terminal != nil}
	if o.Terminal != nil {
		if err := s.openTerminal(*o.Terminal, o.UID); err != nil {
			return nil, err
		}
		if o.Streams[2] == "stdout" {
			return s, nil
		}
		return s, s.open(2, o) // it leads elsewhere on the host, so here too
	}
	for fd := range o.Streams {
		if err := s.open(fd, o); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *Stdio) openTerminal(size wire.Size, uid uint32) error {
	t, err := openTerminal(size, uid)
	if err != nil {
		return err
	}
	slave := uintptr(t.slave)
	s.terminal, s.Files, s.input.file = t, [3]uintptr{slave, slave, slave}, t.file
	s.output[1], err = newOutput(wire.KindStdout, t.master)
	if err == nil {
		s.output[1].closeFD = func() { t.file.Close() }
	}
	return err
}

// open makes one stream.
func (s *Stdio) open(fd int, o *wire.Order) error {
	switch mode := o.Streams[fd]; mode {
	case "closed":
		s.Files[fd] = Closed
	case "null":
		null, err := syscall.Open("/dev/null", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		s.Files[fd] = uintptr(null)
	case "stdout":
		s.Files[fd] = s.Files[1]
	case "pipe":
		ours, theirs, err := makePipe(o.UID, o.GID, fd == 0)
		if err != nil {
			return fmt.Errorf("pipe: %w", err)
		}
		s.Files[fd] = uintptr(theirs)
		switch fd {
		case 0:
			s.input.file = os.NewFile(uintptr(ours), "stdin")
		case 1:
			s.output[1], err = newOutput(wire.KindStdout, ours)
		case 2:
			s.output[2], err = newOutput(wire.KindStderr, ours)
		}
		return err
	default:
		return fmt.Errorf("stream %d has the unknown mode `%s`", fd, mode)
	}
	return nil
}

// CloseFiles closes our copies of the command's descriptors, once it has them.
func (s *Stdio) CloseFiles() {
	for i, fd := range s.Files {
		if fd != Closed && (i == 0 || fd != s.Files[0]) && (i < 2 || fd != s.Files[1]) {
			syscall.Close(int(fd))
		}
	}
}

// StartInput lets the command have what the host sends; spawn starts a goroutine.
func (s *Stdio) StartInput(p *wire.Port, spawn func(func())) {
	if s.input.file == nil {
		s.input.queue.Drop()
		return
	}
	spawn(func() { s.input.pump(p) })
}

// StartOutput sends the host what the command writes; spawn starts a goroutine.
func (s *Stdio) StartOutput(p *wire.Port, spawn func(func())) {
	for _, out := range s.output {
		if out := out; out != nil {
			spawn(func() { out.Pump(p) })
		}
	}
}

// Finish returns when all that the command wrote before it ended was sent.
func (s *Stdio) Finish() {
	for _, out := range s.output {
		if out != nil {
			out.Finish()
		}
	}
}

// PutInput takes a stdin frame's payload; an empty one is the end.
func (s *Stdio) PutInput(data []byte) error {
	if len(data) == 0 {
		s.input.queue.End()
		return nil
	}
	return s.input.queue.Put(data)
}

// Acknowledge lets an output stream go on by what the host has consumed of it.
func (s *Stdio) Acknowledge(a wire.Ack) error {
	var out *Output
	if int(a.Stream) < len(s.output) {
		out = s.output[a.Stream]
	}
	if out == nil {
		return fmt.Errorf("ack frame for stream %d, on which nothing is sent", a.Stream)
	}
	if a.ReaderGone {
		out.abandon()
		return nil
	}
	return out.credit.Add(a.Count)
}

// IsTerminal says whether the command has a terminal.
func (s *Stdio) IsTerminal() bool { return s.terminal != nil }

// Resize gives the command's terminal, if it has one, another size.
func (s *Stdio) Resize(size wire.Size) {
	if s.terminal != nil {
		_ = s.terminal.resize(size)
	}
}

// Foreground returns the process group that the terminal's keys would signal, or 0.
func (s *Stdio) Foreground() int {
	if s.terminal == nil {
		return 0
	}
	return s.terminal.foreground()
}
