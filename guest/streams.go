package main

import (
	"encoding/binary"
	"errors"
	"os"
	"syscall"
	"time"
)

const (
	fSetPipeSize  = 1031
	pipeSize      = 1 << 20
	maxTail       = 2 << 10
	endOfFileChar = 4 // VEOF of a terminal in its default state
)

// Numbers of the streams in an ack frame.
const (
	streamStdin  = 0
	streamStdout = 1
	streamStderr = 2
)

func ackFrame(stream byte, n int) []byte {
	frame := make([]byte, headerSize+5)
	frame[headerSize] = stream
	binary.LittleEndian.PutUint32(frame[headerSize+1:], uint32(n))
	seal(frame, kindAck)
	return frame
}

// output carries one of the command's streams to the host. Its end of the pipe is an os.File (the
// runtime's poller), so that a read can be ended from outside while a grandchild keeps the other end.
type output struct {
	kind   kind   // kindNotice: setup and teardown commands, which have no credit
	tail   []byte // the end of what was sent as notices, for an error message
	fd     int    // the same descriptor as file's; file.Fd() would make it blocking
	file   *os.File
	credit *credit
	done   chan struct{}
}

func newOutput(k kind, fd int) *output {
	return &output{
		kind: k, fd: fd, file: os.NewFile(uintptr(fd), "output"),
		credit: newCredit(outputWindow), done: make(chan struct{}),
	}
}

// pump sends what the command writes until nobody can write any more, or until finish. While the host
// has a whole window unacknowledged, the pipe is not read, and the command waits like at any full pipe.
func (s *output) pump(p *port) {
	defer close(s.done)
	frame := make([]byte, headerSize+maxStream)
	for {
		room := s.credit.wait()
		if room == 0 {
			return
		}
		n, err := s.file.Read(frame[headerSize : headerSize+min(room, maxStream)])
		if n > 0 && s.emit(p, frame, n) != nil {
			return
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			s.drain(p, frame)
			return
		}
		if err != nil { // io.EOF; EIO is a pty's
			return
		}
	}
}

// finish lets pump send what is in the pipe now and return, whoever may still have it open.
func (s *output) finish() {
	_ = s.file.SetReadDeadline(time.Unix(1, 0))
	<-s.done
	s.file.Close()
}

// abandon closes the pipe, whose reader on the host is gone: the command's next write meets EPIPE.
func (s *output) abandon() {
	s.credit.close()
	s.file.Close()
}

// drain sends at most what a pipe can hold, lest a grandchild that goes on writing hold up the end.
func (s *output) drain(p *port, frame []byte) {
	for left := pipeSize; left > 0; {
		room := s.credit.wait()
		if room == 0 {
			return
		}
		n, err := syscall.Read(s.fd, frame[headerSize:headerSize+min(room, left, maxStream)])
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || n <= 0 || s.emit(p, frame, n) != nil {
			return
		}
		left -= n
	}
}

func (s *output) emit(p *port, frame []byte, n int) error {
	if s.kind == kindNotice {
		text := frame[headerSize : headerSize+n]
		s.tail = append(s.tail, text...)
		s.tail = s.tail[max(0, len(s.tail)-maxTail):]
		return p.write(notice{"setup", string(text)}.frame())
	}
	s.credit.spend(n)
	frame = frame[:headerSize+n]
	seal(frame, s.kind)
	return p.write(frame)
}

// input carries the host's stdin frames to the command.
type input struct {
	queue    *queue
	terminal bool
}

// pump writes what comes to file, acknowledges it, and closes file at the end; a terminal gets its
// end-of-file character instead. A command that reads no more lets the rest vanish, as a pipe would.
func (s *input) pump(p *port, file *os.File) {
	broken := false
	for {
		chunk, ok := s.queue.take()
		if !ok {
			break
		}
		if !broken {
			_, err := file.Write(chunk)
			broken = err != nil
		}
		s.queue.consumed(len(chunk))
		if p.write(ackFrame(streamStdin, len(chunk))) != nil {
			break
		}
	}
	if s.terminal {
		_, _ = file.Write([]byte{endOfFileChar})
		return
	}
	file.Close()
}

// makePipe returns a big pipe owned by the command's user, who may open /dev/stdout anew. Ours is the
// end that is not blocking: the read end, or the write end if write is set.
func makePipe(uid, gid uint32, write bool) (ours, theirs int, err error) {
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
