package wire

import (
	"encoding/binary"
	"fmt"
	"math"
	"syscall"
)

// The contents of the frames. Those with a method Frame are sent by the guest, the others are parsed; of
// the latter, order.go has the largest.

// Ready is the first frame: it says what waits here for an order.
type Ready struct {
	Agent, Release string
	CPUs           int
	BootMS         int64
	Filesystems    []string
}

func (r Ready) Frame() []byte {
	return newMessage().number("protocol", protocolVersion).text("agent", r.Agent).
		text("release", r.Release).number("cpus", int64(r.CPUs)).number("boot_ms", r.BootMS).
		texts("filesystems", r.Filesystems).frame(KindReady)
}

// Started says that the root is mounted, setup is done and the command runs.
type Started struct {
	Pid     int
	MountMS int64
}

func (s Started) Frame() []byte {
	return newMessage().number("pid", int64(s.Pid)).number("mount_ms", s.MountMS).frame(KindStarted)
}

// Notice is a message for the user. Its level is "info", "warning" or, for what a setup or teardown
// command writes, "setup" or "teardown". At the level "stage" it tells the host which stage follows the
// command: "teardown", "flush".
type Notice struct{ Level, Text string }

func (n Notice) Frame() []byte {
	return newMessage().text("level", n.Level).text("text", n.Text).frame(KindNotice)
}

// Signalled says that a signal was delivered, and what keeps it from having an effect: nothing (""), or a
// line about a process in uninterruptible sleep and lines about where in the kernel it sleeps.
type Signalled struct {
	Number syscall.Signal
	Stuck  string
}

func (a Signalled) Frame() []byte {
	return newMessage().number("signal", int64(a.Number)).text("stuck", a.Stuck).frame(KindSignalled)
}

// StatusLost is the status of a run that is not a test result: the machine or its set-up failed.
const StatusLost = 125

// Exit is the last frame. Only a complete one means that the command ended as it says.
type Exit struct {
	Status, Signal   int
	Core             bool
	Err, Stage, Hint string
}

func (e Exit) Frame() []byte {
	return newMessage().number("status", int64(e.Status)).number("signal", int64(e.Signal)).
		flag("core", e.Core).text("error", e.Err).text("stage", e.Stage).text("hint", e.Hint).frame(KindExit)
}

// ParseExit reads the status and the error of an exit frame; the priming order's host needs no more.
func ParseExit(payload []byte) (Exit, error) {
	f := parseObject(KindExit, payload)
	return Exit{Status: int(f.number("status")), Err: f.text("error")}, *f.err
}

// parseObject returns the members of a JSON frame; an error is among them.
func parseObject(k Kind, payload []byte) *fields {
	value, err := decode(payload)
	if err != nil {
		err = fmt.Errorf("%s frame: %w", k, err)
	}
	f := &fields{err: &err}
	f.members = f.object(k.String(), value)
	return f
}

// Open asks for a connection to an address in the guest; ID is what the host calls it.
type Open struct {
	ID               uint32
	Network, Address string
}

func ParseOpen(payload []byte) (Open, error) {
	f := parseObject(KindOpen, payload)
	return Open{uint32(f.count("id", math.MaxUint32)), f.text("network"), f.text("address")}, *f.err
}

// Opened answers an Open; Err is why there is no connection, or "".
type Opened struct {
	ID  uint32
	Err string
}

func (o Opened) Frame() []byte {
	return newMessage().number("id", int64(o.ID)).text("error", o.Err).frame(KindOpened)
}

// Stream is the number of one of the command's streams in an ack frame.
type Stream uint8

const (
	Stdin  Stream = 0
	Stdout Stream = 1
	Stderr Stream = 2
)

// readerGone in place of a count says that nobody reads the stream any more.
const readerGone = 0xFFFFFFFF

// AckFrame says that n more bytes of stdin were consumed.
func AckFrame(n int) []byte {
	frame := make([]byte, HeaderSize+5)
	frame[HeaderSize] = byte(Stdin)
	binary.LittleEndian.PutUint32(frame[HeaderSize+1:], uint32(n))
	Seal(frame, KindAck)
	return frame
}

// Ack says that the host has consumed so many more bytes of a stream, or that nobody reads it any more.
type Ack struct {
	Stream     Stream
	Count      uint32
	ReaderGone bool
}

func ParseAck(payload []byte) Ack {
	count := binary.LittleEndian.Uint32(payload[1:])
	return Ack{Stream: Stream(payload[0]), Count: count, ReaderGone: count == readerGone}
}

func ParseSignal(payload []byte) syscall.Signal { return syscall.Signal(payload[0]) }

func ParseSize(payload []byte) Size {
	return Size{Rows: binary.LittleEndian.Uint16(payload), Cols: binary.LittleEndian.Uint16(payload[2:])}
}

// ParseClock returns the host's time in nanoseconds since the epoch.
func ParseClock(payload []byte) (int64, error) {
	if len(payload) != 8 {
		return 0, fmt.Errorf("clock frame of %d bytes: an answer has 8", len(payload))
	}
	return int64(binary.LittleEndian.Uint64(payload)), nil
}

// ParseChannel returns which connection a frame is about, and the rest of its payload.
func ParseChannel(payload []byte) (id uint32, rest []byte) {
	return binary.LittleEndian.Uint32(payload), payload[4:]
}

// ChannelFrame returns a close or reset frame of a connection.
func ChannelFrame(k Kind, id uint32, data string) []byte {
	frame := make([]byte, ChannelHeader, ChannelHeader+len(data))
	frame = append(frame, data...)
	SealChannel(frame, k, id)
	return frame
}

// ChannelHeader is the number of bytes before a connection's data in a frame.
const ChannelHeader = HeaderSize + 4

// SealChannel writes the headers of a frame whose data already lie at frame[ChannelHeader:].
func SealChannel(frame []byte, k Kind, id uint32) {
	binary.LittleEndian.PutUint32(frame[HeaderSize:], id)
	Seal(frame, k)
}

// ChannelAckFrame says that n more bytes of a connection were consumed.
func ChannelAckFrame(id uint32, n int) []byte {
	frame := make([]byte, ChannelHeader+4)
	binary.LittleEndian.PutUint32(frame[ChannelHeader:], uint32(n))
	SealChannel(frame, KindDataAck, id)
	return frame
}

// ParseChannelAck returns how many more bytes the host has consumed, from the rest that ParseChannel has.
func ParseChannelAck(rest []byte) uint32 { return binary.LittleEndian.Uint32(rest) }
