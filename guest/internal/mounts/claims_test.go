package mounts

import (
	"strings"
	"testing"
)

func TestClaimedFindsWhatSetupMounts(t *testing.T) {
	for _, c := range []struct {
		setup [][]string
		want  string
	}{
		{nil, ""},
		{[][]string{{"mount", "-t", "cgroup2", "none", "/sys/fs/cgroup"}}, "/sys/fs/cgroup"},
		{[][]string{{"/bin/mount", "-tdebugfs", "x", "/sys/kernel/debug/"}}, "/sys/kernel/debug"},
		{[][]string{{"sh", "-c", "mount -t tracefs t /mnt; mount -t bpf bpf /sys/fs/bpf"}}, "/sys/fs/bpf /sys/kernel/tracing"},
		{[][]string{{"mount", "-t", "tmpfs", "x", "/mnt"}}, ""},
		{[][]string{{"echo", "cgroup2"}}, ""},
	} {
		var got []string
		for _, f := range claimed(c.setup) {
			got = append(got, f.target)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%v: %v, want %s", c.setup, got, c.want)
		}
	}
}
