// Package run carries out an order: it prepares the machine, runs the command and reports how it ended.
package run

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"vimto/guest/internal/process"
	"vimto/guest/internal/sys"
	"vimto/guest/internal/warmup"
	"vimto/guest/internal/wire"
)

// NotPID1 is the exit status of this program if it is not PID 1.
const NotPID1 = 2

// Runner carries out the priming order and the real one, with the same goroutines.
type Runner struct {
	build  string // names the source this was built from
	reaper *process.Reaper
	worker worker
	warmup *warmup.Program
}

// NewRunner returns a runner for the program that build names; warmup may be nil.
func NewRunner(build string, reaper *process.Reaper, warmup *warmup.Program) *Runner {
	return &Runner{build: build, reaper: reaper, worker: newWorker(), warmup: warmup}
}

// Serve carries out the host's order. It returns when the host has closed the port.
func (r *Runner) Serve(p *wire.Port) error { return r.serve(p, false) }

// serve carries out one order. A priming order leaves the machine as it is.
func (r *Runner) serve(p *wire.Port, priming bool) error {
	if err := p.Write(describe(r.build).Frame()); err != nil {
		return err
	}
	k, payload, err := p.Next()
	received := time.Now()
	if err != nil {
		return fmt.Errorf("waiting for the order: %w", err)
	}
	if k != wire.KindRun {
		return fmt.Errorf("waiting for the order: the host sent a frame of another kind: %s", k)
	}
	if err := p.Send(wire.KindAccepted, []byte("{}")); err != nil {
		return err
	}
	s, err := r.accept(p, payload, received)
	if err != nil {
		_ = p.Write(wire.Exit{Status: wire.StatusLost, Stage: "mount", Err: err.Error()}.Frame())
		_, _, err = p.Next()
		return err
	}
	s.priming = priming
	s.spawn(s.clock.run)
	r.worker <- s.run
	err = s.dispatch()
	_ = syscall.Kill(-1, syscall.SIGKILL)
	_ = s.flush()
	return err
}

// worker is a goroutine that does one thing after another. For the real order its stack has already grown, by
// the priming order: moving a stack is a lot of code.
type worker chan func()

func newWorker() worker {
	w := make(worker)
	go func() {
		for do := range w {
			do()
		}
	}()
	return w
}

// accept parses the order and makes this machine differ from all others that have the same snapshot.
func (r *Runner) accept(p *wire.Port, payload []byte, received time.Time) (*session, error) {
	o, err := wire.ParseOrder(payload)
	if err != nil {
		return nil, err
	}
	warmed := func() {}
	if o.WarmUp {
		warmed = r.warmup.Start()
	}
	if err := setClock(o.TimeNS, received); err != nil {
		return nil, fmt.Errorf("set the clock: %w", err)
	}
	if err := addEntropy(o.Entropy); err != nil {
		return nil, fmt.Errorf("add entropy: %w", err)
	}
	if o.Hostname != "" {
		if err := syscall.Sethostname([]byte(o.Hostname)); err != nil {
			return nil, fmt.Errorf("set the host name `%s`: %w", o.Hostname, err)
		}
	}
	s, err := newSession(p, r.reaper, o, received)
	if err != nil {
		return nil, err
	}
	s.warmed = warmed
	if s.log, err = openKernelLog(); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open the kernel's log: %w", err)
	}
	return s, nil
}

// describe returns what the ready frame says.
func describe(build string) wire.Ready {
	r := wire.Ready{Agent: build, Release: sys.Release(), CPUs: countCPUs()}
	if text, err := os.ReadFile("/proc/uptime"); err == nil {
		var seconds float64
		_, _ = fmt.Sscan(string(text), &seconds)
		r.BootMS = int64(seconds * 1000)
	}
	text, _ := os.ReadFile("/proc/filesystems")
	for _, line := range strings.Split(string(text), "\n") {
		if fields := strings.Fields(line); len(fields) > 0 {
			r.Filesystems = append(r.Filesystems, fields[len(fields)-1])
		}
	}
	return r
}

// countCPUs returns how many processors are online, from a list like `0-3,5`.
func countCPUs() int {
	text, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		return 1
	}
	count := 0
	for _, part := range strings.Split(string(sys.TrimNewline(text)), ",") {
		var first, last int
		switch n, _ := fmt.Sscanf(part, "%d-%d", &first, &last); n {
		case 1:
			count++
		case 2:
			count += last - first + 1
		}
	}
	return max(count, 1)
}
