package modules

import (
	"syscall"
	"testing"
)

func TestParseNode(t *testing.T) {
	name, mode, number, err := parseNode("tun net/tun c10:200")
	if err != nil || name != "net/tun" || mode != syscall.S_IFCHR || number != 10<<8|200 {
		t.Error(name, mode, number, err)
	}
	if _, mode, number, err := parseNode("x y b259:300"); err != nil || mode != syscall.S_IFBLK ||
		number != 259<<8|300&0xff|1<<20 {
		t.Error(mode, number, err)
	}
	for _, line := range []string{"", "# Device nodes to trigger on-demand module loading.", "a b", "a b c10",
		"a ../b c1:2", "a /b c1:2", "a b p1:2", "a b c1:x"} {
		if _, _, _, err := parseNode(line); err == nil {
			t.Errorf("`%s` was taken for a node", line)
		}
	}
}
