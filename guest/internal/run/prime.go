package run

import (
	"errors"
	"fmt"

	"vimto/guest/internal/wire"
)

// primingOrder is an order for a command that ends at once: this program itself, which runs only as PID 1.
const primingOrder = `{"protocol":1,"argv":["/init"],"env":["PATH=/bin","HOME=/"],"dir":"/","umask":18,` +
	`"stdin":"null","stdout":"pipe","stderr":"pipe","warm_up":true}`

// Prime carries out a small order before the snapshot is taken, and plays the host for it. What the runtime and
// the kernel do only the first time (starting threads, growing heaps and stacks, filling caches, setting up
// the poller) is then part of the snapshot, and restored machines need not do it.
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

// playHost sends the priming order and takes the result.
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
