package run

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"vimto/guest/internal/process"
	"vimto/guest/internal/streams"
)

// runSetup runs one setup or teardown command as root; its output becomes notices.
func (s *session) runSetup(argv []string) error {
	if len(argv) == 0 {
		return nil
	}
	null, err := syscall.Open("/dev/null", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	out, theirs, err := streams.NewNotices(s.stage)
	if err != nil {
		syscall.Close(null)
		return err
	}
	c := process.Command{Argv: argv, Env: s.order.Env, Dir: s.order.Dir}
	c.Files = []uintptr{uintptr(null), uintptr(theirs), uintptr(theirs)}
	c.Attr = &syscall.SysProcAttr{Setpgid: true}
	pid, done, problem := c.Start(s.reaper)
	syscall.Close(null)
	syscall.Close(theirs)
	if problem != nil {
		out.Cancel()
		return fmt.Errorf("command `%s`: %w", strings.Join(c.Argv, " "), problem.Err)
	}
	s.spawn(func() { out.Pump(s.port) })
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
	// The output of teardown commands, such as `dmesg`, is shown in any case.
	if last := strings.TrimSpace(out.Tail()); last != "" && s.stage == "setup" {
		text += "; its last output:\n" + last
	}
	return errors.New(text)
}

// tearDown runs all teardown commands and returns the failures.
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
