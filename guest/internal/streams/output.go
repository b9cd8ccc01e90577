package streams

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"vimto/guest/internal/wire"
)

const (
	pipeSize = 1 << 20
	maxTail  = 2 << 10
	maxLine  = 64 << 10 // of a notice; a longer one is shown in pieces
)

// Output carries what a process writes to the host, as a stream of the command's or as notices. Reading
// can be ended from outside while a grandchild keeps the other end open. The runtime's poller could do
// that for an os.File, but it is a lot of code, and code takes time when a restored machine first runs it.
type Output struct {
	kind    wire.Kind // KindNotice has no credit
	level   string    // of the notices
	tail    []byte    // the end of what was sent as notices, for an error message
	line    []byte    // the beginning of a line whose rest has not come, for the next notice
	fd      int       // does not block
	closeFD func()
	closing sync.Once
	stopped atomic.Bool
	waking  [2]int // a pipe that hangs up when stopped is set
	credit  *wire.Credit
	done    chan struct{}
}

// NewNotices returns an output that makes notices of what is written, and the descriptor for whoever
// writes it, which the caller closes.
func NewNotices(level string) (out *Output, theirs int, err error) {
	ours, theirs, err := makePipe(0, 0, false)
	if err != nil {
		return nil, -1, err
	}
	out, err = newOutput(wire.KindNotice, ours)
	if err == nil {
		out.level = level
	}
	return out, theirs, err
}

// newOutput returns an output that reads from fd and owns it.
func newOutput(k wire.Kind, fd int) (*Output, error) {
	s := &Output{kind: k, fd: fd, credit: wire.NewCredit(wire.OutputWindow), done: make(chan struct{})}
	s.closeFD = func() { syscall.Close(fd) }
	if err := syscall.Pipe2(s.waking[:], syscall.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	return s, nil
}

// Tail returns the last of what was sent as notices.
func (s *Output) Tail() string { return string(s.tail) }

// Pump sends what the command writes until nobody can write any more, or until Finish. While the host
// has a whole window unacknowledged, the pipe is not read, and the command waits as at any full pipe.
func (s *Output) Pump(p *wire.Port) {
	defer close(s.done)
	defer s.endLine(p)
	frame := make([]byte, wire.HeaderSize+wire.MaxStream)
	for {
		room := s.credit.Wait()
		if room == 0 {
			s.close()
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

// wait blocks until there is something to read, or stopped is set.
func (s *Output) wait() {
	const readable = 1 // POLLIN; a hang-up ends the wait in any case
	type pollFD struct {
		fd              int32
		events, revents int16
	}
	fds := [2]pollFD{{int32(s.fd), readable, 0}, {int32(s.waking[0]), readable, 0}}
	_, _, _ = syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&fds)), uintptr(len(fds)), 0, 0, 0, 0)
}

// stop tells Pump to end.
func (s *Output) stop() {
	if !s.stopped.Swap(true) {
		syscall.Close(s.waking[1])
	}
}

// Finish lets Pump send what is in the pipe now and return, whoever may still have it open, and waits for it.
func (s *Output) Finish() {
	s.stop()
	<-s.done
	s.close()
}

// Cancel closes an output to which nobody will ever write, and for which no Pump runs.
func (s *Output) Cancel() {
	s.stop()
	s.close()
}

// abandon closes the pipe, whose reader on the host is gone: the command's next write meets EPIPE.
func (s *Output) abandon() {
	s.credit.Close()
	s.stop()
}

func (s *Output) close() {
	s.closing.Do(func() {
		s.closeFD()
		syscall.Close(s.waking[0])
	})
}

// drain sends at most what a pipe can hold, lest a grandchild that goes on writing hold up the end.
func (s *Output) drain(p *wire.Port, frame []byte) {
	for left := pipeSize; left > 0; {
		room := s.credit.Wait()
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

// emit sends the n bytes of payload in frame.
func (s *Output) emit(p *wire.Port, frame []byte, n int) error {
	frame = frame[:wire.HeaderSize+n]
	if s.kind == wire.KindNotice {
		return s.notify(p, frame[wire.HeaderSize:])
	}
	s.credit.Spend(n)
	wire.Seal(frame, s.kind)
	return p.Write(frame)
}

// notify sends whole lines, to which the host adds the last newline.
func (s *Output) notify(p *wire.Port, text []byte) error {
	s.tail = append(s.tail, text...)
	s.tail = s.tail[max(0, len(s.tail)-maxTail):]
	s.line = append(s.line, text...)
	end := bytes.LastIndexByte(s.line, '\n')
	if end < 0 && len(s.line) < maxLine {
		return nil
	}
	if end < 0 {
		end = len(s.line)
	}
	whole := wire.Notice{Level: s.level, Text: string(s.line[:end])}
	s.line = s.line[min(end+1, len(s.line)):]
	return p.Write(whole.Frame())
}

// endLine sends what came after the last newline.
func (s *Output) endLine(p *wire.Port) {
	if len(s.line) > 0 {
		_ = p.Write(wire.Notice{Level: s.level, Text: string(s.line)}.Frame())
	}
}

// makePipe returns a big pipe that belongs to the command's user, who may open /dev/stdout anew. Ours is
// the read end, or the write end if write is set, and does not block.
func makePipe(uid, gid uint32, write bool) (ours, theirs int, err error) {
	const setPipeSize = 1031 // F_SETPIPE_SZ
	var ends [2]int
	if err := syscall.Pipe2(ends[:], syscall.O_CLOEXEC); err != nil {
		return -1, -1, err
	}
	ours, theirs = ends[0], ends[1]
	if write {
		ours, theirs = ends[1], ends[0]
	} else {
		// This can only fail at a user's limit on pipes, and then the pipe is smaller.
		_, _, _ = syscall.Syscall(syscall.SYS_FCNTL, uintptr(ours), setPipeSize, pipeSize)
	}
	if uid != 0 || gid != 0 {
		if err := syscall.Fchown(ours, int(uid), int(gid)); err != nil {
			return -1, -1, err
		}
	}
	return ours, theirs, syscall.SetNonblock(ours, true)
}
