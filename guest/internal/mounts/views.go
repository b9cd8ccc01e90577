package mounts

import (
	"fmt"
	"os"
	"syscall"

	"vimto/guest/internal/sys"
	"vimto/guest/internal/wire"
)

// mountViews shows single files and directories of the host in the new root's private directories, where
// they look and behave as in the rest of the root. All are parts of one overlay, which nobody can reach as a
// whole once the new root is ours.
func mountViews(views []wire.View) error {
	whole := overlay{target: viewRoot, lower: []string{hostRoot}}
	for i, v := range views {
		if i == 0 {
			if err := whole.mount("-views", ""); err != nil {
				return err
			}
		}
		if err := bind(viewRoot+v.Source, newRoot+v.Path); err != nil {
			return fmt.Errorf("view `%s`: %w", v.Path, err)
		}
	}
	return nil
}

// bind mounts what is at source at target too, and makes a mount point for it there.
func bind(source, target string) error {
	mode, err := sys.Mode(source)
	if err != nil {
		return nil // it is gone meanwhile; whoever needs it will say so
	}
	if mode&syscall.S_IFMT == syscall.S_IFDIR {
		err = makeMountPoint(target)
	} else {
		err = makeFile(target)
	}
	if err != nil {
		return err
	}
	return mount(source, target, "", syscall.MS_BIND, "")
}

func makeFile(path string) error {
	if err := os.MkdirAll(sys.Parent(path), 0o755); err != nil {
		return err
	}
	fd, err := syscall.Open(path, syscall.O_CREAT|syscall.O_WRONLY|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	return syscall.Close(fd)
}
