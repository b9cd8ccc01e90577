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

// everyCPU holds the processors that this program was started with, all of which its commands get.
var everyCPU CPUSet

// StayOnFirstCPU keeps all threads of this program, and those that they will start, on processor 0. There
// is never much to do at once here, and a processor that is woken for it runs code that an emulator
// translates for nothing, whereas one that sleeps until the command starts costs nothing.
func StayOnFirstCPU() error {
	if err := getAffinity(&everyCPU); err != nil {
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

// OtherCPUs returns all processors but the first, and whether there are any.
func OtherCPUs() (others CPUSet, ok bool) {
	others = everyCPU
	others[0] &^= 1
	return others, others != CPUSet{}
}

func getAffinity(set *CPUSet) error {
	_, _, errno := syscall.RawSyscall(syscall.SYS_SCHED_GETAFFINITY, 0, unsafe.Sizeof(*set), uintptr(unsafe.Pointer(set)))
	return sys.Err(errno)
}

// SetAffinity moves a thread, or the calling one if id is 0, to the processors in set.
func SetAffinity(id int, set *CPUSet) error {
	_, _, errno := syscall.RawSyscall(syscall.SYS_SCHED_SETAFFINITY, uintptr(id), unsafe.Sizeof(*set), uintptr(unsafe.Pointer(set)))
	return sys.Err(errno)
}
