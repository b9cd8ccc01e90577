package wire

import (
	"fmt"
	"sync"
)

// Credit counts how many bytes may still be sent before the host has to acknowledge some.
type Credit struct {
	mu     sync.Mutex
	change *sync.Cond
	window int
	left   int
	closed bool
}

func NewCredit(window int) *Credit {
	c := &Credit{window: window, left: window}
	c.change = sync.NewCond(&c.mu)
	return c
}

// Wait blocks until something may be sent and returns how much; 0 means that nothing ever will.
func (c *Credit) Wait() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.left == 0 && !c.closed {
		c.change.Wait()
	}
	if c.closed {
		return 0
	}
	return c.left
}

// Spend takes n bytes of what wait returned. Only one sender may use a credit.
func (c *Credit) Spend(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left -= n
}

// Add takes an acknowledgement of n bytes. Those that were never sent are a protocol error.
func (c *Credit) Add(n uint32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if uint64(c.left)+uint64(n) > uint64(c.window) {
		return fmt.Errorf("%d bytes are acknowledged that were never sent", n)
	}
	c.left += int(n)
	c.change.Broadcast()
	return nil
}

func (c *Credit) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.change.Broadcast()
}
