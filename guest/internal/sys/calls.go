package sys

import (
	"syscall"
	"time"
	"unsafe"
)

// Err keeps a zero errno from becoming a non-nil error.
func Err(errno syscall.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

func Ioctl(fd int, request uintptr, argument unsafe.Pointer) error {
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, uintptr(argument))
	return Err(errno)
}

// Pause is time.Sleep without the runtime's timers: with them come its poller and, whenever there is
// nothing to do, a visit to it, and the code of both would be new to every restored machine.
func Pause(d time.Duration) {
	ts := syscall.NsecToTimespec(d.Nanoseconds())
	_ = syscall.Nanosleep(&ts, nil)
}
