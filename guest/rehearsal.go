package main

import (
	"errors"
	"fmt"
	"syscall"
)

// rehearsal is an order for a command that ends at once: this program itself, which refuses to be
// anything but PID 1.
const rehearsal = `{"protocol":1,"argv":["/init"],"env":["PATH=/bin","HOME=/"],"dir":"/","umask":18,` +
	`"stdin":"null","stdout":"pipe","stderr":"pipe","warm_up":true}`

// rehearse carries out a small order before the real one can come, with ourselves as the host. Whatever
// the runtime and the kernel do at the first time only (starting threads, growing heaps and stacks,
// filling caches, setting up the poller) is then part of a save, and no restored machine does it again.
func rehearse(c *crew) error {
	ends, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	result := make(chan error, 1)
	go func() {
		result <- direct(newPort(ends[1]))
		syscall.Close(ends[1])
	}()
	p := newPort(ends[0])
	err = serve(p, c, true)
	syscall.Close(ends[0])
	return errors.Join(err, <-result)
}

// direct plays the host's part in the rehearsal.
func direct(p *port) error {
	if err := p.send(kindRun, []byte(rehearsal)); err != nil {
		return err
	}
	for {
		k, payload, err := p.next()
		if err != nil {
			return fmt.Errorf("the rehearsal broke off: %w", err)
		}
		switch k {
		case kindClock:
			err = p.send(kindClock, make([]byte, 8)) // no time: the clock is left alone
			if err != nil {
				return err
			}
		case kindExit:
			value, err := decode(payload)
			f := &fields{err: &err}
			f.members = f.object("exit", value)
			if status := f.number("status"); err == nil && status != refusal {
				err = fmt.Errorf("the rehearsal ended with status %d: %s", status, f.text("error"))
			}
			return err
		}
	}
}
