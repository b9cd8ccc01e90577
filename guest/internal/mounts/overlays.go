package mounts

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// overlay is an overlay mount: its place, and what lies under its own upper directory, topmost first.
type overlay struct {
	target string // "" is the root itself
	lower  []string
}

// mount mounts the overlay at its target below root. Its upper and work directories have name in theirs.
func (v overlay) mount(name, root string) error {
	// A colon separates lower directories and a comma separates options. All these paths are ours, or
	// top-level names of an image and the host, which planOverlays skips if they contain either.
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

// mountOverlays mounts the root. Where the trees over the host's and the host disagree on what a top-level
// name is, it mounts more overlays, which make both visible.
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

// planOverlays finds the top-level names that are a directory in one tree and a symbolic link in the other,
// for which the root's overlay alone would hide the files of one of them. The upper layer decides what the
// guest sees at the name itself, so that gets what the host has; the directory in which the image's files
// would be lost gets an overlay of its own. If several trees over the host's have a name, the first one
// that has it speaks for all.
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

// planOverlay does this for one top-level name of tree. It returns nil if the name needs no overlay.
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

// topLevel returns where a link in the root directory leads, as a path from the root. It is false if that is
// the root itself, or has a character that overlay's options cannot hold.
func topLevel(link string) (string, bool) {
	target := filepath.Clean("/" + link)
	return target, target != "/" && !strings.ContainsAny(target, ",:\\")
}

// isMovable says whether the guest has its own directory at a path, whatever the host and the image have.
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

// existing returns those paths that are directories.
func existing(paths ...string) []string {
	var found []string
	for _, path := range paths {
		if isRealDir(path) {
			found = append(found, path)
		}
	}
	return found
}

// below returns the same path below each tree.
func below(trees []string, path string) []string {
	paths := make([]string, len(trees))
	for i, tree := range trees {
		paths[i] = tree + path
	}
	return paths
}
