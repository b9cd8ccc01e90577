// Package forward connects clients on the host to servers in the guest.
package forward

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"vimto/guest/internal/wire"
)

// maxDial bounds an attempt to connect: a full backlog must not keep the host's client waiting.
const maxDial = 30 * time.Second

// SettleLimit bounds how long the end of the command waits for clients of which none reads its data.
const SettleLimit = 5 * time.Second

// Channels are the forwarded connections. Each has its own window, so that one whose end does not read holds up
// no other.
type Channels struct {
	port     *wire.Port
	uid, gid int
	mu       sync.Mutex
	open     map[uint32]*channel
	change   *sync.Cond
	settling *time.Timer   // while Settle waits
	patience time.Duration // of settling
}

type channel struct {
	id     uint32
	conn   net.Conn     // nil until dialled
	queue  *wire.Queue  // from the host to conn
	credit *wire.Credit // from conn to the host
	sent   bool         // we sent close: conn has no more to read
	got    bool         // the host sent close
}

// New returns a table without connections. All that will be in it belong to the user uid.
func New(p *wire.Port, uid, gid uint32) *Channels {
	c := &Channels{port: p, uid: int(uid), gid: int(gid), open: map[uint32]*channel{}}
	c.change = sync.NewCond(&c.mu)
	return c
}

// own gives a socket to the user, because servers such as Delve look up their client's owner in /proc/net/tcp.
// The kernel keeps a socket's owner in its inode (sockfs_setattr, since 4.10).
func (c *Channels) own(_, _ string, raw syscall.RawConn) error {
	return raw.Control(func(fd uintptr) { _ = syscall.Fchown(int(fd), c.uid, c.gid) })
}

// Settle waits until everything that the ended command sent has reached the host, and says whether it has. It
// gives up when the host has taken nothing for limit.
func (c *Channels) Settle(limit time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.sending() {
		return true
	}
	late := false
	c.patience = limit
	c.settling = time.AfterFunc(limit, func() {
		c.mu.Lock()
		late = true
		c.mu.Unlock()
		c.change.Broadcast()
	})
	defer c.settling.Stop()
	for !late && c.sending() {
		c.change.Wait()
	}
	return !late
}

// sending says whether some connection may still have something for the host; c.mu is held.
func (c *Channels) sending() bool {
	for _, ch := range c.open {
		if ch.conn != nil && !ch.sent {
			return true
		}
	}
	return false
}

// Dial starts to connect, in the background, to the address in an open frame.
func (c *Channels) Dial(payload []byte) error {
	request, err := wire.ParseOpen(payload)
	if err != nil {
		return err
	}
	ch := &channel{id: request.ID, queue: wire.NewQueue(wire.ChannelWindow), credit: wire.NewCredit(wire.ChannelWindow)}
	c.mu.Lock()
	_, taken := c.open[ch.id]
	if !taken {
		c.open[ch.id] = ch
	}
	c.mu.Unlock()
	if taken {
		return fmt.Errorf("open frame for channel %d, which is already open", ch.id)
	}
	go c.serve(ch, request)
	return nil
}

func (c *Channels) serve(ch *channel, request wire.Open) {
	dialer := net.Dialer{Timeout: maxDial, Control: c.own}
	conn, err := dialer.Dial(request.Network, request.Address)
	answer := wire.Opened{ID: ch.id}
	if err != nil {
		answer.Err = err.Error()
		c.forget(ch)
	}
	if c.port.Write(answer.Frame()) != nil || err != nil {
		return
	}
	c.mu.Lock()
	ch.conn = conn
	gone := c.open[ch.id] != ch // a reset came meanwhile
	c.mu.Unlock()
	if gone {
		conn.Close()
		return
	}
	go c.deliver(ch)
	c.collect(ch)
}

// collect sends the host what comes from conn.
func (c *Channels) collect(ch *channel) {
	const headroom = wire.ChannelHeader
	frame := make([]byte, headroom+64<<10)
	for {
		room := ch.credit.Wait()
		if room == 0 {
			return
		}
		n, err := ch.conn.Read(frame[headroom:min(headroom+room, len(frame))])
		if n > 0 {
			ch.credit.Spend(n)
			wire.SealChannel(frame[:headroom+n], wire.KindData, ch.id)
			if c.port.Write(frame[:headroom+n]) != nil {
				return
			}
		}
		if err != nil {
			c.finish(ch, &ch.sent, err)
			return
		}
	}
}

// deliver writes what the host sends into conn.
func (c *Channels) deliver(ch *channel) {
	for {
		chunk, ok := ch.queue.Take()
		if !ok {
			break
		}
		if _, err := ch.conn.Write(chunk); err != nil {
			c.abort(ch, err.Error())
			return
		}
		ch.queue.Consumed(len(chunk))
		if c.port.Write(wire.ChannelAckFrame(ch.id, len(chunk))) != nil {
			return
		}
	}
	if half, ok := ch.conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	c.finish(ch, &ch.got, nil)
}

// finish notes that one direction has ended; when both have, the channel is gone. err is what ended the reading
// from conn: anything but an orderly end resets the channel.
func (c *Channels) finish(ch *channel, direction *bool, err error) {
	if err != nil && !errors.Is(err, io.EOF) {
		c.abort(ch, err.Error())
		return
	}
	c.mu.Lock()
	here := c.open[ch.id] == ch
	*direction = true
	both := ch.sent && ch.got
	c.mu.Unlock()
	c.change.Broadcast()
	if both {
		c.forget(ch)
		ch.conn.Close()
	}
	if here && direction == &ch.sent {
		_ = c.port.Write(wire.ChannelFrame(wire.KindClose, ch.id, ""))
	}
}

// abort tells the host, once, that the channel is gone.
func (c *Channels) abort(ch *channel, reason string) {
	if c.forget(ch) {
		c.release(ch)
		_ = c.port.Write(wire.ChannelFrame(wire.KindReset, ch.id, reason))
	}
}

// forget takes the channel out and says whether it was there.
func (c *Channels) forget(ch *channel) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	here := c.open[ch.id] == ch
	if here {
		delete(c.open, ch.id)
		c.change.Broadcast()
	}
	return here
}

func (c *Channels) release(ch *channel) {
	ch.queue.Drop()
	ch.credit.Close()
	c.mu.Lock()
	conn := ch.conn
	c.mu.Unlock()
	if conn != nil {
		conn.Close()
	}
}

// Handle takes a frame about a channel. Frames about one that is gone are ignored, since they and our reset may
// have crossed.
func (c *Channels) Handle(k wire.Kind, payload []byte) error {
	id, rest := wire.ParseChannel(payload)
	c.mu.Lock()
	ch := c.open[id]
	if k == wire.KindDataAck && c.settling != nil {
		c.settling.Reset(c.patience)
	}
	c.mu.Unlock()
	if ch == nil {
		return nil
	}
	switch k {
	case wire.KindData:
		return ch.queue.Put(rest)
	case wire.KindDataAck:
		return ch.credit.Add(wire.ParseChannelAck(rest))
	case wire.KindClose:
		ch.queue.End()
	case wire.KindReset:
		c.forget(ch)
		c.release(ch)
	}
	return nil
}
