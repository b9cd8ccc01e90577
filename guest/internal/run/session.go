package run

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"vimto/guest/internal/console"
	"vimto/guest/internal/dump"
	"vimto/guest/internal/forward"
	"vimto/guest/internal/mounts"
	"vimto/guest/internal/network"
	"vimto/guest/internal/process"
	"vimto/guest/internal/streams"
	"vimto/guest/internal/sys"
	"vimto/guest/internal/wire"
)

// session is one order from its arrival to the exit frame.
type session struct {
	port     *wire.Port
	reaper   *process.Reaper
	order    *wire.Order
	received time.Time
	begun    time.Time // when the command started
	log      *kernelLog
	priming  bool   // nothing is mounted
	warmed   func() // waits for the end of the warm-up, if one was started
	channels *forward.Channels
	ended    sync.Once

	clock *clock

	resumed    chan struct{} // closed when the host has answered our pause
	resumeOnce sync.Once

	stdio *streams.Stdio

	mu        sync.Mutex
	stage     string
	leader    int              // the running command's (or setup command's) pid and process group
	deferred  []syscall.Signal // came before the command started
	sleepers  sleepers
	writeBack writeBack
}

// newSession makes the streams too, so that the host's frames have a place to go from the start.
func newSession(p *wire.Port, r *process.Reaper, o *wire.Order, received time.Time) (*session, error) {
	stdio, err := streams.Open(o)
	if err != nil {
		return nil, err
	}
	return &session{
		port: p, reaper: r, order: o, received: received, stage: "mount", stdio: stdio,
		warmed: func() {}, channels: forward.New(p, o.UID, o.GID), clock: newClock(p), resumed: make(chan struct{}),
		writeBack: writeBack{count: countWritten},
	}, nil
}

// run does what the order says and reports how it ended.
func (s *session) run() {
	defer s.rescue()
	status, problem := s.execute()
	after := s.tearDown()
	if !s.priming && !s.reaper.KillAll(5*time.Second) {
		s.warn("processes that cannot be killed are left behind")
	}
	s.warnOfDumps()
	if !s.channels.Settle(forward.SettleLimit) {
		after = append(after, failed("flush", errors.New("what the command sent on a forwarded connection was not read")))
	}
	s.leave("flush")
	if err := s.flush(); err != nil {
		after = append(after, failed("flush", err))
	}
	if s.log != nil {
		if text := s.log.summary(); text != "" {
			s.warn(text)
		}
	}
	if problem == nil && status == 0 && len(after) > 0 {
		problem, after = after[0], after[1:]
	}
	for _, other := range after { // the command's status, or an earlier failure, is the result
		s.warn(other.Error())
	}
	if problem != nil {
		s.end(wire.Exit{Status: problem.status, Err: problem.Error(), Stage: problem.stage, Hint: problem.hint})
		return
	}
	report := wire.Exit{Status: status.ExitStatus(), Stage: "command"}
	if status.Signaled() {
		report.Signal, report.Core = int(status.Signal()), status.CoreDump()
		report.Status = 128 + report.Signal
	}
	s.end(report)
}

// warnOfDumps names the core dumps that the host will not find because the command's directory is not shared.
func (s *session) warnOfDumps() {
	if s.priming || s.begun.IsZero() || isShared(s.order.Shares, s.order.Dir) {
		return
	}
	for _, name := range dump.Find(s.order.Dir, s.begun) {
		s.warn(fmt.Sprintf("the core dump `%s/%s` goes with the machine; `-share .` keeps it", s.order.Dir, name))
	}
}

// isShared says whether what is written to directory stays on the host.
func isShared(shares []wire.Share, directory string) bool {
	for _, share := range shares {
		if !share.Readonly && strings.HasPrefix(directory+"/", strings.TrimSuffix(share.Path, "/")+"/") {
			return true
		}
	}
	return false
}

