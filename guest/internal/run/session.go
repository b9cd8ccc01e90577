package run

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
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

// noFile is a descriptor that the command shall find closed.
const noFile = ^uintptr(0)

// session is one order from its arrival to the exit frame.
type session struct {
	port     *wire.Port
	reaper   *process.Reaper
	order    *wire.Order
	received time.Time
	log      *kernelLog
	priming  bool   // nothing is mounted
	warmed   func() // waits for the end of the warm-up, if one was started
	channels *forward.Channels
	ended    sync.Once

	clock *clock

	resumed    chan struct{} // closed when the host has answered our pause
	resumeOnce sync.Once

	stdin          *streams.Input
	stdinFile      *os.File        // our end; nil if the command has no pipe
	stdout, stderr *streams.Output // nil if the command has none of its own
	tty            *streams.Terminal
	files          []uintptr // the command's descriptors 0, 1 and 2

	mu        sync.Mutex
	stage     string
	leader    int              // the running command's (or setup command's) pid and process group
	deferred  []syscall.Signal // came before the command started
	sleepers  sleepers
	writeBack writeBack
}

// newSession makes the streams, so that the host's frames have a place to go at once.
func newSession(p *wire.Port, r *process.Reaper, o *wire.Order, received time.Time) (*session, error) {
	s := &session{port: p, reaper: r, order: o, received: received, channels: forward.New(p, o.UID, o.GID), stage: "mount"}
	s.clock, s.resumed = newClock(p), make(chan struct{})
	s.stdin = &streams.Input{Queue: wire.NewQueue(wire.StdinWindow), Terminal: o.Terminal != nil}
	if o.Terminal != nil {
		return s, s.openTerminal()
	}
	return s, s.openPipes()
}

func (s *session) openTerminal() error {
	tty, err := streams.OpenTerminal(*s.order.Terminal, s.order.UID)
	if err != nil {
		return err
	}
	slave := uintptr(tty.Slave)
	s.tty, s.files = tty, []uintptr{slave, slave, slave}
	s.stdinFile = tty.File
	if s.stdout, err = streams.NewOutput(wire.KindStdout, tty.Master); err != nil {
		return err
	}
	s.stdout.Shut = func() { tty.File.Close() }
	if s.order.Streams[2] != "stdout" { // led elsewhere on the host, so here too
		return s.openStream(2)
	}
	return nil
}

func (s *session) openPipes() error {
	s.files = []uintptr{noFile, noFile, noFile}
	for fd := range s.order.Streams {
		if err := s.openStream(fd); err != nil {
			return err
		}
	}
	return nil
}

