package modules

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"vimto/guest/internal/sys"
)

// openNodes are devices that every user may open, by udev's 50-udev-default.rules; the kernel itself makes
// them for root only.
var openNodes = []string{"net/tun", "fuse", "vsock"}

// MakeNodes makes the device nodes whose opening loads a module: /dev/net/tun, /dev/fuse and others. On
// a host kmod-static-nodes.service and systemd-tmpfiles do that. A kernel without modules has no list.
func MakeNodes(dev, root string) {
	text, _ := sys.ReadFile(findModules(root).dir + "/modules.devname")
	for text != "" {
		var line string
		line, text, _ = strings.Cut(text, "\n")
		name, mode, number, err := parseNode(line)
		if err != nil {
			continue
		}
		path := filepath.Join(dev, name)
		_ = os.MkdirAll(filepath.Dir(path), 0o755)
		_ = syscall.Mknod(path, mode|0o600, number)
	}
	for _, name := range openNodes {
		_ = syscall.Chmod(dev+"/"+name, 0o666)
	}
}

// parseNode reads a line of modules.devname (depmod(8)): module, path below /dev, and type, major and
// minor as in `c10:200`.
func parseNode(line string) (name string, mode uint32, number int, err error) {
	fields := strings.Fields(line)
	if len(fields) != 3 || strings.HasPrefix(line, "#") || !filepath.IsLocal(fields[1]) {
		return "", 0, 0, fmt.Errorf("`%s` is not a device node", line)
	}
	var kind byte
	var major, minor int
	if _, err := fmt.Sscanf(fields[2], "%c%d:%d", &kind, &major, &minor); err != nil {
		return "", 0, 0, err
	}
	switch kind {
	case 'c':
		mode = syscall.S_IFCHR
	case 'b':
		mode = syscall.S_IFBLK
	default:
		return "", 0, 0, fmt.Errorf("`%s` is neither a character nor a block device", line)
	}
	// makedev(3), as mknod(2) takes it.
	number = minor&0xff | (major&0xfff)<<8 | (minor&^0xff)<<12
	return fields[1], mode, number, nil
}
