package mounts

import (
	"fmt"
	"syscall"

	"vimto/guest/internal/sys"
	"vimto/guest/internal/wire"
)

// Root makes the root that the order describes and makes it this process's own. It takes the mounts of
// Early and Stage; the table after each step stands behind it, "..." being what was there before.
func Root(o *wire.Order) error {
	if err := mountHost(o); err != nil {
		return err
	}
	//	...
	//	/host   9p or virtiofs, read-only
	//	/image  the same; only if the kernel came with files
	if err := prepareScratch(o); err != nil {
		return err
	}
	if err := mountOverlays(o.Root.Image != ""); err != nil {
		return err
	}
	//	...
	//	/root          overlay: /scratch/upper over /layer, /image, /host
	//	/root/usr/lib  overlay: /scratch/upper0 over all that is /usr/lib or leads there; rarely, see planOverlays
	for _, dir := range movable {
		if err := mount(dir, newRoot+dir, "", syscall.MS_MOVE, ""); err != nil {
			return err
		}
	}
	//	/, /scratch, /host, /image, /root, /root/usr/lib
	//	/root/proc  proc, and all that was mounted in it
	//	/root/sys, /root/dev, /root/run, /root/tmp   likewise
	if err := mountViews(o.Views); err != nil {
		return err
	}
	//	...
	//	/views            overlay: /scratch/upper-views over /host; only if there are views
	//	/root/tmp/x.test  bind: /views/.../x.test; one for each view
	if err := enter(newRoot); err != nil {
		return err
	}
	//	/  overlay: what was /root, with all that is mounted in it; the rest is out of reach
	makeLinks(o.Links)
	for _, s := range o.Shares {
		if err := mountShare(s, o.Root.MsgSize); err != nil {
			return err
		}
	}
	//	...
	//	/home/me/src  9p or virtiofs, at the host's path; one for each share
	return nil
}

// enter makes a mount the root of this process, in the manner of switch_root(8): pivot_root(2) cannot move
// an initramfs away, but a mount can be moved over it.
func enter(root string) error {
	if err := syscall.Chdir(root); err != nil {
		return err
	}
	if err := mount(".", "/", "", syscall.MS_MOVE, ""); err != nil {
		return err
	}
	if err := syscall.Chroot("."); err != nil {
		return err
	}
	return syscall.Chdir("/")
}

// mountHost mounts the host's root and the image's tree at their places in the initramfs.
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

// prepareScratch gives the root's upper layer the size and the table of names that the order asks for.
func prepareScratch(o *wire.Order) error {
	if o.Root.TmpfsPercent > 0 && o.Root.TmpfsPercent != scratchPercent {
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
	return nil
}
