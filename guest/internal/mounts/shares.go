package mounts

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"vimto/guest/internal/sys"
	"vimto/guest/internal/wire"
)

// source is a directory of the host, as QEMU offers it.
type source struct {
	fs, tag, cache string
	msize          int
}

// mount mounts the source. The guest's kernel checks permissions, against the uid of whoever asks: that is
// what 9p does by default, with an attach for each user.
func (s source) mount(target string, flags uintptr) error {
	if s.fs == "virtiofs" {
		return mount(s.tag, target, "virtiofs", flags, "")
	}
	// QEMU keeps no extended attributes under security_model=none, and overlayfs would ask for one at each
	// directory and file that it looks up. Kernels before 6.4 ignore the option.
	options := "trans=virtio,version=9p2000.L,noxattr,msize=" + strconv.Itoa(s.msize) + ",cache=" + s.cache
	return mount(s.tag, target, "9p", flags, options)
}

// mountShare mounts a directory of the host at the same path, which it makes if the guest has none.
func mountShare(s wire.Share, msize int) error {
	if !strings.HasPrefix(s.Path, "/") {
		return fmt.Errorf("share `%s`: the path is not absolute", s.Path)
	}
	if err := makeMountPoint(s.Path); err != nil {
		return fmt.Errorf("share `%s`: %w", s.Path, err)
	}
	// A writable mmap needs a cache that knows dirty pages; "loose" would hide the host's changes.
	from, flags := source{fs: s.FS, tag: s.Tag, cache: "mmap", msize: msize}, uintptr(0)
	if s.Readonly {
		from.cache, flags = "loose", syscall.MS_RDONLY
	}
	if err := from.mount(s.Path, flags); err != nil {
		return fmt.Errorf("share `%s`: %w", s.Path, err)
	}
	return nil
}

// makeMountPoint makes a directory to mount on, or finds that there is one.
func makeMountPoint(path string) error {
	mode, err := sys.Mode(path)
	if err != nil {
		return os.MkdirAll(path, 0o755)
	}
	if mode&syscall.S_IFMT != syscall.S_IFDIR {
		return fmt.Errorf("`%s` is not a directory", path)
	}
	return nil
}