// execute prepares the guest and runs the command; a failure says why it was never started.
func (s *session) execute() (syscall.WaitStatus, *failure) {
	if !s.priming {
		if err := dump.Place(s.order.Dir); err != nil {
			return 0, failed("mount", err)
		}
		if err := mounts.Root(s.order); err != nil {
			return 0, failed("mount", err)
		}
	}
	if problem := s.prepare(); problem != nil {
		return 0, problem
	}
	s.stdio.StartInput(s.port, s.spawn)
	<-s.clock.set
	if s.order.GDBPause {
		_ = s.port.Send(wire.KindPaused, []byte("{}"))
		<-s.resumed
	}
	syscall.Umask(s.order.Umask)
	s.enter("start")
	s.begun = time.Now()
	c := process.Command{Argv: s.order.Argv, Env: s.order.Env, Dir: s.order.Dir, Files: s.stdio.Files[:]}
	// Without a terminal it leads only a process group: the first terminal that a session's leader opens becomes
	// its controlling terminal, and the leader dies of SIGHUP when a test closes that
	// (os.TestSpliceFile/TCP-To-TTY).
	terminal := s.stdio.IsTerminal()
	c.Attr = &syscall.SysProcAttr{
		Setsid: terminal, Setctty: terminal, Setpgid: !terminal,
		Credential: &syscall.Credential{Uid: s.order.UID, Gid: s.order.GID, Groups: s.order.Groups},
	}
	pid, done, problem := c.Start(s.reaper)
	s.stdio.CloseFiles()
	if problem != nil {
		return 0, notStarted(problem)
	}
	syscall.Umask(0o022)
	s.enter("command")
	_ = s.port.Write(wire.Started{Pid: pid, MountMS: time.Since(s.received).Milliseconds()}.Frame())
	s.stdio.StartOutput(s.port, s.spawn)
	s.lead(pid)
	if !s.priming {
		s.spawn(func() { holdExecuted(s.order.Shares) })
	}
	status := <-done
	s.lead(0)
	s.stdio.Finish()
	return status, nil
}

// prepare finds devices, sets parameters, limits and the network, and runs the setup commands.
func (s *session) prepare() *failure {
	s.enter("setup")
	if problem := s.findDevices(); problem != nil {
		return problem
	}
	if err := setSysctls(s.order.Sysctls); err != nil {
		return failed("setup", err)
	}
	if err := setLimits(s.order.Limits); err != nil {
		return failed("setup", err)
	}
	if s.order.Network {
		if err := network.Start(""); err != nil {
			return failed("setup", err)
		}
	}
	if dir := process.Getenv(s.order.Env, "XDG_RUNTIME_DIR", ""); strings.HasPrefix(dir, "/run/") {
		if os.MkdirAll(dir, 0o755) == nil && os.Chmod(dir, 0o700) == nil {
			_ = os.Chown(dir, int(s.order.UID), int(s.order.GID))
		}
	}
	s.warmed()
	claims := mounts.Yield(s.order.Setup)
	for _, setup := range s.order.Setup {
		if err := s.runSetup(setup); err != nil {
			return failed("setup", fmt.Errorf("setup: %w", err))
		}
	}
	claims.Restore()
	return nil
}

// flush writes everything back to the host. QEMU is killed after the exit frame, and dirty pages of a shared
// mapping would be lost with it.
func (s *session) flush() error {
	var problems []error
	for _, shared := range s.order.Shares {
		if shared.Readonly {
			continue
		}
		fd, err := syscall.Open(shared.Path, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
		if err == nil {
			_, _, errno := syscall.Syscall(sys.SYS_SYNCFS, uintptr(fd), 0, 0)
			err = sys.Err(errno)
			syscall.Close(fd)
		} else {
			syscall.Sync() // the mount may be hidden or gone, but not what it holds
			err = nil
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("write back share `%s`: %w", shared.Path, err))
		}
	}
	if s.order.WriteBack {
		problems = append(problems, writeBackDisks())
	}
	return errors.Join(problems...)
}

// enter notes the stage for signals, and for the report if this program panics.
func (s *session) enter(stage string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stage = stage
}

// leave enters a stage after the command's and tells the host, whose limits on the command then no longer hold.
func (s *session) leave(stage string) {
	s.enter(stage)
	_ = s.port.Write(wire.Notice{Level: "stage", Text: stage}.Frame())
}

func (s *session) warn(text string) {
	_ = s.port.Write(wire.Notice{Level: "warning", Text: text}.Frame())
}

// end sends the exit frame, unless another goroutine has.
func (s *session) end(report wire.Exit) {
	s.ended.Do(func() { _ = s.port.Write(report.Frame()) })
}

// rescue, deferred, turns a panic into an exit frame: the host must always learn how the session ended.
func (s *session) rescue() {
	if cause := recover(); cause != nil {
		console.LogPanic(cause)
		s.mu.Lock()
		stage := s.stage
		s.mu.Unlock()
		s.end(wire.Exit{Status: wire.StatusLost, Stage: stage, Err: fmt.Sprintf("the guest program failed: %v", cause),
			Hint: "this is a bug in vimto; the console log has the stack"})
	}
}

// spawn starts a goroutine whose panic becomes an exit frame.
func (s *session) spawn(do func()) {
	go func() {
		defer s.rescue()
		do()
	}()
}
