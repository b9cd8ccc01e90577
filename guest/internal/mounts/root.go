package mounts

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"vimto/guest/internal/sys"
	"vimto/guest/internal/wire"
)

// Root mounts the host's root, the kernel's files over it and a tmpfs over both, moves the private
// file systems inside, mounts views and shares in them, and makes the result this process's root.
func Root(o *wire.Order) error {
	if err := mountHost(o); err != nil {
		return err
	}
	if o.Root.TmpfsPercent > 0 && o.Root.TmpfsPercent != 25 {
		options := fmt.Sprintf("size=%d%%", o.Root.TmpfsPercent)
		if err := mount("tmpfs", scratch, "tmpfs", syscall.MS_REMOUNT, options); err != nil {
			return err
		}
	}
	if o.Hosts != "" {
		if err := sys.WriteFile(scratch+"/upper"+hostsFile, o.Hosts); err != nil {
			return fmt.Errorf("write %s: %w", hostsFile, err)
		}
	}
	if err := mountOverlays(o.Root.Image != ""); err != nil {
		return err
	}
	for _, dir := range movable {
		if err := mount(dir, newRoot+dir, "", syscall.MS_MOVE, ""); err != nil {
			return err
		}
	}
	if err := mountViews(o.Views); err != nil {
		return err
	}
	if err := syscall.Chdir(newRoot); err != nil {
		return err
	}
	if err := mount(".", "/", "", syscall.MS_MOVE, ""); err != nil {
		return err
	}
	if err := syscall.Chroot("."); err != nil {
		return err
	}
	if err := syscall.Chdir("/"); err != nil {
		return err
	}
	makeLinks(o.Links)
	for _, s := range o.Shares {
		if err := mountShare(s, o.Root.MsgSize); err != nil {
			return err
		}
	}
	return nil
}

// mountHost mounts the host's root and the image's tree, read-only, at their places in the initramfs.
func mountHost(o *wire.Order) error {
	root := source{fs: o.Root.FS, tag: o.Root.Tag, cache: "loose", msize: o.Root.MsgSize}
	if err := root.mount(hostRoot, syscall.MS_RDONLY); err != nil {
		return err
	}
	if o.Root.Image == "" {
		return nil
	}
	root.tag = o.Root.Image
	return root.mount(imageDir, syscall.MS_RDONLY)
}

// source is a directory of the host as QEMU offers it.
type source struct {
	fs, tag, cache string
	msize          int
}

// mount mounts the source. Permissions are checked here, by the guest's kernel and against the uid of
// who asks: that is what 9p does by default, with an attach for each user.
func (s source) mount(target string, flags uintptr) error {
	if s.fs == "virtiofs" {
		return mount(s.tag, target, "virtiofs", flags, "")
	}
	// QEMU keeps no extended attributes under security_model=none, and overlayfs would ask for one at each
	// directory and file it looks up. Kernels before 6.4 skip the option.
	options := "trans=virtio,version=9p2000.L,noxattr,msize=" + strconv.Itoa(s.msize) + ",cache=" + s.cache
	return mount(s.tag, target, "9p", flags, options)
}

// mountShare mounts a directory of the host at the same path, making it where the guest has none.
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

func makeMountPoint(path string) error {
	mode, err := sys.Mode(path)
	if err != nil {
		return os.MkdirAll(path, 0o755)
	}
	if mode&syscall.S_IFMT != syscall.S_IFDIR {
		return fmt.Errorf("`%s` is no directory", path)
	}
	return nil
}

// overlay is one overlay mount: where, and what lies under its own upper directory, topmost first.
type overlay struct {
	target string // "" is the root itself
	lower  []string
}

// mount mounts the overlay at its target below root; name tells its upper directory from those of others.
func (v overlay) mount(name, root string) error {
	// A colon separates lower directories and a comma options; these are all paths of ours, or an
	// image's and the host's top-level names, which planOverlays leaves alone if they hold either.
	upper, work := scratch+"/upper"+name, scratch+"/work"+name
	if name != "" {
		if err := os.Mkdir(upper, 0o755); err != nil {
			return err
		}
		if err := os.Mkdir(work, 0o755); err != nil {
			return err
		}
		matchMode(upper, v.lower[len(v.lower)-1])
	}
	options := "lowerdir=" + strings.Join(v.lower, ":") + ",upperdir=" + upper + ",workdir=" + work
	return mount("overlay", root+v.target, "overlay", 0, options)
}

