package run

import (
	"encoding/binary"
	"syscall"
	"time"
	"unsafe"

	"vimto/guest/internal/wire"
)

// The guest forgets a file in a writable share when nobody has it open, so that it sees what the host changes.
// Hence a program that is executed again is read again and, under emulation, translated again: one of 5 MB
// takes 1.6 s instead of 0.5 s on a busy machine. So a file that was executed is kept open for a moment, for
// tests that run a helper time after time.

const (
	// A command that ends sooner does not run anything often enough to pay for the code below.
	holdDelay = 300 * time.Millisecond
	// While a file is held, the guest does not see that the host has put another one in its place; some
	// kernels even mix up the two. So it is looked at often, and soon let go.
	holdCheck = 100 * time.Millisecond
	holdLimit = 2 * time.Second
	holdCount = 16

	fanCloexec   = 0x1
	fanMarkAdd   = 0x1
	fanMarkMount = 0x10
	fanOpenExec  = 0x1000
	atCWD        = ^uintptr(99) // AT_FDCWD, -100
	fanEventSize = 24
)

// held is a file that was executed and is kept open, with its state at that time.
type held struct {
	fd    int
	state syscall.Stat_t
	until time.Time
}

// holder keeps open what is executed from the directories that it watches.
type holder struct {
	events int // fanotify group
	files  []held
}

// holdExecuted keeps open what is executed from the shares. It returns if the kernel cannot report that.
func holdExecuted(shares []wire.Share) {
	pause := syscall.NsecToTimespec(int64(holdDelay))
	_ = syscall.Nanosleep(&pause, nil)
	fd, _, errno := syscall.Syscall(syscall.SYS_FANOTIFY_INIT, fanCloexec, 0, 0)
	if errno != 0 {
		return
	}
	for _, s := range shares {
		path, err := syscall.BytePtrFromString(s.Path)
		if err == nil && !s.Readonly { // the guest caches read-only ones
			_, _, _ = syscall.Syscall6(syscall.SYS_FANOTIFY_MARK, fd, fanMarkAdd|fanMarkMount, fanOpenExec,
				atCWD, uintptr(unsafe.Pointer(path)), 0)
		}
	}
	h := &holder{events: int(fd)}
	for h.wait() {
		h.release(time.Now())
	}
}

// wait takes files as they are executed. It returns when it has taken some, or when it is time to look at those
// that are held; false means that no more will come.
func (h *holder) wait() bool {
	var timeout *syscall.Timespec
	if len(h.files) > 0 {
		check := syscall.NsecToTimespec(int64(holdCheck))
		timeout = &check
	}
	poll := struct {
		fd              int32
		events, revents int16
	}{int32(h.events), 1, 0}
	n, _, errno := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&poll)), 1,
		uintptr(unsafe.Pointer(timeout)), 0, 0, 0)
	if errno != 0 && errno != syscall.EINTR {
		return false
	}
	if errno != 0 || n == 0 {
		return true
	}
	var buffer [64 * fanEventSize]byte
	size, err := syscall.Read(h.events, buffer[:])
	for event := buffer[:max(size, 0)]; len(event) >= fanEventSize; event = event[fanEventSize:] {
		if fd := int32(binary.NativeEndian.Uint32(event[16:])); fd >= 0 {
			h.take(int(fd), time.Now())
		}
	}
	// EACCES is for a file that not even we may open; the next one may be open to us.
	return err != syscall.EBADF && err != syscall.EINVAL
}

// take holds an open file. It replaces an older descriptor of the same file.
func (h *holder) take(fd int, now time.Time) {
	file := held{fd: fd, until: now.Add(holdLimit)}
	if syscall.Fstat(fd, &file.state) != nil {
		syscall.Close(fd)
		return
	}
	h.drop(func(other held) bool { return sameFile(file.state, other.state) })
	if len(h.files) == holdCount {
		syscall.Close(h.files[0].fd)
		h.files = h.files[1:]
	}
	h.files = append(h.files, file)
}

// release lets go of files that were not executed again, and of those that the host has changed.
func (h *holder) release(now time.Time) {
	h.drop(func(file held) bool {
		var state syscall.Stat_t
		return now.After(file.until) || syscall.Fstat(file.fd, &state) != nil ||
			state.Size != file.state.Size || state.Mtim != file.state.Mtim
	})
}

// drop lets go of the files for which doomed is true.
func (h *holder) drop(doomed func(held) bool) {
	kept := h.files[:0]
	for _, file := range h.files {
		if doomed(file) {
			syscall.Close(file.fd)
		} else {
			kept = append(kept, file)
		}
	}
	h.files = kept
}

func sameFile(a, b syscall.Stat_t) bool { return a.Dev == b.Dev && a.Ino == b.Ino }
