package run

import "testing"

func TestParseRecordFindsTheKernelsComplaints(t *testing.T) {
	for record, want := range map[string]bool{
		"4,1,100,-;WARNING: CPU: 0 PID: 1 at kernel/x.c:1 f+0x1/0x2\n SUBSYSTEM=x": true,
		"1,1,100,-;BUG: KASAN: use-after-free in f":                                true,
		"3,1,100,-;INFO: task x:1 blocked for more than 120 seconds.":              true,
		"6,1,100,-;eth0: link up\n DEVICE=WARNING:":                                false,
		"12,1,100,-;WARNING: said by user space":                                   false,
		"WARNING: no record":                                                       false,
		"x,1,1,-;WARNING:":                                                         false,
	} {
		if _, got := parseRecord(record); got != want {
			t.Errorf("%q: %v", record, got)
		}
	}
}
