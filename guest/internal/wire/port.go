package wire

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"vimto/guest/internal/sys"
)

// PortName is what the host calls our virtio-serial port.
const PortName = "vimto.agent"

// Port is the connection to the host. It is read and written with plain blocking system calls and never
// polled, because virtio_console loses a wake-up when one thread polls while another writes. An os.File would
// put the descriptor into epoll.
type Port struct {
	fd int

	mu sync.Mutex // held while a frame is written

	buf        []byte // buf[start:end] was read and is not consumed yet
	start, end int
}

func newPort(fd int) *Port {
	// A read never returns more than 4 KiB: virtio_console's receive buffers have one page each.
	return &Port{fd: fd, buf: make([]byte, 64<<10)}
}

// NewPair returns two ports that are connected to each other.
func NewPair() (here, there *Port, err error) {
	ends, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	return newPort(ends[0]), newPort(ends[1]), nil
}

// HangUp ends the connection both ways. What was sent before can still be read.
func (p *Port) HangUp() { _ = syscall.Shutdown(p.fd, syscall.SHUT_RDWR) }

// Close closes this end.
func (p *Port) Close() { syscall.Close(p.fd) }

// FindPort waits until the kernel shows a port of that name and returns its device's path.
func FindPort(name string, limit time.Duration) (string, error) {
	const class = "/sys/class/virtio-ports"
	deadline := time.Now().Add(limit)
	for {
		entries, _ := os.ReadDir(class)
		for _, entry := range entries {
			text, err := os.ReadFile(class + "/" + entry.Name() + "/name")
			if err == nil && string(sys.TrimNewline(text)) == name {
				return "/dev/" + entry.Name(), nil
			}
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("no virtio port `%s` after %s", name, limit)
		}
		sys.Pause(time.Millisecond)
	}
}

// OpenPort opens a port's device, which may appear in devtmpfs a moment after its class entry.
func OpenPort(path string, limit time.Duration) (*Port, error) {
	deadline := time.Now().Add(limit)
	for {
		fd, err := syscall.Open(path, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
		if err == nil {
			return newPort(fd), nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("open %s: %w", path, err)
		}
		sys.Pause(time.Millisecond)
	}
}

// Write sends one or more complete frames; no frame of others comes in between.
func (p *Port) Write(frame []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(frame) > 0 {
		n, err := syscall.Write(p.fd, frame)
		if err != nil && !errors.Is(err, syscall.EINTR) && !errors.Is(err, syscall.EAGAIN) {
			return fmt.Errorf("write to the port: %w", err)
		}
		if n > 0 {
			frame = frame[n:]
		}
	}
	return nil
}

// Send sends one frame.
func (p *Port) Send(k Kind, payload []byte) error { return p.Write(encode(k, payload)) }

// Next returns the next frame. The payload is valid until the next call. io.EOF means that the
// host closed its side between two frames.
func (p *Port) Next() (Kind, []byte, error) {
	if err := p.fill(HeaderSize); err != nil {
		return 0, nil, err
	}
	k, size, err := parseHeader(p.buf[p.start:])
	if err != nil {
		return k, nil, err
	}
	if err := p.fill(HeaderSize + size); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return k, nil, err
	}
	payload := p.buf[p.start+HeaderSize : p.start+HeaderSize+size]
	p.start += HeaderSize + size
	return k, payload, nil
}

// fill makes at least want bytes available at buf[start:end].
func (p *Port) fill(want int) error {
	if p.end-p.start >= want {
		return nil
	}
	if p.start+want > len(p.buf) {
		room := p.buf
		if want > len(p.buf) {
			room = make([]byte, want)
		}
		p.end = copy(room, p.buf[p.start:p.end])
		p.start, p.buf = 0, room
	} else if p.start == p.end {
		p.start, p.end = 0, 0
	}
	for p.end-p.start < want {
		n, err := syscall.Read(p.fd, p.buf[p.end:])
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return fmt.Errorf("read from the port: %w", err)
		case n == 0 && p.end > p.start:
			return io.ErrUnexpectedEOF
		case n == 0:
			return io.EOF
		default:
			p.end += n
		}
	}
	return nil
}
