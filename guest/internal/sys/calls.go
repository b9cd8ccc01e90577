package sys

import (
	"syscall"
	"time"
	"unsafe"
)

// Err returns nil for 0, of which a conversion to error would make a non-nil one.
func Err(errno syscall.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

// Ioctl is ioctl(2).
func Ioctl(fd int, request uintptr, argument unsafe.Pointer) error {
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, uintptr(argument))
	return Err(errno)
}

// Clone makes the file out a copy of in that shares its blocks, FICLONE of ioctl_ficlone(2).
func Clone(out, in int) error {
	const ficlone = 0x40049409
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(out), ficlone, uintptr(in))
	return Err(errno)
}

// Pause is time.Sleep without the runtime's timers. Timers start its poller, which the runtime then visits
// whenever there is nothing to do, and the code of both would be new to every restored machine.
func Pause(d time.Duration) {
	ts := syscall.NsecToTimespec(d.Nanoseconds())
	_ = syscall.Nanosleep(&ts, nil)
}
