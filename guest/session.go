package main

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
)

// noFile is a descriptor that the command shall find closed.
const noFile = ^uintptr(0)

// session is one order from its arrival to the exit frame.
type session struct {
	port      *port
	reaper    *reaper
	order     *order
	received  time.Time
	log       *kernelLog
	rehearsal bool    // nothing is mounted
	warming   *warmer // what was begun for this order, if anything
	channels  *channels
	ended     sync.Once

	clock *clock

	resumed    chan struct{} // closed when the host has answered our pause
	resumeOnce sync.Once

	stdin          *input
	stdinFile      *os.File // our end; nil if the command has no pipe
	stdout, stderr *output  // nil if the command has none of its own
	tty            *pty
	files          []uintptr // the command's descriptors 0, 1 and 2

	mu        sync.Mutex
	stage     string
	leader    int              // the running command's (or setup command's) pid and process group
	deferred  []syscall.Signal // came before the command started
	sleepers  sleepers
	writeBack writeBack
}

// newSession makes the streams, so that the host's frames have a place to go at once.
func newSession(p *port, r *reaper, o *order, received time.Time) (*session, error) {
	s := &session{port: p, reaper: r, order: o, received: received, channels: newChannels(p, o.uid, o.gid), stage: "mount"}
	s.clock, s.resumed = newClock(p), make(chan struct{})
	s.stdin = &input{queue: newQueue(stdinWindow), terminal: o.pty != nil}
	if o.pty != nil {
		return s, s.openTerminal()
	}
	return s, s.openPipes()
}

func (s *session) openTerminal() error {
	tty, err := openPty(*s.order.pty, s.order.uid)
	if err != nil {
		return err
	}
	slave := uintptr(tty.slave)
	s.tty, s.files = tty, []uintptr{slave, slave, slave}
	s.stdinFile = tty.file
	if s.stdout, err = newOutput(kindStdout, tty.master); err != nil {
		return err
	}
	s.stdout.shut = func() { tty.file.Close() }
	if s.order.streams[2] != "stdout" { // led elsewhere on the host, so here too
		return s.openStream(2)
	}
	return nil
}

func (s *session) openPipes() error {
	s.files = []uintptr{noFile, noFile, noFile}
	for fd := range s.order.streams {
		if err := s.openStream(fd); err != nil {
			return err
		}
	}
	return nil
}

