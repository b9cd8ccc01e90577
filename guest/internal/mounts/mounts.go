package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// early is what the agent needs to find its port.
var early = []fileSystem{
	{"proc", "/proc", noSUID | noDev | noExec, ""},
	{"sysfs", "/sys", noSUID | noDev | noExec, ""},
	{"devtmpfs", "/dev", noSUID, "mode=0755"},
}

// staged is mounted before the order comes, so that it's part of a save and costs a restored machine
// nothing: later these mounts are only moved. What the kernel does not have is left out. The size
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

// Places in the initramfs. The host's file systems are mounted below these after the order.
const (
	scratch  = "/scratch" // tmpfs that holds every overlay's upper and work directory
	hostRoot = "/host"
	imageDir = "/image"
	Layer    = "/layer" // files that we made for this kernel; in the initramfs from the start
	viewRoot = "/views" // the host's root under a layer of its own, for what is seen in the private directories
	newRoot  = "/root"
)

// movable are the mounts, each with all below it, that go from the initramfs into the new root.
var movable = []string{"/proc", "/sys", "/dev", "/run", "/tmp"}

func (f fileSystem) mount(root string) error {
	return mount(f.kind, root+f.target, f.kind, f.flags, f.options)
}

// mount is mount(2) with an error that says what was tried.
func mount(source, target, kind string, flags uintptr, options string) error {
	if err := syscall.Mount(source, target, kind, flags, options); err != nil {
		return fmt.Errorf("mount -t %s -o %s %s %s: %w", kind, options, source, target, err)
	}
	return nil
}

func Early() error {
	for _, f := range early {
		if err := os.MkdirAll(f.target, 0o755); err != nil {
			return err
		}
		if err := f.mount(""); err != nil && !errors.Is(err, syscall.EBUSY) {
			return err
		}
	}
	return nil
}

// Stage mounts the private file systems and makes the directories the order will need.
func Stage() error {
	for _, dir := range []string{scratch, hostRoot, imageDir, viewRoot, newRoot, "/run", "/tmp",
		"/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/hugepages"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for _, f := range staged {
		err := f.mount("")
		optional := errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EBUSY)
		if err != nil && !optional {
			if f.target == scratch || f.target == "/tmp" {
				return err
			}
			console.Logf("%v", err)
		}
	}
	if err := enableControllers("/sys/fs/cgroup"); err != nil {
		console.Logf("%v", err)
	}
	// The overlay's root takes its mode from the upper directory.
	for _, dir := range []string{"upper", "work"} {
		if err := os.Mkdir(scratch+"/"+dir, 0o755); err != nil {
			return err
		}
	}
	// The mount points in the new root are made here: an opaque directory needs no look at the trees
	// below it, each of which would be a conversation with the host after the order.
	for _, dir := range movable {
		point := scratch + "/upper" + dir
		if err := os.Mkdir(point, 0o755); err != nil {
			return err
		}
		if err := syscall.Setxattr(point, "trusted.overlay.opaque", []byte("y"), 0); err != nil {
			return fmt.Errorf("make %s opaque: %w", point, err)
		}
	}
	if err := stageHosts(scratch + "/upper"); err != nil {
		return err
	}
	_ = os.Mkdir("/run/lock", 0o777)
	_ = os.Chmod("/run/lock", 0o777|os.ModeSticky)
	return linkDevices("/dev")
}

// enableControllers lets the children of a control group use all that the kernel has, as systemd does:
// else `memory.max` and the like are not there, and each test would have to begin with this.
func enableControllers(group string) error {
	text, err := sys.ReadFile(group + "/cgroup.controllers")
	if err == syscall.ENOENT { // a kernel without cgroup2
		return nil
	}
	var problems []error
	for _, controller := range strings.Fields(text) {
		// One by one: a controller that cannot be enabled fails the whole line.
		if err := sys.WriteFile(group+"/cgroup.subtree_control", "+"+controller); err != nil {
			problems = append(problems, fmt.Errorf("cgroup controller `%s`: %w", controller, err))
		}
	}
	return errors.Join(append(problems, err)...)
}

// linkDevices makes the links that udev or systemd makes elsewhere.
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

// Claimed returns the staged file systems that a setup command wants to mount itself, told by their
// type or place among its words: mounting the same one there twice is EBUSY.
func Claimed(setup [][]string) []fileSystem {
	if len(setup) == 0 {
		return nil
	}
	words := map[string]bool{}
	for _, command := range setup {
		if len(command) > 0 && filepath.Base(command[0]) == "mount" || mentions(command, "mount") {
			for _, argument := range command {
				for _, word := range strings.Fields(argument) {
					words[strings.TrimRight(word, "/;")] = true
				}
			}
		}
	}
	var found []fileSystem
	for _, f := range staged {
		if f.kind == "tmpfs" && f.target != "/dev/shm" || f.target == "/dev/pts" {
			continue
		}
		if f.kind != "tmpfs" && words[f.kind] || words[f.target] {
			found = append(found, f)
		}
	}
	return found
}

func mentions(command []string, word string) bool {
	for _, argument := range command {
		if strings.Contains(argument, word) {
			return true
		}
	}
	return false
}

// Unmount takes the claimed file systems away before setup; remountMissing puts back those that
// setup did not mount after all.
func Unmount(claimed []fileSystem) {
	for _, f := range claimed {
		_ = syscall.Unmount(f.target, syscall.MNT_DETACH)
	}
}

func RemountMissing(claimed []fileSystem) {
	for _, f := range claimed {
		if !isMountPoint(f.target) {
			_ = f.mount("")
		}
	}
}

func isMountPoint(path string) bool {
	var here, parent syscall.Stat_t
	return syscall.Lstat(path, &here) == nil && syscall.Lstat(filepath.Dir(path), &parent) == nil &&
		here.Dev != parent.Dev
}
