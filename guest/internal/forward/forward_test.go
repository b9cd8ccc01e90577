package forward

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"vimto/guest/internal/wire"
	"vimto/guest/internal/wiretest"
)

// remote is the host's side of forwarded connections, just enough of it for these tests.
type remote struct {
	t        *testing.T
	port     *wire.Port
	channels *Channels
	received map[uint32]*bytes.Buffer
	answers  map[uint32]string
	closed   map[uint32]bool
	resets   map[uint32]string
	unacked  map[uint32]int
}

func newRemote(t *testing.T) *remote {
	here, there := wiretest.Pair(t)
	return &remote{
		t: t, port: there, channels: New(here, uint32(os.Getuid()), uint32(os.Getgid())),
		received: map[uint32]*bytes.Buffer{}, answers: map[uint32]string{}, closed: map[uint32]bool{},
		resets: map[uint32]string{}, unacked: map[uint32]int{},
	}
}

func (r *remote) open(id uint32, network, address string) {
	r.t.Helper()
	request, _ := json.Marshal(map[string]any{"id": id, "network": network, "address": address})
	if err := r.channels.Dial(request); err != nil {
		r.t.Fatal(err)
	}
	r.received[id] = &bytes.Buffer{}
}

func (r *remote) send(k wire.Kind, id uint32, data []byte) {
	r.t.Helper()
	if err := r.channels.Handle(k, append(binary.LittleEndian.AppendUint32(nil, id), data...)); err != nil {
		r.t.Fatal(err)
	}
	if k == wire.KindData {
		r.unacked[id] += len(data)
	}
}

// until handles the guest's frames until done.
func (r *remote) until(done func() bool) {
	r.t.Helper()
	for !done() {
		k, payload, err := r.port.Next()
		if err != nil {
			r.t.Fatal(err)
		}
		if k == wire.KindOpened {
			var answer struct {
				ID    uint32
				Error string
			}
			if err := json.Unmarshal(payload, &answer); err != nil {
				r.t.Fatal(err)
			}
			r.answers[answer.ID] = answer.Error
			continue
		}
		id, rest := binary.LittleEndian.Uint32(payload), payload[4:]
		switch k {
		case wire.KindData:
			r.received[id].Write(rest)
			r.send(wire.KindDataAck, id, binary.LittleEndian.AppendUint32(nil, uint32(len(rest))))
		case wire.KindDataAck:
			r.unacked[id] -= int(binary.LittleEndian.Uint32(rest))
		case wire.KindClose:
			r.closed[id] = true
		case wire.KindReset:
			r.resets[id] = string(rest)
		}
	}
}

// listen serves every connection to a new address with do.
func listen(t *testing.T, network, address string, do func(net.Conn)) string {
	t.Helper()
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	var open sync.WaitGroup
	t.Cleanup(func() { listener.Close(); open.Wait() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			open.Add(1)
			go func() {
				defer open.Done()
				defer conn.Close()
				do(conn)
			}()
		}
	}()
	return listener.Addr().String()
}

// echo answers only after the client's end of data, so that it needs a true half-close.
func echo(conn net.Conn) {
	data, _ := io.ReadAll(conn)
	_, _ = conn.Write(data)
}

func TestForwardHalfCloseOverTCPAndUnix(t *testing.T) {
	r := newRemote(t)
	r.open(1, "tcp", listen(t, "tcp", "127.0.0.1:0", echo))
	r.open(2, "unix", listen(t, "unix", t.TempDir()+"/s", echo))
	for id := uint32(1); id <= 2; id++ {
		r.send(wire.KindData, id, []byte(fmt.Sprint("hello ", id)))
		r.send(wire.KindClose, id, nil)
	}
	r.until(func() bool { return r.closed[1] && r.closed[2] })
	for id := uint32(1); id <= 2; id++ {
		if got := r.received[id].String(); got != fmt.Sprint("hello ", id) {
			t.Errorf("channel %d: %q", id, got)
		}
	}
	if n := len(r.channels.open); n != 0 {
		t.Errorf("%d channels are left", n)
	}
}

func TestForwardLosesNothingAndAnIdleChannelBlocksNone(t *testing.T) {
	r := newRemote(t)
	release := make(chan struct{})
	r.open(9, "tcp", listen(t, "tcp", "127.0.0.1:0", func(net.Conn) { <-release }))
	defer close(release)
	r.send(wire.KindData, 9, make([]byte, wire.ChannelWindow))
	const total = 20 << 20
	r.open(1, "tcp", listen(t, "tcp", "127.0.0.1:0", echo))
	want := bytes.Repeat([]byte("0123456789abcdef"), total/16)
	for sent := 0; sent < total; {
		n := min(60000, total-sent)
		r.until(func() bool { return r.unacked[1]+n <= wire.ChannelWindow })
		r.send(wire.KindData, 1, want[sent:sent+n])
		sent += n
	}
	r.send(wire.KindClose, 1, nil)
	r.until(func() bool { return r.closed[1] })
	if !bytes.Equal(r.received[1].Bytes(), want) {
		t.Error("the bytes differ")
	}
	r.send(wire.KindReset, 9, []byte("done"))
}

func TestForwardSaysWhyItCannotConnect(t *testing.T) {
	r := newRemote(t)
	r.open(1, "tcp", "127.0.0.1:1")
	r.open(2, "unix", "/nonexistent/socket")
	r.until(func() bool { return len(r.answers) == 2 })
	if !strings.Contains(r.answers[1], "refused") || !strings.Contains(r.answers[2], "no such file") {
		t.Errorf("%q", r.answers)
	}
}

func TestForwardSettles(t *testing.T) {
	r := newRemote(t)
	if !r.channels.Settle(time.Second) {
		t.Error("nothing is under way")
	}
	more := make(chan struct{})
	r.open(1, "tcp", listen(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
		_, _ = conn.Write([]byte("x"))
		<-more
		_ = conn.Close()
	}))
	r.until(func() bool { return r.unacked[1] > 0 || r.received[1] != nil && r.received[1].Len() > 0 })
	if r.channels.Settle(10 * time.Millisecond) {
		t.Error("the connection is open")
	}
	time.AfterFunc(10*time.Millisecond, func() { close(more) })
	if !r.channels.Settle(time.Minute) {
		t.Error("the connection has ended")
	}
}

func TestForwardReportsAReset(t *testing.T) {
	r := newRemote(t)
	r.open(1, "tcp", listen(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 1)) // not before the connection is established
		_ = conn.(*net.TCPConn).SetLinger(0)
	}))
	r.send(wire.KindData, 1, []byte("x"))
	r.until(func() bool { return r.resets[1] != "" })
	r.send(wire.KindData, 1, []byte("too late")) // crosses the reset
}

func TestForwardRefusesProtocolErrors(t *testing.T) {
	r := newRemote(t)
	release := make(chan struct{})
	r.open(1, "tcp", listen(t, "tcp", "127.0.0.1:0", func(net.Conn) { <-release }))
	defer close(release)
	id := binary.LittleEndian.AppendUint32(nil, 1)
	if r.channels.Handle(wire.KindDataAck, append(id, 1, 0, 0, 0)) == nil {
		t.Error("an acknowledgement of nothing was accepted")
	}
	if r.channels.Dial([]byte(`{"id":1,"network":"tcp","address":"127.0.0.1:1"}`)) == nil {
		t.Error("an id was given twice")
	}
	r.send(wire.KindReset, 1, nil)
}