// openStream makes one of the command's descriptors as the order has it.
func (s *session) openStream(fd int) error {
	switch mode := s.order.streams[fd]; mode {
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
		ours, theirs, err := makePipe(s.order.uid, s.order.gid, fd == 0)
		if err != nil {
			return fmt.Errorf("pipe: %w", err)
		}
		s.files[fd] = uintptr(theirs)
		switch fd {
		case 0:
			s.stdinFile = os.NewFile(uintptr(ours), "stdin")
		case 1:
			s.stdout, err = newOutput(kindStdout, ours)
		case 2:
			s.stderr, err = newOutput(kindStderr, ours)
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
	if !s.rehearsal && !s.reaper.killAll(5*time.Second) {
		s.warn("processes that cannot be killed are left behind")
	}
	if !s.channels.settle(settleLimit) {
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
		s.end(exit{status: problem.status, err: problem.Error(), stage: problem.stage, hint: problem.hint})
		return
	}
	report := exit{status: status.ExitStatus(), stage: "command"}
	if status.Signaled() {
		report.signal, report.core = int(status.Signal()), status.CoreDump()
		report.status = 128 + report.signal
	}
	s.end(report)
}

// tearDown runs the teardown commands, all of them, and returns the failures.
func (s *session) tearDown() []*failure {
	var failures []*failure
	for _, teardown := range s.order.teardown {
		s.leave("teardown")
		if err := s.runSetup(teardown); err != nil {
			failures = append(failures, failed("teardown", fmt.Errorf("teardown: %w", err)))
		}
	}
	return failures
}

// execute prepares the guest and runs the command; the failure says why it was never started.
func (s *session) execute() (syscall.WaitStatus, *failure) {
	if !s.rehearsal {
		if err := mountRoot(s.order); err != nil {
			return 0, failed("mount", err)
		}
	}
	if problem := s.prepare(); problem != nil {
		return 0, problem
	}
	if s.stdinFile != nil {
		go guarded(s, func() { s.stdin.pump(s.port, s.stdinFile) })
	} else {
		s.stdin.queue.drop()
	}
	<-s.clock.set
	if s.order.gdbPause {
		_ = s.port.send(kindPaused, []byte("{}"))
		<-s.resumed
	}
	syscall.Umask(s.order.umask)
	s.enter("start")
	c := command{argv: s.order.argv, env: s.order.env, dir: s.order.dir, files: s.files}
	// Without a terminal it leads a process group only: the leader of a session makes any terminal that
	// it opens its own, and dies of SIGHUP when a test closes that (os.TestSpliceFile/TCP-To-TTY).
	c.attr = &syscall.SysProcAttr{
		Setsid: s.tty != nil, Setctty: s.tty != nil, Setpgid: s.tty == nil,
		Credential: &syscall.Credential{Uid: s.order.uid, Gid: s.order.gid, Groups: s.order.groups},
	}
	pid, done, problem := c.start(s.reaper)
	s.closeFiles()
	if problem != nil {
		return 0, problem
	}
	syscall.Umask(0o022)
	s.enter("command")
	_ = s.port.write(started{pid, time.Since(s.received).Milliseconds()}.frame())
	for _, out := range []*output{s.stdout, s.stderr} {
		if out := out; out != nil {
			go guarded(s, func() { out.pump(s.port) })
		}
	}
	s.lead(pid)
	if !s.rehearsal {
		go guarded(s, func() { holdExecuted(s.order.shares) })
	}
	status := <-done
	s.lead(0)
	for _, out := range []*output{s.stdout, s.stderr} {
		if out != nil {
			out.finish()
		}
	}
	return status, nil
}

// prepare does the rest of what the command finds done: parameters, limits, network, setup commands.
func (s *session) prepare() *failure {
	s.enter("setup")
	if err := setSysctls(s.order.sysctls); err != nil {
		return failed("setup", err)
	}
	if err := setLimits(s.order.rlimits); err != nil {
		return failed("setup", err)
	}
	if s.order.network {
		if err := startNetwork(""); err != nil {
			return failed("setup", err)
		}
	}
	if dir := variable(s.order.env, "XDG_RUNTIME_DIR", ""); strings.HasPrefix(dir, "/run/") {
		if os.MkdirAll(dir, 0o755) == nil && os.Chmod(dir, 0o700) == nil {
			_ = os.Chown(dir, int(s.order.uid), int(s.order.gid))
		}
	}
	s.warming.wait()
	claims := claimed(s.order.setup)
	unmountClaimed(claims)
	for _, setup := range s.order.setup {
		if err := s.runSetup(setup); err != nil {
			return failed("setup", fmt.Errorf("setup: %w", err))
		}
	}
	remountMissing(claims)
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
	ours, theirs, err := makePipe(0, 0, false)
	if err != nil {
		return err
	}
	out, err := newOutput(kindNotice, ours)
	if err != nil {
		return err
	}
	out.level = s.stage
	c := command{argv: argv, env: s.order.env, dir: s.order.dir}
	c.files = []uintptr{uintptr(null), uintptr(theirs), uintptr(theirs)}
	c.attr = &syscall.SysProcAttr{Setpgid: true}
	pid, done, problem := c.start(s.reaper)
	syscall.Close(null)
	syscall.Close(theirs)
	if problem != nil {
		out.stop()
		out.close()
		return fmt.Errorf("command `%s`: %w", strings.Join(c.argv, " "), problem.err)
	}
	go guarded(s, func() { out.pump(s.port) })
	s.lead(pid)
	status := <-done
	s.lead(0)
	out.finish()
	if status.Exited() && status.ExitStatus() == 0 {
		return nil
	}
	how := fmt.Sprintf("status %d", status.ExitStatus())
	if status.Signaled() {
		how = fmt.Sprintf("signal %d (%s)", int(status.Signal()), status.Signal())
	}
	text := fmt.Sprintf("command `%s` ended with %s", strings.Join(c.argv, " "), how)
	// A teardown's is shown in any case: a `dmesg`, a log.
	if last := strings.TrimSpace(string(out.tail)); last != "" && s.stage == "setup" {
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
	for _, shared := range s.order.shares {
		if shared.readonly {
			continue
		}
		fd, err := syscall.Open(shared.path, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
		if err == nil {
			_, _, errno := syscall.Syscall(sysSyncfs, uintptr(fd), 0, 0)
			err = errnoOrNil(errno)
			syscall.Close(fd)
		} else {
			syscall.Sync() // the mount may be hidden or gone; what it holds may not
			err = nil
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("share `%s`: writing back: %w", shared.path, err))
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
	_ = s.port.write(notice{"stage", stage}.frame())
}

func (s *session) warn(text string) { _ = s.port.write(notice{"warning", text}.frame()) }

// end sends the exit frame, whoever comes first.
func (s *session) end(report exit) {
	s.ended.Do(func() { _ = s.port.write(report.frame()) })
}

// rescue turns a panic of ours into an exit frame: the host must never be left without a word.
func (s *session) rescue() {
	if cause := recover(); cause != nil {
		logPanic(cause)
		s.mu.Lock()
		stage := s.stage
		s.mu.Unlock()
		s.end(exit{status: statusLost, stage: stage, err: fmt.Sprintf("the guest program failed: %v", cause),
			hint: "this is a fault of vimto's; the console log has the stack"})
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
		k, payload, err := s.port.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = s.handle(k, payload)
		}
		if err != nil {
			s.end(exit{status: statusLost, stage: "command", err: "protocol error: " + err.Error()})
			return err
		}
	}
}

func (s *session) handle(k kind, payload []byte) error {
	switch k {
	case kindStdin:
		if len(payload) == 0 {
			s.stdin.queue.end()
			return nil
		}
		return s.stdin.queue.put(payload)
	case kindAck:
		return s.acknowledge(payload)
	case kindSignal:
		if len(payload) != 1 {
			return fmt.Errorf("signal frame has %d bytes", len(payload))
		}
		return s.signal(syscall.Signal(payload[0]))
	case kindResize:
		if len(payload) != 4 {
			return fmt.Errorf("resize frame has %d bytes", len(payload))
		}
		if s.tty != nil {
			_ = s.tty.resize(size{binary.LittleEndian.Uint16(payload), binary.LittleEndian.Uint16(payload[2:])})
		}
	case kindClock:
		if len(payload) != 8 {
			return fmt.Errorf("clock frame has %d bytes", len(payload))
		}
		s.clock.told(int64(binary.LittleEndian.Uint64(payload)), time.Now())
	case kindResume:
		s.resumeOnce.Do(func() { close(s.resumed) })
	case kindOpen:
		return s.channels.dial(payload)
	case kindData, kindDataAck, kindClose, kindReset:
		return s.channels.handle(k, payload)
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
	if payload[0] == streamStderr {
		out = s.stderr
	}
	if payload[0] == streamStdin || payload[0] > streamStderr || out == nil {
		return fmt.Errorf("ack of stream %d, which is not sent", payload[0])
	}
	count := binary.LittleEndian.Uint32(payload[1:])
	if count == readerGone {
		out.abandon()
		return nil
	}
	return out.credit.add(count)
}
