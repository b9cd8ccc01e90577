package process

import (
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"vimto/guest/internal/sys"
)

// CPUSet is a set of processors as sched_setaffinity(2) takes it; Linux has at most 8192.
type CPUSet [128]uint64

// EveryCPU is what this program was started with, and what its commands get.
var EveryCPU CPUSet

// StayOnFirstCPU keeps all threads of this program, and those they will start, on processor 0. There is
// never much to do at once here, and under emulation a processor that is woken for it runs code that
// is translated for nothing: a second one that sleeps until the command costs nothing.
func StayOnFirstCPU() error {
	if err := getAffinity(&EveryCPU); err != nil {
		return err
	}
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	first := CPUSet{1}
	for _, entry := range entries {
		if id, err := strconv.Atoi(entry.Name()); err == nil {
			_ = SetAffinity(id, &first)
		}
	}
	return nil
}

func getAffinity(set *CPUSet) error {
	_, _, errno := syscall.RawSyscall(syscall.SYS_SCHED_GETAFFINITY, 0, unsafe.Sizeof(*set), uintptr(unsafe.Pointer(set)))
	return sys.Err(errno)
}

// SetAffinity moves the thread id, or the calling one if that is 0.
func SetAffinity(id int, set *CPUSet) error {
	_, _, errno := syscall.RawSyscall(syscall.SYS_SCHED_SETAFFINITY, uintptr(id), unsafe.Sizeof(*set), uintptr(unsafe.Pointer(set)))
	return sys.Err(errno)
}
