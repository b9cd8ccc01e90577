package run

import (
	"reflect"
	"testing"
)

func TestBlockMountsAreInnermostFirst(t *testing.T) {
	text := `22 1 0:21 / / rw - overlay overlay rw
30 22 254:0 / /mnt rw,relatime - ext4 /dev/vda rw
31 30 7:0 / /mnt/a\040b rw,relatime - squashfs /dev/loop0 ro
32 22 0:30 / /mnt/a\040b/src rw - 9p share0 rw
`
	if found := blockMounts(text); !reflect.DeepEqual(found, []string{"/mnt/a b", "/mnt"}) {
		t.Errorf("found %q", found)
	}
}
