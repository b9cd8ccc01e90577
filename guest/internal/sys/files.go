// Package sys has system calls that package syscall lacks, and does for files what package os does, by system
// calls alone: what runs between the order and the command is new to a restored machine, where all code
// costs by its length.
package sys

import (
	"syscall"
)

// ReadFile returns the content of a small file; the error is a syscall.Errno.
func ReadFile(path string) (string, error) {
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

// WriteFile writes a file in one piece, as those in /proc and /sys want it; the error is a syscall.Errno.
func WriteFile(path, value string) error {
	fd, err := syscall.Open(path, syscall.O_WRONLY|syscall.O_TRUNC|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	_, err = syscall.Write(fd, []byte(value))
	return err
}

// Mode returns a file's type and permissions; the error is a syscall.Errno.
func Mode(path string) (uint32, error) {
	var st syscall.Stat_t
	err := syscall.Stat(path, &st)
	return st.Mode, err
}

// Release is `uname -r`.
func Release() string {
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

// TrimNewline returns text without a newline at its end.
func TrimNewline(text []byte) []byte {
	if n := len(text); n > 0 && text[n-1] == '\n' {
		return text[:n-1]
	}
	return text
}

// Parent returns the directory of an absolute path.
func Parent(path string) string {
	for i := len(path) - 1; i > 0; i-- {
		if path[i] == '/' {
			return path[:i]
		}
	}
	return "/"
}
