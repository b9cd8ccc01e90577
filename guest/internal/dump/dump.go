// Package dump is the kernel's helper for core dumps: `|/proc/1/exe core ...` in core_pattern, see core(5).
// The kernel itself would write into whatever directory the process is in, and not at all where a new file
// does not belong to the process's user, as for root in the shares of an ordinary user of the host. The
// helper runs in the root of PID 1, which the kernel's threads share.
package dump

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Argument is the argument that makes this program the helper.
const Argument = "core"

// dumpFD is PID 1's descriptor for a file that names the directory for core dumps.
const dumpFD = 900

// Place tells the helper where core dumps go. It is called while the root is still the initramfs, so that the
// file is in nobody's way and costs no message to the host.
func Place(directory string) error {
	const name = "/core-directory"
	if err := os.WriteFile(name, []byte(directory), 0o600); err != nil {
		return err
	}
	fd, err := syscall.Open(name, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	return syscall.Dup3(fd, dumpFD, syscall.O_CLOEXEC)
}

// dump is what the kernel says about the process that dumps: %P %t %u %g %c %e.
type dump struct {
	pid, second string
	uid, gid    int
	limit       uint64
	program     string
}

// parseDump reads the helper's arguments. Kernels before 5.6 split a program's name at blanks.
func parseDump(arguments []string) (dump, error) {
	if len(arguments) < 6 {
		return dump{}, fmt.Errorf("%d arguments", len(arguments))
	}
	uid, uidErr := strconv.Atoi(arguments[2])
	gid, gidErr := strconv.Atoi(arguments[3])
	limit, limitErr := strconv.ParseUint(arguments[4], 10, 64)
	for _, err := range []error{uidErr, gidErr, limitErr} {
		if err != nil {
			return dump{}, err
		}
	}
	return dump{arguments[0], arguments[1], uid, gid, limit, strings.Join(arguments[5:], " ")}, nil
}

// Find returns the names of the core dumps in directory that were written at since or later.
func Find(directory string, since time.Time) []string {
	entries, _ := os.ReadDir(directory)
	var found []string
	for _, entry := range entries {
		parts := strings.Split(entry.Name(), "-")
		if len(parts) < 4 || parts[0]+"-" != prefix {
			continue
		}
		second, err := strconv.ParseInt(parts[len(parts)-2], 10, 64)
		if err == nil && second >= since.Unix() {
			found = append(found, entry.Name())
		}
	}
	return found
}

const prefix = "core-"

// name returns the file's name; the host looks for files named like this.
func (d dump) name() string {
	return prefix + strings.ReplaceAll(d.program, "/", "!") + "-" + d.second + "-" + d.pid
}

// Write writes the core dump that comes on stdin.
func Write(arguments []string) error {
	d, err := parseDump(arguments)
	if err != nil || d.limit == 0 {
		return err
	}
	directory, err := os.ReadFile(fmt.Sprintf("/proc/1/fd/%d", dumpFD))
	if err != nil {
		return err
	}
	flags := syscall.O_WRONLY | syscall.O_CREAT | syscall.O_EXCL | syscall.O_NOFOLLOW | syscall.O_CLOEXEC
	fd, err := syscall.Open(string(directory)+"/"+d.name(), flags, 0o600)
	if err != nil {
		return err
	}
	_ = syscall.Fchown(fd, d.uid, d.gid) // works only if QEMU runs as root
	file := os.NewFile(uintptr(fd), d.name())
	size, err := copySparse(file, io.LimitReader(os.Stdin, int64(min(d.limit, 1<<62))))
	if err == nil {
		err = file.Truncate(size)
	}
	return err
}

// copySparse copies in to out and returns in's size. Blocks of zeros become holes, because most of a Go
// program's memory was never touched.
func copySparse(out io.WriterAt, in io.Reader) (int64, error) {
	const block = 64 << 10
	buffer, zeros := make([]byte, block), make([]byte, block)
	for at := int64(0); ; {
		n, err := io.ReadFull(in, buffer)
		if n > 0 && !bytes.Equal(buffer[:n], zeros[:n]) {
			if _, err := out.WriteAt(buffer[:n], at); err != nil {
				return at, err
			}
		}
		at += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return at, nil
		}
		if err != nil {
			return at, err
		}
	}
}
