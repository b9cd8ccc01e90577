package console

import (
	"fmt"
	"os"
	"runtime/debug"
	"syscall"
)

// Open points stdout and stderr at the console, or, where there is none, at the kernel's log,
// so that even the runtime's last words are seen.
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

func Logf(format string, arguments ...any) {
	fmt.Fprintf(os.Stderr, "vimto: "+format+"\n", arguments...)
}

func LogPanic(cause any) { Logf("panic: %v\n%s", cause, debug.Stack()) }
