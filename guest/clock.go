package main

import (
	"encoding/binary"
	"runtime"
	"syscall"
	"time"
	"unsafe"
)

const (
	clockLimit = 5 * time.Second

	rndAddEntropy = 0x40085203
	rndReseedCRNG = 0x5207
)

// setClock sets CLOCK_REALTIME to the host's time at sending plus what has passed here since.
func setClock(hostNS int64, received time.Time) error {
	if hostNS == 0 {
		return nil
	}
	ts := syscall.NsecToTimespec(hostNS + time.Since(received).Nanoseconds())
	_, _, errno := syscall.Syscall(syscall.SYS_CLOCK_SETTIME, 0, uintptr(unsafe.Pointer(&ts)), 0)
	return errnoOrNil(errno)
}

// addEntropy credits the host's random bytes and makes the kernel use them at once. Every VM that is
// restored from one save has the same generator until then, and would draw the same names.
func addEntropy(seed []byte) error {
	if len(seed) == 0 {
		return nil
	}
	fd, err := syscall.Open("/dev/urandom", syscall.O_WRONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	// struct rand_pool_info: two ints, then the bytes. The kernel counts bits.
	info := make([]byte, 8+len(seed))
	binary.NativeEndian.PutUint32(info, uint32(8*len(seed)))
	binary.NativeEndian.PutUint32(info[4:], uint32(len(seed)))
	copy(info[8:], seed)
	if err := ioctl(fd, rndAddEntropy, unsafe.Pointer(&info[0])); err != nil {
		return err
	}
	runtime.KeepAlive(info)
	return ioctl(fd, rndReseedCRNG, nil)
}
