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
	// perThread is the signal by which the runtime makes each of its threads do a system call.
	perThread = 33
)

// action is the kernel's struct sigaction.
type action struct {
	handler        uintptr
	flags          uint64
	restorer, mask uintptr
}

// foreign are libc's own signals, for which the runtime has no handler.
var foreign = [...]syscall.Signal{perThread - 1, perThread + 1}

// ResetSignals makes this a process that no signal ends, as everybody expects of PID 1: the runtime's handlers
// would end it. Signals are ignored, not left at their defaults, because the kernel keeps a default action
// from PID 1 only while its main thread does not block the signal. Commands find all signals at their
// defaults nevertheless, since the runtime resets those that it had a handler for; see withDefaults for the
// others.
func ResetSignals() {
	for number := syscall.Signal(1); number <= 64; number++ {
		switch number {
		case syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGFPE, perThread: // a fault in this program becomes a panic
		case syscall.SIGCHLD: // no signal at each child's end, but children wait for wait4
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
	// If somebody sends one of these with kill(2), the runtime passes it to this channel, which nobody reads.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGFPE)
}

// withDefaults starts a process that does not inherit that we ignore the foreign signals.
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
