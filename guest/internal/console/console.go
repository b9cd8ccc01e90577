// Package console is where the guest program says what no order is about.
package console

import (
	"fmt"
	"os"
	"runtime/debug"
	"syscall"
)

// Open leads stdout and stderr to the console or, where there is none, to the kernel's log, so that even what
// the Go runtime says before it gives up is seen.
func Open() {
	for _, path := range []string{"/dev/console", "/dev/kmsg"} {
		fd, err := syscall.Open(path, syscall.O_WRONLY|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		_ = syscall.Dup3(fd, 1, 0)
		_ = syscall.Dup3(fd, 2, 0)
		if fd > 2 {
			syscall.Close(fd)
		}
		return
	}
}

// Logf writes a line.
func Logf(format string, arguments ...any) {
	fmt.Fprintf(os.Stderr, "vimto: "+format+"\n", arguments...)
}

// LogPanic writes what a panic was about, and the stack.
func LogPanic(cause any) { Logf("panic: %v\n%s", cause, debug.Stack()) }