// openStream makes one of the command's descriptors as the order has it.
func (s *session) openStream(fd int) error {
	switch mode := s.order.Streams[fd]; mode {
	case "closed":
		s.files[fd] = noFile
	case "null":
		null, err := syscall.Open("/dev/null", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		s.files[fd] = uintptr(null)
	case "stdout":
		s.files[fd] = s.files[1]
	case "pipe":
		ours, theirs, err := streams.MakePipe(s.order.UID, s.order.GID, fd == 0)
		if err != nil {
			return fmt.Errorf("pipe: %w", err)
		}
		s.files[fd] = uintptr(theirs)
		switch fd {
		case 0:
			s.stdinFile = os.NewFile(uintptr(ours), "stdin")
		case 1:
			s.stdout, err = streams.NewOutput(wire.KindStdout, ours)
		case 2:
			s.stderr, err = streams.NewOutput(wire.KindStderr, ours)
		}
		return err
	default:
		return fmt.Errorf("stream %d: unknown mode `%s`", fd, mode)
	}
	return nil
}

// run does what the order says and reports it.
func (s *session) run() {
	defer s.rescue()
	status, problem := s.execute()
	after := s.tearDown()
	if !s.priming && !s.reaper.KillAll(5*time.Second) {
		s.warn("processes that cannot be killed are left behind")
	}
	if !s.channels.Settle(forward.SettleLimit) {
		after = append(after, failed("flush", errors.New("what the command sent on a forwarded connection was not read")))
	}
	s.leave("flush")
	if err := s.flush(); err != nil {
		after = append(after, failed("flush", err))
	}
	if s.log != nil {
		if text := s.log.trouble(); text != "" {
			s.warn(text)
		}
	}
	if problem == nil && status == 0 && len(after) > 0 {
		problem, after = after[0], after[1:]
	}
	for _, other := range after { // what the command, or an earlier failure, said is the result
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

// tearDown runs the teardown commands, all of them, and returns the failures.
func (s *session) tearDown() []*failure {
	var failures []*failure
	for _, teardown := range s.order.Teardown {
		s.leave("teardown")
		if err := s.runSetup(teardown); err != nil {
			failures = append(failures, failed("teardown", fmt.Errorf("teardown: %w", err)))
		}
	}
	return failures
}

// execute prepares the guest and runs the command; the failure says why it was never started.
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
	if s.stdinFile != nil {
		go guarded(s, func() { s.stdin.Pump(s.port, s.stdinFile) })
	} else {
		s.stdin.Queue.Drop()
	}
	<-s.clock.set
	if s.order.GDBPause {
		_ = s.port.Send(wire.KindPaused, []byte("{}"))
		<-s.resumed
	}
	syscall.Umask(s.order.Umask)
	s.enter("start")
	c := process.Command{Argv: s.order.Argv, Env: s.order.Env, Dir: s.order.Dir, Files: s.files}
	// Without a terminal it leads a process group only: the leader of a session makes any terminal that
	// it opens its own, and dies of SIGHUP when a test closes that (os.TestSpliceFile/TCP-To-TTY).
	c.Attr = &syscall.SysProcAttr{
		Setsid: s.tty != nil, Setctty: s.tty != nil, Setpgid: s.tty == nil,
		Credential: &syscall.Credential{Uid: s.order.UID, Gid: s.order.GID, Groups: s.order.Groups},
	}
	pid, done, problem := c.Start(s.reaper)
	s.closeFiles()
	if problem != nil {
		return 0, notStarted(problem)
	}
	syscall.Umask(0o022)
	s.enter("command")
	_ = s.port.Write(wire.Started{Pid: pid, MountMS: time.Since(s.received).Milliseconds()}.Frame())
	for _, out := range []*streams.Output{s.stdout, s.stderr} {
		if out := out; out != nil {
			go guarded(s, func() { out.Pump(s.port) })
		}
	}
	s.lead(pid)
	if !s.priming {
		go guarded(s, func() { holdExecuted(s.order.Shares) })
	}
	status := <-done
	s.lead(0)
	for _, out := range []*streams.Output{s.stdout, s.stderr} {
		if out != nil {
			out.Finish()
		}
	}
	return status, nil
}

// prepare does the rest of what the command finds done: parameters, limits, network, setup commands.
func (s *session) prepare() *failure {
	s.enter("setup")
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
	if dir := process.Variable(s.order.Env, "XDG_RUNTIME_DIR", ""); strings.HasPrefix(dir, "/run/") {
		if os.MkdirAll(dir, 0o755) == nil && os.Chmod(dir, 0o700) == nil {
			_ = os.Chown(dir, int(s.order.UID), int(s.order.GID))
		}
	}
	s.warmed()
	claims := mounts.Claimed(s.order.Setup)
	mounts.Unmount(claims)
	for _, setup := range s.order.Setup {
		if err := s.runSetup(setup); err != nil {
			return failed("setup", fmt.Errorf("setup: %w", err))
		}
	}
	mounts.RemountMissing(claims)
	return nil
}

// runSetup runs one setup or teardown command as root, its output being notices.
func (s *session) runSetup(argv []string) error {
	if len(argv) == 0 {
		return nil
	}
	null, err := syscall.Open("/dev/null", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	ours, theirs, err := streams.MakePipe(0, 0, false)
	if err != nil {
		return err
	}
	out, err := streams.NewOutput(wire.KindNotice, ours)
	if err != nil {
		return err
	}
	out.Level = s.stage
	c := process.Command{Argv: argv, Env: s.order.Env, Dir: s.order.Dir}
	c.Files = []uintptr{uintptr(null), uintptr(theirs), uintptr(theirs)}
	c.Attr = &syscall.SysProcAttr{Setpgid: true}
	pid, done, problem := c.Start(s.reaper)
	syscall.Close(null)
	syscall.Close(theirs)
	if problem != nil {
		out.Stop()
		out.Close()
		return fmt.Errorf("command `%s`: %w", strings.Join(c.Argv, " "), problem.Err)
	}
	go guarded(s, func() { out.Pump(s.port) })
	s.lead(pid)
	status := <-done
	s.lead(0)
	out.Finish()
	if status.Exited() && status.ExitStatus() == 0 {
		return nil
	}
	how := fmt.Sprintf("status %d", status.ExitStatus())
	if status.Signaled() {
		how = fmt.Sprintf("signal %d (%s)", int(status.Signal()), status.Signal())
	}
	text := fmt.Sprintf("command `%s` ended with %s", strings.Join(c.Argv, " "), how)
	// A teardown's is shown in any case: a `dmesg`, a log.
	if last := strings.TrimSpace(string(out.Tail)); last != "" && s.stage == "setup" {
		text += "; its last output:\n" + last
	}
	return errors.New(text)
}

func (s *session) closeFiles() {
	shut := map[uintptr]bool{noFile: true}
	for _, fd := range s.files {
		if !shut[fd] {
			shut[fd] = true
			syscall.Close(int(fd))
		}
	}
}

// flush writes everything back to the host: QEMU is killed after the exit frame, and the dirty pages of
// a shared mapping would die with it.
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
			syscall.Sync() // the mount may be hidden or gone; what it holds may not
			err = nil
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("share `%s`: writing back: %w", shared.Path, err))
		}
	}
	return errors.Join(problems...)
}

