package process

import (
	"os"
	"os/signal"
	"syscall"
	"unsafe"
)

const (
	byDefault = 0
	ignored   = 1
	// perThread is what the runtime tells its threads by to make a system call each.
	perThread = 33
)

// action is the kernel's struct sigaction.
type action struct {
	handler        uintptr
	flags          uint64
	restorer, mask uintptr
}

// foreign are signals of libc's, for which the runtime has no handler.
var foreign = [...]syscall.Signal{perThread - 1, perThread + 1}

// ResetSignals makes this process one that no signal ends, as everybody expects of PID 1: a handler of the
// runtime's would end it. They are ignored, not at their defaults: those the kernel keeps from PID 1, but
// not while its main thread blocks them. A command finds all at their defaults nevertheless, for so
// the runtime leaves what it had a handler for; of the others see withDefaults.
func ResetSignals() {
	for number := syscall.Signal(1); number <= 64; number++ {
		switch number {
		case syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGFPE, perThread: // a fault of our own becomes a panic
		case syscall.SIGCHLD: // nothing to deliver at each child's end, and the children are left to wait4
			setAction(number, action{handler: byDefault})
		default:
			if actionOf(number).handler != byDefault {
				setAction(number, action{handler: ignored})
			}
		}
	}
	for _, number := range foreign {
		setAction(number, action{handler: ignored})
	}
	// A fault that somebody sends with kill(2) the runtime gives to whoever wants it: nobody reads these.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGFPE)
}

// withDefaults starts a process that does not inherit what we ignore of the foreign signals.
func withDefaults(start func() (int, error)) (int, error) {
	for _, number := range foreign {
		setAction(number, action{handler: byDefault})
		defer setAction(number, action{handler: ignored})
	}
	return start()
}

func setAction(number syscall.Signal, a action) {
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(number),
		uintptr(unsafe.Pointer(&a)), 0, unsafe.Sizeof(a.mask), 0, 0)
}

func actionOf(number syscall.Signal) (a action) {
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(number),
		0, uintptr(unsafe.Pointer(&a)), unsafe.Sizeof(a.mask), 0, 0)
	return a
}
