package mounts

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"vimto/guest/internal/console"
	"vimto/guest/internal/sys"
)

// fileSystem is a mount of the guest's own.
type fileSystem struct {
	kind, target string
	flags        uintptr
	options      string
}

const (
	noSUID = syscall.MS_NOSUID
	noDev  = syscall.MS_NODEV
	noExec = syscall.MS_NOEXEC
)

// early is what the guest program needs to load modules and find its port.
var early = []fileSystem{
	{"proc", "/proc", noSUID | noDev | noExec, ""},
	{"sysfs", "/sys", noSUID | noDev | noExec, ""},
	{"devtmpfs", "/dev", noSUID, "mode=0755"},
}

// staged are the file systems that Stage mounts; what the kernel does not have is left out. The size
// limits make a full disk ENOSPC, not a visit of the OOM killer. A tmpfs without nr_inodes holds a file
// for every two pages of RAM; these have what systemd gives /tmp and /run (tmp.mount, mount-setup.c),
// and what is written to the root may be as many files as in /tmp. systemd leaves /dev/shm alone.
var staged = []fileSystem{
	{"devpts", "/dev/pts", noSUID | noExec, "gid=5,mode=620,ptmxmode=666"},
	{"tmpfs", "/dev/shm", noSUID | noDev, "mode=1777,size=25%"},
	{"mqueue", "/dev/mqueue", noSUID | noDev | noExec, ""},
	{"hugetlbfs", "/dev/hugepages", noSUID | noDev, ""},
	{"tmpfs", "/run", noSUID | noDev, "mode=0755,size=10%,nr_inodes=800k"},
	{"tmpfs", "/tmp", noSUID | noDev, "mode=1777,size=40%,nr_inodes=1m"},
	{"cgroup2", "/sys/fs/cgroup", noSUID | noDev | noExec, ""},
	{"bpf", "/sys/fs/bpf", noSUID | noDev | noExec, "mode=0700"},
	{"debugfs", "/sys/kernel/debug", noSUID | noDev | noExec, ""},
	{"tracefs", "/sys/kernel/tracing", noSUID | noDev | noExec, ""},
	{"securityfs", "/sys/kernel/security", noSUID | noDev | noExec, ""},
	{"configfs", "/sys/kernel/config", noSUID | noDev | noExec, ""},
	{"fusectl", "/sys/fs/fuse/connections", noSUID | noDev | noExec, ""},
	{"binfmt_misc", "/proc/sys/fs/binfmt_misc", noSUID | noDev | noExec, ""},
	{"tmpfs", scratch, 0, "mode=0755,size=25%,nr_inodes=1m"},
}

// scratchPercent is the size of scratch above, in percent of the RAM.
const scratchPercent = 25

func (f fileSystem) mount() error {
	return mount(f.kind, f.target, f.kind, f.flags, f.options)
}

// Early mounts what this program needs before it can load modules. Afterwards:
//
//	/      rootfs: the initramfs
//	/proc  proc
//	/sys   sysfs
//	/dev   devtmpfs
func Early() error {
	for _, f := range early {
		if err := os.MkdirAll(f.target, 0o755); err != nil {
			return err
		}
		if err := f.mount(); err != nil && !errors.Is(err, syscall.EBUSY) {
			return err
		}
	}
	return nil
}

// Stage does all that no order changes, so that it is part of a snapshot and a restored machine only has to
// move these mounts. Afterwards, besides those of Early:
//
//	/dev/pts, /dev/shm, /dev/mqueue, /dev/hugepages
//	/run, /tmp                   tmpfs: private, as /dev/shm is
//	/sys/fs/cgroup, /sys/fs/bpf, /sys/kernel/debug, ...
//	/scratch                     tmpfs: what is written to the root goes here
//	/scratch/upper, ./work       the root's upper and work directory
//	/scratch/upper/{proc,sys,dev,run,tmp}   mount points, opaque
//	/host, /image, /views, /root            empty directories, for Root
func Stage() error {
	for _, dir := range []string{scratch, hostRoot, imageDir, viewRoot, newRoot, "/run", "/tmp",
		"/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/hugepages"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for _, f := range staged {
		err := f.mount()
		missing := errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EBUSY)
		if err != nil && !missing {
			if f.target == scratch || f.target == "/tmp" {
				return err
			}
			console.Logf("%v", err)
		}
	}
	if err := enableControllers("/sys/fs/cgroup"); err != nil {
		console.Logf("%v", err)
	}
	if err := stageUpper(scratch); err != nil {
		return err
	}
	_ = os.Mkdir("/run/lock", 0o777)
	_ = os.Chmod("/run/lock", 0o777|os.ModeSticky)
	return linkDevices("/dev")
}

// stageUpper makes the root overlay's upper and work directories below place, with the mount points and the
// file that every root has.
func stageUpper(place string) error {
	// The overlay's root takes its mode from the upper directory.
	for _, dir := range []string{"/upper", "/work"} {
		if err := os.Mkdir(place+dir, 0o755); err != nil {
			return err
		}
	}
	// At an opaque directory overlayfs does not look at the trees below it, each of which would be a
	// conversation with the host after the order.
	for _, dir := range movable {
		point := place + "/upper" + dir
		if err := os.Mkdir(point, 0o755); err != nil {
			return err
		}
		if err := syscall.Setxattr(point, "trusted.overlay.opaque", []byte("y"), 0); err != nil {
			return fmt.Errorf("make %s opaque: %w", point, err)
		}
	}
	// The file is made here because writing it costs a restored machine less than copying up the host's.
	if err := os.Mkdir(place+"/upper/etc", 0o755); err != nil {
		return err
	}
	return os.WriteFile(place+"/upper"+hostsFile, nil, 0o644)
}

// enableControllers lets the children of a control group use all controllers that the kernel has, as
// systemd does: else they have no `memory.max` and the like, and each test would have to begin with this.
func enableControllers(group string) error {
	text, err := sys.ReadFile(group + "/cgroup.controllers")
	if err == syscall.ENOENT { // a kernel without cgroup2
		return nil
	}
	var problems []error
	for _, controller := range strings.Fields(text) {
		// One by one, because one that cannot be enabled fails the whole line.
		if err := sys.WriteFile(group+"/cgroup.subtree_control", "+"+controller); err != nil {
			problems = append(problems, fmt.Errorf("cgroup controller `%s`: %w", controller, err))
		}
	}
	return errors.Join(append(problems, err)...)
}

// linkDevices makes the links in /dev that udev or systemd makes elsewhere.
func linkDevices(dev string) error {
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "core": "/proc/kcore",
	} {
		if err := os.Symlink(target, dev+"/"+name); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}
