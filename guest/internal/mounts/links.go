package mounts

import (
	"os"
	"syscall"

	"vimto/guest/internal/sys"
	"vimto/guest/internal/wire"
)

// makeLinks makes symbolic links, with the directories they lie in. What is there already stays.
func makeLinks(links []wire.Link) {
	for _, l := range links {
		if syscall.Symlink(l.Target, l.Path) == syscall.ENOENT {
			_ = os.MkdirAll(sys.Parent(l.Path), 0o755)
			_ = syscall.Symlink(l.Target, l.Path)
		}
	}
}
