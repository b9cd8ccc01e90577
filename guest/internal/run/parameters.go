package run

import (
	"fmt"
	"strings"
	"syscall"

	"vimto/guest/internal/sys"
	"vimto/guest/internal/wire"
)

// sysctlPath returns the parameter's file below /proc/sys.
func sysctlPath(s wire.Sysctl) string {
	path := []byte(s.Name)
	for i, c := range path {
		if c == '/' {
			return s.Name
		}
		if c == '.' {
			path[i] = '/'
		}
	}
	return string(path)
}

// setSysctls writes the kernel parameters.
func setSysctls(values []wire.Sysctl) error {
	for _, s := range values {
		if err := sys.WriteFile("/proc/sys/"+sysctlPath(s), s.Value); err != nil {
			// A kernel without core dumps has neither; nobody asked for them by name.
			if strings.HasPrefix(s.Name, "kernel.core_p") && err == syscall.ENOENT {
				continue
			}
			return fmt.Errorf("sysctl `%s`: %w", s.Name, err)
		}
	}
	return nil
}

// resources are the names of RLIMIT_* by their numbers (asm-generic/resource.h); package syscall has
// only some.
var resources = [...]string{
	"cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile", "memlock", "as", "locks",
	"sigpending", "msgqueue", "nice", "rtprio", "rttime",
}

// setLimits sets this process's limits, which the command inherits. Through package syscall, so that
// the runtime does not put its own idea of the number of open files back when the command starts.
func setLimits(limits []wire.Limit) error {
	for _, l := range limits {
		resource := limitNumber(l)
		if resource < 0 {
			return fmt.Errorf("unknown resource limit `%s`", l.Name)
		}
		if err := syscall.Setrlimit(resource, &syscall.Rlimit{Cur: l.Soft, Max: l.Hard}); err != nil {
			return fmt.Errorf("resource limit `%s`: %w", l.Name, err)
		}
	}
	return nil
}

// limitNumber returns the limit's RLIMIT_* number, or -1.
func limitNumber(l wire.Limit) int {
	for number, name := range resources {
		if name == l.Name {
			return number
		}
	}
	return -1
}
