// Package mounts makes the guest's root: the host's root, what the kernel came with and a tmpfs for what is
// written in one overlay, with the guest's own file systems and the host's shared directories in it. Early
// and Stage run before the order comes, Root runs after it; each says what is mounted afterwards.
package mounts

import (
	"fmt"
	"syscall"
)

// Places in the initramfs, which nobody can reach any more once the root is another.
const (
	scratch  = "/scratch" // tmpfs that holds the upper and work directories of all overlays
	hostRoot = "/host"    // the host's root, read-only
	imageDir = "/image"   // what the kernel's image holds, read-only
	Layer    = "/layer"   // files that we made for this kernel; in the initramfs from the start
	viewRoot = "/views"   // overlay over the host's root, for what is seen in the private directories
	newRoot  = "/root"    // overlay that becomes the root
)

// hostsFile is the host's table of names, to which the order adds the guest's own.
const hostsFile = "/etc/hosts"

// movable are the mounts, each with all below it, that go from the initramfs into the new root.
var movable = []string{"/proc", "/sys", "/dev", "/run", "/tmp"}

// mount is mount(2) with an error that says what was tried.
func mount(source, target, kind string, flags uintptr, options string) error {
	if err := syscall.Mount(source, target, kind, flags, options); err != nil {
		return fmt.Errorf("mount -t %s -o %s %s %s: %w", kind, options, source, target, err)
	}
	return nil
}