// matchMode gives an upper directory the mode and owner of the directory it stands for.
func matchMode(upper, lower string) {
	var st syscall.Stat_t
	if syscall.Stat(lower, &st) == nil {
		_ = syscall.Chown(upper, int(st.Uid), int(st.Gid))
		_ = syscall.Chmod(upper, st.Mode&0o7777)
	}
}

// mountOverlays mounts the root and, where what lies over the host's tree and the host disagree on what a
// top-level name is, the overlays that make both visible.
func mountOverlays(image bool) error {
	over := existing(Layer)
	if image {
		over = append(over, imageDir)
	}
	more, err := planOverlays(over, hostRoot, scratch+"/upper")
	if err != nil {
		return err
	}
	root := overlay{lower: append(over, hostRoot)}
	if err := root.mount("", newRoot); err != nil {
		return err
	}
	for i, v := range more {
		if err := v.mount(fmt.Sprint(i), newRoot); err != nil {
			return err
		}
	}
	return nil
}

// planOverlays finds the top-level names that are a directory in one tree and a symbolic link in the
// other. The upper layer decides what the guest sees at the name itself, and it gets what the host
// has; the directory the image's files would have been lost in gets an overlay of its own. Of several
// trees that lie over the host's the first one that has a name speaks for all.
//
//	image lib/, host lib -> usr/lib:   upper lib -> usr/lib, and usr/lib from image lib, image usr/lib, host usr/lib
//	image lib -> usr/lib, host lib/:   upper lib/, and lib from image usr/lib, host lib
func planOverlays(over []string, host, upper string) ([]overlay, error) {
	var more []overlay
	seen := map[string]bool{}
	for _, tree := range over {
		entries, err := os.ReadDir(tree)
		if err != nil {
			return nil, err
		}
		for _, entry := range entries {
			name := entry.Name()
			if seen[name] || strings.ContainsAny(name, ",:\\") || isMovable("/"+name) {
				continue
			}
			seen[name] = true
			v, err := planOverlay(entry, tree, over, host, upper)
			if err != nil {
				return nil, err
			}
			if v != nil {
				more = append(more, *v)
			}
		}
	}
	return more, nil
}

// planOverlay does so for one top-level name of tree; nil if it needs no overlay of its own.
func planOverlay(entry os.DirEntry, tree string, over []string, host, upper string) (*overlay, error) {
	name := "/" + entry.Name()
	info, err := os.Lstat(host + name)
	if err != nil {
		return nil, nil
	}
	hostLink, link := info.Mode()&os.ModeSymlink != 0, entry.Type()&os.ModeSymlink != 0
	switch {
	case hostLink:
		link, err := os.Readlink(host + name)
		if err != nil {
			return nil, err
		}
		if err := os.Symlink(link, upper+name); err != nil {
			return nil, err
		}
		target, ok := topLevel(link)
		if entry.IsDir() && ok && isRealDir(host+target) {
			return &overlay{target, append(existing(append(below(over, name), below(over, target)...)...), host+target)}, nil
		}
	case link && info.IsDir():
		if err := os.Mkdir(upper+name, 0o755); err != nil {
			return nil, err
		}
		lower := []string{}
		if link, err := os.Readlink(tree + name); err == nil {
			if target, ok := topLevel(link); ok {
				lower = below(over, target)
			}
		}
		return &overlay{name, append(existing(lower...), host+name)}, nil
	}
	return nil, nil
}

// topLevel returns the path, from the root, that a link in the root directory leads to; not if it
// leads out of the tree or has a character that overlay's options cannot hold.
func topLevel(link string) (string, bool) {
	target := filepath.Clean("/" + link)
	return target, target != "/" && !strings.ContainsAny(target, ",:\\")
}

// isMovable says whether the guest has its own directory at a path whatever the host and the image have.
func isMovable(path string) bool {
	for _, dir := range movable {
		if dir == path {
			return true
		}
	}
	return false
}

func isRealDir(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

func existing(paths ...string) []string {
	var found []string
	for _, path := range paths {
		if isRealDir(path) {
			found = append(found, path)
		}
	}
	return found
}

// below returns a path below each tree.
func below(trees []string, path string) []string {
	paths := make([]string, len(trees))
	for i, tree := range trees {
		paths[i] = tree + path
	}
	return paths
}
