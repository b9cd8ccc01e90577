package run

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"vimto/guest/internal/sys"
	"vimto/guest/internal/wire"
)

const (
	flagExiting = 0x4 // PF_EXITING: the process is past all signals
	stackLines  = 12
	lively      = 3 * time.Second // after a page was written back; the host asks every second
)

// lead says which process, with its group, gets the host's signals; 0 is none. The command also gets those
// that came before it was started.
func (s *session) lead(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leader = pid
	if pid != 0 && s.stage == "command" {
		for _, signal := range s.deferred {
			_ = syscall.Kill(-pid, signal)
		}
		s.deferred = nil
	}
}

// signal delivers one of the host's signals and answers with what keeps it from having an effect. With number 0
// the host only asks again.
func (s *session) signal(number syscall.Signal) error {
	stage, groups := s.deliver(number)
	report := wire.Signalled{Number: number}
	if s.writeBack.moves(time.Now()) {
		return s.port.Write(report.Frame()) // a process may sleep in it, too
	}
	if stage == "flush" {
		report.Stuck = "the guest is still writing back what is in the shared directories"
	} else if len(groups) > 0 {
		report.Stuck = s.sleepers.find(groups)
	}
	return s.port.Write(report.Frame())
}

// writeBack is how many pages the kernel had written back to all file systems at the last look, and when that
// number last grew. Only the dispatcher uses it.
type writeBack struct {
	count func() string
	pages string
	at    time.Time
}

// moves says whether pages are being written back; the first look only sets the mark.
func (w *writeBack) moves(now time.Time) bool {
	pages := w.count()
	if w.pages != "" && w.pages != pages {
		w.at = now
	}
	w.pages = pages
	return !w.at.IsZero() && now.Sub(w.at) < lively
}

func countWritten() string {
	text, _ := sys.ReadFile("/proc/vmstat")
	_, rest, _ := strings.Cut(text, "\nnr_written ")
	count, _, _ := strings.Cut(rest, "\n")
	return count
}

// deliver sends a signal to the process groups that it is for, and returns these and the stage.
func (s *session) deliver(number syscall.Signal) (string, []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// The host learns of the command's start a moment before `lead` is called.
	if number != 0 && (s.leader == 0 || s.stage != "command") && s.stage != "teardown" {
		s.deferred = append(s.deferred, number)
	}
	if s.leader == 0 {
		return s.stage, nil
	}
	leader, foreground := s.leader, 0
	if s.stage == "command" {
		foreground = s.stdio.Foreground()
	}
	groups := []int{leader}
	switch {
	case foreground <= 0 || foreground == leader:
	case number == 0 || number == syscall.SIGHUP:
		groups = append(groups, foreground) // when a terminal hangs up, both are told
	case number != syscall.SIGKILL:
		groups = []int{foreground} // like a key on a terminal
	}
	for _, group := range groups {
		_ = syscall.Kill(-group, number)
	}
	return s.stage, groups
}

// sleepers are the threads that were in uninterruptible sleep at the last look: by their directories in /proc,
// how often they had gone to sleep. Only the dispatcher uses it.
type sleepers map[string]string

// find describes a process in the groups that no signal reaches, if there is one.
func (s *sleepers) find(groups []int) string {
	before := *s
	*s = sleepers{}
	found := ""
	for _, pid := range numbers("/proc") {
		text, err := sys.ReadFile("/proc/" + pid + "/stat")
		if err != nil {
			continue
		}
		process := parseStat(text)
		for _, group := range groups {
			if process.group != group {
				continue
			}
			// All threads, because the first one may be gone: killed, it is a zombie until the others end.
			for _, tid := range numbers("/proc/" + pid + "/task") {
				task := "/proc/" + pid + "/task/" + tid
				if s.look(task, before) && found == "" {
					found = fmt.Sprintf("`%s` (process %s) is in uninterruptible sleep", process.name, pid) + stack(task)
				}
			}
		}
	}
	return found
}

// look says whether a thread is out of reach of signals.
func (s sleepers) look(task string, before sleepers) bool {
	text, err := sys.ReadFile(task + "/stat")
	if err != nil {
		return false
	}
	thread := parseStat(text)
	if thread.state != 'D' {
		return false
	}
	status, err := sys.ReadFile(task + "/status")
	if err != nil {
		return false
	}
	s[task] = field(status, "voluntary_ctxt_switches")
	waiting := mask(status, "SigPnd") | mask(status, "ShdPnd")
	return outOfReach(thread.flags&flagExiting != 0, waiting, mask(status, "SigBlk"), before[task] == s[task])
}

// outOfReach judges a thread in uninterruptible sleep, by whether it is the same sleep as at the last look. Many
// are short, and most have nothing to do with the signal. So one must be pending: unblocked, it has gone
// unnoticed since it was sent; blocked (vfork(2) blocks all), the sleep must last. So must that of a process that
// is exiting, which notices no signal at all: each one sleeps as it closes its files, which are the host's.
func outOfReach(exiting bool, pending, blocked uint64, lasts bool) bool {
	if exiting {
		return lasts
	}
	return pending&^blocked != 0 || pending != 0 && lasts
}

// stack returns where in the kernel a thread is, a line for each function; "" without CONFIG_STACKTRACE.
func stack(task string) string {
	text, _ := sys.ReadFile(task + "/stack")
	found := ""
	for i, line := range strings.Split(text, "\n") {
		if line = strings.TrimPrefix(line, "[<0>] "); line != "" && i < stackLines {
			found += "\n" + line
		}
	}
	return found
}

// numbers returns the processes or threads in a directory of /proc.
func numbers(directory string) []string {
	entries, _ := os.ReadDir(directory)
	var found []string
	for _, entry := range entries {
		if name := entry.Name(); name[0] >= '0' && name[0] <= '9' {
			found = append(found, name)
		}
	}
	return found
}

// processStat is the part of /proc/PID/stat that is needed here.
type processStat struct {
	name  string
	state byte
	group int
	flags uint64
}

// parseStat reads a line of /proc/PID/stat. The name may contain anything; the last parenthesis ends it.
func parseStat(text string) processStat {
	first, last := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if first < 0 || last < first {
		return processStat{}
	}
	fields := strings.Fields(text[last+1:]) // state, ppid, pgrp, session, tty, tpgid, flags
	if len(fields) < 7 {
		return processStat{}
	}
	group, _ := strconv.Atoi(fields[2])
	flags, _ := strconv.ParseUint(fields[6], 10, 64)
	return processStat{name: text[first+1 : last], state: fields[0][0], group: group, flags: flags}
}

// field returns a value from a /proc/PID/status.
func field(status, name string) string {
	_, rest, _ := strings.Cut(status, "\n"+name+":")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(line)
}

// mask returns a set of signals from a /proc/PID/status.
func mask(status, name string) uint64 {
	bits, _ := strconv.ParseUint(field(status, name), 16, 64)
	return bits
}
