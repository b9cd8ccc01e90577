package streams

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"vimto/guest/internal/wire"
)

const (
	fSetPipeSize  = 1031
	pipeSize      = 1 << 20
	maxTail       = 2 << 10
	maxLine       = 64 << 10 // of a notice; a longer one is shown in pieces
	endOfFileChar = 4        // VEOF of a terminal in its default state
)

// Output carries one of the command's streams to the host. Reading can be ended from outside, while a
// grandchild keeps the other end. The runtime's poller could do that for an os.File, but it is a lot of
// code, and all code that a restored machine runs for the first time takes time.
type Output struct {
	kind    wire.Kind // kindNotice: setup and teardown commands, which have no credit
	Level   string    // of the notices
	Tail    []byte    // the end of what was sent as notices, for an error message
	line    []byte    // the beginning of a line whose rest has not come, for the next notice
	fd      int       // does not block
	Shut    func()    // closes fd
	closing sync.Once
	stopped atomic.Bool
	waking  [2]int // a pipe that hangs up when stopped is set
	Credit  *wire.Credit
	done    chan struct{}
}

// NewOutput returns an output that reads from fd and owns it.
func NewOutput(k wire.Kind, fd int) (*Output, error) {
	s := &Output{kind: k, fd: fd, Credit: wire.NewCredit(wire.OutputWindow), done: make(chan struct{})}
	s.Shut = func() { syscall.Close(fd) }
	if err := syscall.Pipe2(s.waking[:], syscall.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	return s, nil
}

// Pump sends what the command writes until nobody can write any more, or until finish. While the host
// has a whole window unacknowledged, the pipe is not read, and the command waits like at any full pipe.
func (s *Output) Pump(p *wire.Port) {
	defer close(s.done)
	defer s.endLine(p)
	frame := make([]byte, wire.HeaderSize+wire.MaxStream)
	for {
		room := s.Credit.Wait()
		if room == 0 {
			s.Close()
			return
		}
		if s.stopped.Load() {
			s.drain(p, frame)
			return
		}
		n, err := syscall.Read(s.fd, frame[wire.HeaderSize:wire.HeaderSize+min(room, wire.MaxStream)])
		switch {
		case err == syscall.EAGAIN:
			s.wait()
		case err == syscall.EINTR:
		case err != nil || n == 0: // the end; EIO is a pty's
			return
		case s.emit(p, frame, n) != nil:
			return
		}
	}
}

// wait blocks until there is something to read, or to see in stopped.
func (s *Output) wait() {
	const readable = 1 // POLLIN; a hang-up ends the wait unasked
	type pollFD struct {
		fd              int32
		events, revents int16
	}
	fds := [2]pollFD{{int32(s.fd), readable, 0}, {int32(s.waking[0]), readable, 0}}
	_, _, _ = syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&fds)), uintptr(len(fds)), 0, 0, 0, 0)
}

// Stop makes pump see that it is to end.
func (s *Output) Stop() {
	if !s.stopped.Swap(true) {
		syscall.Close(s.waking[1])
	}
}

// Finish lets pump send what is in the pipe now and return, whoever may still have it open.
func (s *Output) Finish() {
	s.Stop()
	<-s.done
	s.Close()
}

// Abandon closes the pipe, whose reader on the host is gone: the command's next write meets EPIPE.
func (s *Output) Abandon() {
	s.Credit.Close()
	s.Stop()
}

func (s *Output) Close() {
	s.closing.Do(func() {
		s.Shut()
		syscall.Close(s.waking[0])
	})
}

// drain sends at most what a pipe can hold, lest a grandchild that goes on writing hold up the end.
func (s *Output) drain(p *wire.Port, frame []byte) {
	for left := pipeSize; left > 0; {
		room := s.Credit.Wait()
		if room == 0 {
			return
		}
		n, err := syscall.Read(s.fd, frame[wire.HeaderSize:wire.HeaderSize+min(room, left, wire.MaxStream)])
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || n <= 0 || s.emit(p, frame, n) != nil {
			return
		}
		left -= n
	}
}

// emit sends n bytes of frame; notices have whole lines, to which the host adds the last newline.
func (s *Output) emit(p *wire.Port, frame []byte, n int) error {
	if s.kind == wire.KindNotice {
		text := frame[wire.HeaderSize : wire.HeaderSize+n]
		s.Tail = append(s.Tail, text...)
		s.Tail = s.Tail[max(0, len(s.Tail)-maxTail):]
		s.line = append(s.line, text...)
		end := bytes.LastIndexByte(s.line, '\n')
		if end < 0 && len(s.line) < maxLine {
			return nil
		}
		if end < 0 {
			end = len(s.line)
		}
		whole := wire.Notice{Level: s.Level, Text: string(s.line[:end])}
		s.line = s.line[min(end+1, len(s.line)):]
		return p.Write(whole.Frame())
	}
	s.Credit.Spend(n)
	frame = frame[:wire.HeaderSize+n]
	wire.Seal(frame, s.kind)
	return p.Write(frame)
}

// endLine sends as a notice what came after the last newline.
func (s *Output) endLine(p *wire.Port) {
	if len(s.line) > 0 {
		_ = p.Write(wire.Notice{Level: s.Level, Text: string(s.line)}.Frame())
	}
}

// Input carries the host's stdin frames to the command.
type Input struct {
	Queue    *wire.Queue
	Terminal bool
}

// Pump writes what comes to file, acknowledges it, and closes file at the end; a terminal gets its
// end-of-file character instead. A command that reads no more lets the rest vanish, as a pipe would.
func (s *Input) Pump(p *wire.Port, file *os.File) {
	broken := false
	for {
		chunk, ok := s.Queue.Take()
		if !ok {
			break
		}
		if !broken {
			_, err := file.Write(chunk)
			broken = err != nil
		}
		s.Queue.Consumed(len(chunk))
		if p.Write(wire.AckFrame(wire.StreamStdin, len(chunk))) != nil {
			break
		}
	}
	if s.Terminal {
		_, _ = file.Write([]byte{endOfFileChar})
		return
	}
	file.Close()
}

// MakePipe returns a big pipe owned by the command's user, who may open /dev/stdout anew. Ours is the
// end that is not blocking: the read end, or the write end if write is set.
func MakePipe(uid, gid uint32, write bool) (ours, theirs int, err error) {
	var ends [2]int
	if err := syscall.Pipe2(ends[:], syscall.O_CLOEXEC); err != nil {
		return -1, -1, err
	}
	ours, theirs = ends[0], ends[1]
	if write {
		ours, theirs = ends[1], ends[0]
	} else {
		// Fails at most for a user's limit on pipes, and then the pipe is just smaller.
		_, _, _ = syscall.Syscall(syscall.SYS_FCNTL, uintptr(ours), fSetPipeSize, pipeSize)
	}
	if uid != 0 || gid != 0 {
		if err := syscall.Fchown(ours, int(uid), int(gid)); err != nil {
			return -1, -1, err
		}
	}
	return ours, theirs, syscall.SetNonblock(ours, true)
}
