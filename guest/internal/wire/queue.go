package wire

import (
	"fmt"
	"sync"
)

// Queue holds what the host has sent and a slow consumer in the guest has not taken yet, so that nothing else on
// the port waits for it. It is an error to put more into it than the window without an acknowledgement.
type Queue struct {
	mu      sync.Mutex
	change  *sync.Cond
	window  int
	chunks  [][]byte
	unacked int
	ended   bool // no more will come
	dropped bool // nobody will take anything more
}

func NewQueue(window int) *Queue {
	q := &Queue{window: window}
	q.change = sync.NewCond(&q.mu)
	return q
}

// Put adds a copy of data.
func (q *Queue) Put(data []byte) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.unacked += len(data); q.unacked > q.window {
		return fmt.Errorf("%d bytes are unacknowledged, the window is %d", q.unacked, q.window)
	}
	q.chunks = append(q.chunks, append([]byte(nil), data...))
	q.change.Broadcast()
	return nil
}

// End says that no more will come. What is there can still be taken.
func (q *Queue) End() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = true
	q.change.Broadcast()
}

// Drop makes every take return nothing from now on.
func (q *Queue) Drop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dropped, q.chunks = true, nil
	q.change.Broadcast()
}

// Take blocks for the next chunk; ok is false at the end.
func (q *Queue) Take() (chunk []byte, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.chunks) == 0 && !q.ended && !q.dropped {
		q.change.Wait()
	}
	if len(q.chunks) == 0 {
		return nil, false
	}
	chunk, q.chunks = q.chunks[0], q.chunks[1:]
	return chunk, true
}

// Consumed says that n bytes are being acknowledged.
func (q *Queue) Consumed(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.unacked -= n
}
