package network

import (
	"os"
	"testing"
	"unsafe"
)

// The kernel's structures, by linux/if.h, linux/in.h and linux/route.h on a 64-bit machine.
func TestSizesOfTheKernelsStructures(t *testing.T) {
	for name, pair := range map[string][2]uintptr{
		"ifreq":       {unsafe.Sizeof(interfaceRequest{}), 40},
		"sockaddr_in": {unsafe.Sizeof(internetAddress{}), 16},
		"rtentry":     {unsafe.Sizeof(routeEntry{}), 120},
		"rt_flags":    {unsafe.Offsetof(routeEntry{}.flags), 56},
		"rt_dev":      {unsafe.Offsetof(routeEntry{}.device), 88},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %d, want %d", name, pair[0], pair[1])
		}
	}
}

func TestTheResolversFile(t *testing.T) {
	for link, file := range map[string]string{
		"":                               "/etc/resolv.conf",
		"../run/resolve/stub.conf":       "/run/resolve/stub.conf",
		"/run/resolve/resolv.conf":       "/run/resolve/resolv.conf",
		"../../../../run/out/of/it.conf": "/run/out/of/it.conf",
	} {
		root := t.TempDir()
		err := os.Mkdir(root+"/etc", 0o755)
		if err == nil && link != "" {
			err = os.Symlink(link, root+"/etc/resolv.conf")
		}
		if err == nil {
			err = writeResolver(root)
		}
		text, readErr := os.ReadFile(root + file)
		if err != nil || readErr != nil || string(text) != "nameserver 10.0.2.3\n" {
			t.Errorf("%s: %q, %v, %v", link, text, err, readErr)
		}
	}
}
