package main

import (
	"os"
	"syscall"
)

// What the guest's root has of the host's besides the mounts: a file that every machine needs its own
// of, and links in directories that are the guest's own.

// hostsFile is where the host's table of names is, to which the order adds the guest's.
const hostsFile = "/etc/hosts"

// stageHosts makes the file in the overlay's upper directory. Before the save: to write it costs a
// restored machine less than to copy the host's up.
func stageHosts(upper string) error {
	if err := os.Mkdir(upper+"/etc", 0o755); err != nil {
		return err
	}
	return os.WriteFile(upper+hostsFile, nil, 0o644)
}

// makeLinks makes symbolic links, with the directories they lie in. What is there already stays.
func makeLinks(links []link) {
	for _, l := range links {
		if syscall.Symlink(l.target, l.path) == syscall.ENOENT {
			_ = os.MkdirAll(parent(l.path), 0o755)
			_ = syscall.Symlink(l.target, l.path)
		}
	}
}

// parent returns the directory of an absolute path.
func parent(path string) string {
	for i := len(path) - 1; i > 0; i-- {
		if path[i] == '/' {
			return path[:i]
		}
	}
	return "/"
}
