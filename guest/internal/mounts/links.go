package mounts

import (
	"os"
	"syscall"

	"vimto/guest/internal/sys"
	"vimto/guest/internal/wire"
)

// What the guest's root has of the host's besides the mounts: a file that every machine needs its own
// of, and links in directories that are the guest's own.

// hostsFile is where the host's table of names is, to which the order adds the guest's.
const hostsFile = "/etc/hosts"

// stageHosts makes the file in the overlay's upper directory. Before the save: to write it costs a
// restored machine less than to copy the host's up.
func stageHosts(upper string) error {
	if err := os.Mkdir(upper+"/etc", 0o755); err != nil {
		return err
	}
	return os.WriteFile(upper+hostsFile, nil, 0o644)
}

// makeLinks makes symbolic links, with the directories they lie in. What is there already stays.
func makeLinks(links []wire.Link) {
	for _, l := range links {
		if syscall.Symlink(l.Target, l.Path) == syscall.ENOENT {
			_ = os.MkdirAll(sys.Parent(l.Path), 0o755)
			_ = syscall.Symlink(l.Target, l.Path)
		}
	}
}