// enter notes where the session is, for a report on a panic of ours.
func (s *session) enter(stage string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stage = stage
}

// leave enters a stage after the command's, and tells the host, whose limits on the command end.
func (s *session) leave(stage string) {
	s.enter(stage)
	_ = s.port.Write(wire.Notice{Level: "stage", Text: stage}.Frame())
}

func (s *session) warn(text string) {
	_ = s.port.Write(wire.Notice{Level: "warning", Text: text}.Frame())
}

// end sends the exit frame, whoever comes first.
func (s *session) end(report wire.Exit) {
	s.ended.Do(func() { _ = s.port.Write(report.Frame()) })
}

// rescue turns a panic of ours into an exit frame: the host must never be left without a word.
func (s *session) rescue() {
	if cause := recover(); cause != nil {
		console.LogPanic(cause)
		s.mu.Lock()
		stage := s.stage
		s.mu.Unlock()
		s.end(wire.Exit{Status: wire.StatusLost, Stage: stage, Err: fmt.Sprintf("the guest program failed: %v", cause),
			Hint: "this is a fault of vimto's; the console log has the stack"})
	}
}

func guarded(s *session, do func()) {
	defer s.rescue()
	do()
}

// dispatch handles the host's frames until it goes away.
func (s *session) dispatch() error {
	defer s.rescue()
	for {
		k, payload, err := s.port.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = s.handle(k, payload)
		}
		if err != nil {
			s.end(wire.Exit{Status: wire.StatusLost, Stage: "command", Err: "protocol error: " + err.Error()})
			return err
		}
	}
}

func (s *session) handle(k wire.Kind, payload []byte) error {
	switch k {
	case wire.KindStdin:
		if len(payload) == 0 {
			s.stdin.Queue.End()
			return nil
		}
		return s.stdin.Queue.Put(payload)
	case wire.KindAck:
		return s.acknowledge(payload)
	case wire.KindSignal:
		if len(payload) != 1 {
			return fmt.Errorf("signal frame has %d bytes", len(payload))
		}
		return s.signal(syscall.Signal(payload[0]))
	case wire.KindResize:
		if len(payload) != 4 {
			return fmt.Errorf("resize frame has %d bytes", len(payload))
		}
		if s.tty != nil {
			_ = s.tty.Resize(wire.Size{
				Rows: binary.LittleEndian.Uint16(payload), Cols: binary.LittleEndian.Uint16(payload[2:]),
			})
		}
	case wire.KindClock:
		if len(payload) != 8 {
			return fmt.Errorf("clock frame has %d bytes", len(payload))
		}
		s.clock.told(int64(binary.LittleEndian.Uint64(payload)), time.Now())
	case wire.KindResume:
		s.resumeOnce.Do(func() { close(s.resumed) })
	case wire.KindOpen:
		return s.channels.Dial(payload)
	case wire.KindData, wire.KindDataAck, wire.KindClose, wire.KindReset:
		return s.channels.Handle(k, payload)
	default:
		return fmt.Errorf("frame of kind %d goes the other way", k)
	}
	return nil
}

func (s *session) acknowledge(payload []byte) error {
	if len(payload) != 5 {
		return fmt.Errorf("ack frame has %d bytes", len(payload))
	}
	out := s.stdout
	if payload[0] == wire.StreamStderr {
		out = s.stderr
	}
	if payload[0] == wire.StreamStdin || payload[0] > wire.StreamStderr || out == nil {
		return fmt.Errorf("ack of stream %d, which is not sent", payload[0])
	}
	count := binary.LittleEndian.Uint32(payload[1:])
	if count == wire.ReaderGone {
		out.Abandon()
		return nil
	}
	return out.Credit.Add(count)
}
