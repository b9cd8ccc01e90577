package run

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
)

// complaints are what the kernel says when something is wrong with it. Else nobody would notice, because the
// test binary still exits with 0.
var complaints = []string{
	"WARNING:", "BUG:", "Oops", "KASAN:", "KCSAN:", "KMSAN:", "KFENCE:", "UBSAN:", "INFO: task ",
	"blocked for more than", "general protection fault", "possible circular locking",
	"possible recursive locking", "inconsistent lock state", "suspicious RCU usage",
	"detected stalls", "self-detected stall", "soft lockup", "hard LOCKUP", "refcount_t:",
	"Out of memory:", "memory leaks",
}

// kernelLog reads what the kernel logs from now on.
type kernelLog struct{ fd int }

func openKernelLog() (*kernelLog, error) {
	fd, err := syscall.Open("/dev/kmsg", syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if _, err := syscall.Seek(fd, 0, 2); err != nil {
		syscall.Close(fd)
		return nil, err
	}
	return &kernelLog{fd: fd}, nil
}

// summary describes the kernel's complaints; it is "" if there are none.
func (l *kernelLog) summary() string {
	const shown = 20
	var lines []string
	count := 0
	record := make([]byte, 8<<10)
	for {
		n, err := syscall.Read(l.fd, record)
		if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.EINTR) {
			continue // EPIPE: records were overwritten before we came; the next read goes on after them
		}
		if err != nil || n <= 0 {
			break
		}
		if line, ok := parseRecord(string(record[:n])); ok {
			if count++; count <= shown {
				lines = append(lines, line)
			}
		}
	}
	if count == 0 {
		return ""
	}
	text := fmt.Sprintf("the kernel complained %d times:\n%s", count, strings.Join(lines, "\n"))
	if count == 1 {
		text = "the kernel complained:\n" + lines[0]
	}
	if count > shown {
		text += fmt.Sprintf("\n(%d more)", count-shown)
	}
	return text
}

// parseRecord returns the message of a /dev/kmsg record, and whether it is a complaint of the kernel itself: `priority,sequence,microseconds,flags[,…];message`, then lines of ` KEY=value`
// (Documentation/ABI/testing/dev-kmsg). User space's records have a facility other than 0.
func parseRecord(record string) (string, bool) {
	prefix, rest, ok := strings.Cut(record, ";")
	if !ok {
		return "", false
	}
	fields := strings.SplitN(prefix, ",", 4)
	priority, err := strconv.Atoi(fields[0])
	if err != nil || priority>>3 != 0 {
		return "", false
	}
	message, _, _ := strings.Cut(rest, "\n")
	for _, word := range complaints {
		if strings.Contains(message, word) {
			return message, true
		}
	}
	return message, false
}
