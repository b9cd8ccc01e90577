package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// maxDial bounds a connection attempt: a full backlog must not leave the host's client waiting.
const maxDial = 30 * time.Second

// settleLimit bounds how long the end of the command waits for clients of which none reads its data.
const settleLimit = 5 * time.Second

// channels are the forwarded connections. Each has its own window, so that an idle one, or one whose
// end in the guest does not read, holds up no other.
type channels struct {
	port     *port
	uid, gid int
	mu       sync.Mutex
	open     map[uint32]*channel
	change   *sync.Cond
	settling *time.Timer // while settle waits
}

type channel struct {
	id     uint32
	conn   net.Conn // nil until dialled
	queue  *queue   // from the host to conn
	credit *credit  // from conn to the host
	sent   bool     // we sent close: conn has no more to read
	got    bool     // the host sent close
}

// newChannels makes the table of connections, all of which the user uid makes.
func newChannels(p *port, uid, gid uint32) *channels {
	c := &channels{port: p, uid: int(uid), gid: int(gid), open: map[uint32]*channel{}}
	c.change = sync.NewCond(&c.mu)
	return c
}

// own makes a socket the user's: servers such as Delve look up in /proc/net/tcp whose a client is. The
// kernel keeps a socket's owner in its inode (sockfs_setattr, since 4.10).
func (c *channels) own(_, _ string, raw syscall.RawConn) error {
	return raw.Control(func(fd uintptr) { _ = syscall.Fchown(int(fd), c.uid, c.gid) })
}

// settle waits until all that the ended command sent has reached the host, and says whether it has; it
// gives up when for limit the host took nothing.
func (c *channels) settle(limit time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.sending() {
		return true
	}
	late := false
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
func (c *channels) sending() bool {
	for _, ch := range c.open {
		if ch.conn != nil && !ch.sent {
			return true
		}
	}
	return false
}

// dial begins to connect, in the background, to what an open frame names.
func (c *channels) dial(payload []byte) error {
	request, err := parseOpen(payload)
	if err != nil {
		return err
	}
	ch := &channel{id: request.id, queue: newQueue(channelWindow), credit: newCredit(channelWindow)}
	c.mu.Lock()
	_, taken := c.open[ch.id]
	if !taken {
		c.open[ch.id] = ch
	}
	c.mu.Unlock()
	if taken {
		return fmt.Errorf("channel %d is open already", ch.id)
	}
	go c.serve(ch, request)
	return nil
}

func (c *channels) serve(ch *channel, request open) {
	dialer := net.Dialer{Timeout: maxDial, Control: c.own}
	conn, err := dialer.Dial(request.network, request.address)
	answer := opened{id: ch.id}
	if err != nil {
		answer.err = err.Error()
		c.forget(ch)
	}
	if c.port.write(answer.frame()) != nil || err != nil {
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

// collect sends what conn has to say.
func (c *channels) collect(ch *channel) {
	const headroom = headerSize + 4
	frame := make([]byte, headroom+64<<10)
	for {
		room := ch.credit.wait()
		if room == 0 {
			return
		}
		n, err := ch.conn.Read(frame[headroom:min(headroom+room, len(frame))])
		if n > 0 {
			ch.credit.spend(n)
			binary.LittleEndian.PutUint32(frame[headerSize:], ch.id)
			seal(frame[:headroom+n], kindData)
			if c.port.write(frame[:headroom+n]) != nil {
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
func (c *channels) deliver(ch *channel) {
	for {
		chunk, ok := ch.queue.take()
		if !ok {
			break
		}
		if _, err := ch.conn.Write(chunk); err != nil {
			c.abort(ch, err.Error())
			return
		}
		ch.queue.consumed(len(chunk))
		if c.port.write(dataAckFrame(ch.id, len(chunk))) != nil {
			return
		}
	}
	if half, ok := ch.conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	c.finish(ch, &ch.got, nil)
}

// finish notes that one direction has ended, in order: with both the channel is gone. err is what
// ended reading from conn; anything but an orderly end resets the channel.
func (c *channels) finish(ch *channel, direction *bool, err error) {
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
		_ = c.port.send(kindClose, binary.LittleEndian.AppendUint32(nil, ch.id))
	}
}

// abort tells the host, once, that the channel is gone.
func (c *channels) abort(ch *channel, reason string) {
	if c.forget(ch) {
		c.release(ch)
		_ = c.port.send(kindReset, append(binary.LittleEndian.AppendUint32(nil, ch.id), reason...))
	}
}

// forget takes the channel out and says whether it was there.
func (c *channels) forget(ch *channel) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	here := c.open[ch.id] == ch
	if here {
		delete(c.open, ch.id)
		c.change.Broadcast()
	}
	return here
}

func (c *channels) release(ch *channel) {
	ch.queue.drop()
	ch.credit.close()
	c.mu.Lock()
	conn := ch.conn
	c.mu.Unlock()
	if conn != nil {
		conn.Close()
	}
}

// handle takes a frame about a channel. One that is gone may still be spoken of: the host's frame and
// our reset can cross.
func (c *channels) handle(k kind, payload []byte) error {
	if len(payload) < 4 {
		return fmt.Errorf("frame of kind %d has %d bytes", k, len(payload))
	}
	id, rest := binary.LittleEndian.Uint32(payload), payload[4:]
	c.mu.Lock()
	ch := c.open[id]
	if k == kindDataAck && c.settling != nil {
		c.settling.Reset(settleLimit)
	}
	c.mu.Unlock()
	if ch == nil {
		return nil
	}
	switch k {
	case kindData:
		return ch.queue.put(rest)
	case kindDataAck:
		if len(rest) != 4 {
			return fmt.Errorf("data-ack frame has %d bytes", len(payload))
		}
		return ch.credit.add(binary.LittleEndian.Uint32(rest))
	case kindClose:
		ch.queue.end()
	case kindReset:
		c.forget(ch)
		c.release(ch)
	}
	return nil
}

func dataAckFrame(id uint32, n int) []byte {
	frame := make([]byte, headerSize+8)
	binary.LittleEndian.PutUint32(frame[headerSize:], id)
	binary.LittleEndian.PutUint32(frame[headerSize+4:], uint32(n))
	seal(frame, kindDataAck)
	return frame
}
