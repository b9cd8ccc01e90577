package run

import (
	"fmt"
	"strings"
	"syscall"

	"vimto/guest/internal/sys"
	"vimto/guest/internal/wire"
)

// sysctlPath returns a kernel parameter's file below /proc/sys.
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
			// A kernel without core dumps lacks core_pattern and core_pipe_limit, which vimto itself sets.
			if strings.HasPrefix(s.Name, "kernel.core_p") && err == syscall.ENOENT {
				continue
			}
			return fmt.Errorf("sysctl `%s`: %w", s.Name, err)
		}
	}
	return nil
}

// resources holds the names of RLIMIT_* by their numbers (asm-generic/resource.h); package syscall has only
// some of them.
var resources = [...]string{
	"cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile", "memlock", "as", "locks",
	"sigpending", "msgqueue", "nice", "rtprio", "rttime",
}

// setLimits sets this process's limits, which the command inherits. It uses package syscall, which then knows
// not to put back the number of open files that the runtime found when it started.
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
