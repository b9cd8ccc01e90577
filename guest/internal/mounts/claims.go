package mounts

import (
	"path/filepath"
	"strings"
	"syscall"
)

// Claims are staged file systems that setup commands want to mount themselves. To mount the same one in the
// same place twice is EBUSY, so they are unmounted before the setup commands run.
type Claims []fileSystem

// Yield unmounts the file systems that the setup commands want to mount.
func Yield(setup [][]string) Claims {
	claims := claimed(setup)
	for _, f := range claims {
		_ = syscall.Unmount(f.target, syscall.MNT_DETACH)
	}
	return claims
}

// Restore mounts those again that the setup commands did not mount after all.
func (c Claims) Restore() {
	for _, f := range c {
		if !isMountPoint(f.target) {
			_ = f.mount()
		}
	}
}

// claimed returns the staged file systems whose type or place a setup command with a `mount` in it names.
func claimed(setup [][]string) []fileSystem {
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

func isMountPoint(path string) bool {
	var here, parent syscall.Stat_t
	return syscall.Lstat(path, &here) == nil && syscall.Lstat(filepath.Dir(path), &parent) == nil &&
		here.Dev != parent.Dev
}
