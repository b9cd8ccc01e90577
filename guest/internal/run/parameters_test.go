package run

import (
	"syscall"
	"testing"

	"vimto/guest/internal/wire"
)

func TestSysctlPath(t *testing.T) {
	for name, want := range map[string]string{
		"kernel.core_pattern":            "kernel/core_pattern",
		"net/ipv4/conf/eth0.1/rp_filter": "net/ipv4/conf/eth0.1/rp_filter",
		"vm":                             "vm",
	} {
		if got := sysctlPath(wire.Sysctl{Name: name}); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestLimitsHaveTheKernelsNumbers(t *testing.T) {
	for name, want := range map[string]int{
		"cpu": syscall.RLIMIT_CPU, "core": syscall.RLIMIT_CORE, "nofile": syscall.RLIMIT_NOFILE, "as": syscall.RLIMIT_AS,
		"nproc": 6, "memlock": 8, "rttime": 15, "none": -1,
	} {
		if got := limitNumber(wire.Limit{Name: name}); got != want {
			t.Errorf("%s: %d, want %d", name, got, want)
		}
	}
}

func TestErrorsNameTheParameter(t *testing.T) {
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_CORE, &old); err != nil {
		t.Fatal(err)
	}
	if err := setLimits([]wire.Limit{{Name: "core", Soft: old.Cur, Hard: old.Max}}); err != nil {
		t.Error(err)
	}
	err := setLimits([]wire.Limit{{Name: "none"}})
	if err == nil || err.Error() != "unknown resource limit `none`" {
		t.Error(err)
	}
	err = setSysctls([]wire.Sysctl{{Name: "none.of.that.name"}})
	if err == nil || err.Error() != "sysctl `none.of.that.name`: no such file or directory" {
		t.Error(err)
	}
	if err := setSysctls([]wire.Sysctl{{Name: "kernel.core_pipe_none"}}); err != nil {
		t.Error(err)
	}
}
