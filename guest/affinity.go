package main

import (
	"os"
	"strconv"
	"syscall"
	"unsafe"
)

// cpuSet is a set of processors as sched_setaffinity(2) takes it; Linux has at most 8192.
type cpuSet [128]uint64

// everyCPU is what this program was started with, and what its commands get.
var everyCPU cpuSet

// stayOnFirstCPU keeps all threads of this program, and those they will start, on processor 0. There is
// never much to do at once here, and under emulation a processor that is woken for it runs code that
// is translated for nothing: a second one that sleeps until the command costs nothing.
func stayOnFirstCPU() error {
	if err := getAffinity(&everyCPU); err != nil {
		return err
	}
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	first := cpuSet{1}
	for _, entry := range entries {
		if id, err := strconv.Atoi(entry.Name()); err == nil {
			_ = setAffinity(id, &first)
		}
	}
	return nil
}

func getAffinity(set *cpuSet) error {
	_, _, errno := syscall.RawSyscall(syscall.SYS_SCHED_GETAFFINITY, 0, unsafe.Sizeof(*set), uintptr(unsafe.Pointer(set)))
	return errnoOrNil(errno)
}

// setAffinity moves the thread id, or the calling one if that is 0.
func setAffinity(id int, set *cpuSet) error {
	_, _, errno := syscall.RawSyscall(syscall.SYS_SCHED_SETAFFINITY, uintptr(id), unsafe.Sizeof(*set), uintptr(unsafe.Pointer(set)))
	return errnoOrNil(errno)
}
