package main

import (
	"fmt"
	"sync"
)

// credit counts how many bytes may still be sent before the other side must say that it consumed some.
type credit struct {
	mu     sync.Mutex
	change *sync.Cond
	window int
	left   int
	closed bool
}

func newCredit(window int) *credit {
	c := &credit{window: window, left: window}
	c.change = sync.NewCond(&c.mu)
	return c
}

// wait blocks until something may be sent and returns how much; 0 means that nothing ever will.
func (c *credit) wait() int {
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

// spend takes n bytes of what wait returned. Only one sender may use a credit.
func (c *credit) spend(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left -= n
}

// add gives n consumed bytes back; more than were sent is a protocol error.
func (c *credit) add(n uint32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if uint64(c.left)+uint64(n) > uint64(c.window) {
		return fmt.Errorf("%d bytes are acknowledged that were never sent", n)
	}
	c.left += int(n)
	c.change.Broadcast()
	return nil
}

func (c *credit) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.change.Broadcast()
}
