package streams

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"vimto/guest/internal/sys"
	"vimto/guest/internal/wire"
)

const (
	tiocGPtn    = 0x80045430
	tiocSPtLock = 0x40045431
	ttyGroup    = 5 // devpts is mounted with gid=5, "tty" in Debian's and Fedora's base files
)

// terminal is a pseudo-terminal: the command has the slave as its controlling terminal.
type terminal struct {
	master int
	file   *os.File // of master, for the runtime's poller
	slave  int
}

// openTerminal makes a terminal of that size, which belongs to uid.
func openTerminal(cells wire.Size, uid uint32) (*terminal, error) {
	master, err := syscall.Open("/dev/ptmx", syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/ptmx: %w", err)
	}
	var number, unlocked int32
	if err := sys.Ioctl(master, tiocSPtLock, unsafe.Pointer(&unlocked)); err != nil {
		return nil, fmt.Errorf("unlock the terminal: %w", err)
	}
	if err := sys.Ioctl(master, tiocGPtn, unsafe.Pointer(&number)); err != nil {
		return nil, fmt.Errorf("get the terminal's number: %w", err)
	}
	path := fmt.Sprintf("/dev/pts/%d", number)
	slave, err := syscall.Open(path, syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if err := syscall.Fchown(slave, int(uid), ttyGroup); err != nil {
		return nil, fmt.Errorf("chown %s: %w", path, err)
	}
	t := &terminal{master: master, file: os.NewFile(uintptr(master), "pty"), slave: slave}
	return t, t.resize(cells)
}

// resize tells the terminal its size; the kernel sends SIGWINCH to the foreground group.
func (t *terminal) resize(cells wire.Size) error {
	winsize := [4]uint16{cells.Rows, cells.Cols}
	return sys.Ioctl(t.master, syscall.TIOCSWINSZ, unsafe.Pointer(&winsize))
}

// foreground returns the process group that the terminal's keys would signal, or 0.
func (t *terminal) foreground() int {
	var group int32
	if sys.Ioctl(t.master, syscall.TIOCGPGRP, unsafe.Pointer(&group)) != nil {
		return 0
	}
	return int(group)
}
