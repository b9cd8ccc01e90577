package run

import (
	"errors"
	"fmt"

	"vimto/guest/internal/wire"
)

// primingOrder is one for a command that ends at once: this program itself, which refuses to be
// anything but PID 1.
const primingOrder = `{"protocol":1,"argv":["/init"],"env":["PATH=/bin","HOME=/"],"dir":"/","umask":18,` +
	`"stdin":"null","stdout":"pipe","stderr":"pipe","warm_up":true}`

// Prime carries out a small order before the real one can come, with ourselves as the host. Whatever
// the runtime and the kernel do at the first time only (starting threads, growing heaps and stacks,
// filling caches, setting up the poller) is then part of a save, and no restored machine does it again.
func (r *Runner) Prime() error {
	guest, host, err := wire.NewPair()
	if err != nil {
		return err
	}
	result := make(chan error, 1)
	go func() {
		result <- playHost(host)
		host.Close()
	}()
	err = r.serve(guest, true)
	guest.Close()
	return errors.Join(err, <-result)
}

// playHost gives the priming order and takes its result.
func playHost(p *wire.Port) error {
	if err := p.Send(wire.KindRun, []byte(primingOrder)); err != nil {
		return err
	}
	for {
		k, payload, err := p.Next()
		if err != nil {
			return fmt.Errorf("the priming order broke off: %w", err)
		}
		switch k {
		case wire.KindClock:
			err = p.Send(wire.KindClock, make([]byte, 8)) // no time: the clock is left alone
			if err != nil {
				return err
			}
		case wire.KindExit:
			report, err := wire.ParseExit(payload)
			if err == nil && report.Status != NotPID1 {
				err = fmt.Errorf("the priming order ended with status %d: %s", report.Status, report.Err)
			}
			return err
		}
	}
}
