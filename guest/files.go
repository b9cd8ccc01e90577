package main

import (
	"syscall"
)

// These do what package os does, by system calls alone: what runs between the order and the command is
// new to a restored machine, and there all code costs by its length.

// readFile returns a small file's content; the error is a syscall.Errno.
func readFile(path string) (string, error) {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer syscall.Close(fd)
	var text []byte
	for {
		chunk := make([]byte, 4096)
		n, err := syscall.Read(fd, chunk)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return "", err
		case n == 0:
			return string(text), nil
		default:
			text = append(text, chunk[:n]...)
		}
	}
}

// writeFile writes a file of /proc or /sys, which takes its value in one piece; the error is a
// syscall.Errno.
func writeFile(path, value string) error {
	fd, err := syscall.Open(path, syscall.O_WRONLY|syscall.O_TRUNC|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	_, err = syscall.Write(fd, []byte(value))
	return err
}

// modeOf returns a file's type and permissions; the error is a syscall.Errno.
func modeOf(path string) (uint32, error) {
	var st syscall.Stat_t
	err := syscall.Stat(path, &st)
	return st.Mode, err
}

// kernelRelease is `uname -r`.
func kernelRelease() string {
	var name syscall.Utsname
	if syscall.Uname(&name) != nil {
		return ""
	}
	var release []byte
	for _, c := range name.Release {
		if c == 0 {
			break
		}
		release = append(release, byte(c))
	}
	return string(release)
}
