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

// lead says which process gets the host's signals; 0 if none runs. The command also gets those that
// came before, once.
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

// signal delivers one of the host's signals and answers with what keeps it from having an effect. Number
// 0 delivers nothing: the host asks again.
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

// writeBack is the number of pages that the kernel has written back, on all file systems, when it was looked
// at last by count, and when that last grew. Only the dispatcher uses it.
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

// deliver sends a signal to whom it is meant for, and returns the stage and the process groups.
func (s *session) deliver(number syscall.Signal) (string, []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// The host knows of the command's start a moment before `lead` does.
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
		groups = append(groups, foreground) // a terminal that hangs up tells both
	case number != syscall.SIGKILL:
		groups = []int{foreground} // as of a terminal's keys
	}
	for _, group := range groups {
		_ = syscall.Kill(-group, number)
	}
	return s.stage, groups
}

// sleepers are the threads that no signal reached when they were looked at last, by their directories in
// /proc: how often they had gone to sleep. Only the dispatcher uses it.
type sleepers map[string]string

// find describes a process of the groups that a signal cannot reach, if there is one.
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
			// A thread may be where its leader is not: a leader that was killed is a zombie until the
			// others have gone.
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

// look says whether a thread is out of reach of signals. Many sleeps are short, and few of those who sleep
// were sent a signal. One that is pending and not blocked has not been noticed since it was sent; an
// ending process notices none. Where it's blocked (a vfork(2) blocks all) the sleep must be the one of the
// last time.
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
	if thread.flags&flagExiting != 0 {
		return true
	}
	waiting := mask(status, "SigPnd") | mask(status, "ShdPnd")
	return waiting&^mask(status, "SigBlk") != 0 || waiting != 0 && before[task] == s[task]
}

// stack returns where the kernel has a thread, a line for each function; nothing without CONFIG_STACKTRACE.
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

// numbers returns the entries of a directory of /proc that are processes or threads.
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

// processStat is what we need of /proc/PID/stat.
type processStat struct {
	name  string
	state byte
	group int
	flags uint64
}

// parseStat reads a line of /proc/PID/stat: the name may hold anything, the last parenthesis ends it.
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

// field returns a value of a /proc/PID/status.
func field(status, name string) string {
	_, rest, _ := strings.Cut(status, "\n"+name+":")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(line)
}

// mask returns a set of signals of a /proc/PID/status.
func mask(status, name string) uint64 {
	bits, _ := strconv.ParseUint(field(status, name), 16, 64)
	return bits
}
