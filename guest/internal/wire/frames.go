package wire

import (
	"encoding/binary"
	"fmt"
	"math"
	"syscall"
)

// protocolVersion is the number both sides put into their first frame.
const protocolVersion = 1

// Kind says what a frame is; tests/golden/wire holds one of each.
type Kind uint8

const (
	kindReady   Kind = 1
	KindRun     Kind = 2
	kindStarted Kind = 3
	KindStdin   Kind = 4
	KindAck     Kind = 5
	KindStdout  Kind = 6
	KindStderr  Kind = 7
	KindSignal  Kind = 8
	KindResize  Kind = 9
	KindNotice  Kind = 10
	KindExit    Kind = 11
	KindOpen    Kind = 12
	KindOpened  Kind = 13
	KindData    Kind = 14
	KindDataAck Kind = 15
	KindClose   Kind = 16
	KindReset   Kind = 17
	// KindAccepted says that the order has arrived: from here on no other machine may get it.
	KindAccepted Kind = 18
	// KindClock asks for the host's time (empty), and answers: i64 nanoseconds since the epoch. An order
	// may have waited in the host's socket while the machine was being restored, and its time is late.
	KindClock Kind = 19
	// KindPaused says that all is prepared but the command not started, as the order asked for: a debugger
	// may attach. kindResume answers it.
	KindPaused Kind = 20
	KindResume Kind = 21
	// KindSignalled answers a signal frame, each one: see signalled.
	KindSignalled Kind = 22
)

const (
	// HeaderSize is the length field (u32, little-endian) and the kind.
	HeaderSize = 5
	MaxStream  = 256 << 10
	maxJSON    = 16 << 20

	StdinWindow   = 256 << 10
	OutputWindow  = 1 << 20
	ChannelWindow = 256 << 10

	// ReaderGone in place of a count says that nobody reads the stream any more.
	ReaderGone = 0xFFFFFFFF
)

// limit returns the largest payload a frame of this kind may have, or -1 for an unknown kind.
func (k Kind) limit() int {
	switch k {
	case kindReady, KindRun, kindStarted, KindNotice, KindExit, KindOpen, KindOpened, KindAccepted, KindPaused, KindSignalled:
		return maxJSON
	case KindStdin, KindStdout, KindStderr, KindData, KindReset:
		return MaxStream
	case KindAck:
		return 5
	case KindSignal:
		return 1
	case KindResize, KindClose:
		return 4
	case KindDataAck, KindClock:
		return 8
	case KindResume:
		return 0
	}
	return -1
}

// Seal writes the header of a frame whose payload already lies at frame[headerSize:].
func Seal(frame []byte, k Kind) {
	binary.LittleEndian.PutUint32(frame, uint32(len(frame)-HeaderSize))
	frame[4] = byte(k)
}

// encode returns one frame with a copy of payload.
func encode(k Kind, payload []byte) []byte {
	frame := make([]byte, HeaderSize+len(payload))
	copy(frame[HeaderSize:], payload)
	Seal(frame, k)
	return frame
}

// parseHeader returns the kind and the payload's length, or an error if the limits are exceeded.
func parseHeader(header []byte) (Kind, int, error) {
	size, k := binary.LittleEndian.Uint32(header), Kind(header[4])
	limit := k.limit()
	if limit < 0 {
		return k, 0, fmt.Errorf("frame of unknown kind %d", k)
	}
	if uint64(size) > uint64(limit) {
		return k, 0, fmt.Errorf("frame of kind %d has %d bytes, the limit is %d", k, size, limit)
	}
	return k, int(size), nil
}

// Ready is the first frame: what is waiting here.
type Ready struct {
	Agent, Release string
	CPUs           int
	BootMS         int64
	Filesystems    []string
}

func (r Ready) Frame() []byte {
	return newMessage().number("protocol", protocolVersion).text("agent", r.Agent).
		text("release", r.Release).number("cpus", int64(r.CPUs)).number("boot_ms", r.BootMS).
		texts("filesystems", r.Filesystems).frame(kindReady)
}

// Started says that the root is mounted, setup done and the command running.
type Started struct {
	Pid     int
	MountMS int64
}

func (s Started) Frame() []byte {
	return newMessage().number("pid", int64(s.Pid)).number("mount_ms", s.MountMS).frame(kindStarted)
}

// Notice is for the user; its level is "info", "warning", or, for what a command says, "setup" or
// "teardown". At the level "stage" it tells the host where we are: "teardown", "flush".
type Notice struct{ Level, Text string }

func (n Notice) Frame() []byte {
	return newMessage().text("level", n.Level).text("text", n.Text).frame(KindNotice)
}

// Signalled says that a signal was delivered, and what keeps it from having an effect: "", or a line
// about a process in uninterruptible sleep, and where the kernel has it.
type Signalled struct {
	Number syscall.Signal
	Stuck  string
}

func (a Signalled) Frame() []byte {
	return newMessage().number("signal", int64(a.Number)).text("stuck", a.Stuck).frame(KindSignalled)
}

// StatusLost is the status of a run that is no test result: the machine or its set-up failed.
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

// ParseExit reads an exit frame as far as the priming order's host needs it.
func ParseExit(payload []byte) (Exit, error) {
	value, err := decode(payload)
	if err != nil {
		return Exit{}, fmt.Errorf("exit frame: %w", err)
	}
	f := &fields{err: new(error)}
	f.members = f.object("exit", value)
	return Exit{Status: int(f.number("status")), Err: f.text("error")}, *f.err
}

// Open asks for a connection to an address of the guest; opened answers.
type Open struct {
	ID               uint32
	Network, Address string
}

func ParseOpen(payload []byte) (Open, error) {
	value, err := decode(payload)
	if err != nil {
		return Open{}, fmt.Errorf("open frame: %w", err)
	}
	f := &fields{err: new(error)}
	f.members = f.object("open", value)
	return Open{uint32(f.count("id", math.MaxUint32)), f.text("network"), f.text("address")}, *f.err
}

type Opened struct {
	ID  uint32
	Err string
}

func (o Opened) Frame() []byte {
	return newMessage().number("id", int64(o.ID)).text("error", o.Err).frame(KindOpened)
}

// Numbers of the streams in an ack frame.
const (
	StreamStdin  = 0
	streamStdout = 1
	StreamStderr = 2
)

func AckFrame(stream byte, n int) []byte {
	frame := make([]byte, HeaderSize+5)
	frame[HeaderSize] = stream
	binary.LittleEndian.PutUint32(frame[HeaderSize+1:], uint32(n))
	Seal(frame, KindAck)
	return frame
}

func DataAckFrame(id uint32, n int) []byte {
	frame := make([]byte, HeaderSize+8)
	binary.LittleEndian.PutUint32(frame[HeaderSize:], id)
	binary.LittleEndian.PutUint32(frame[HeaderSize+4:], uint32(n))
	Seal(frame, KindDataAck)
	return frame
}
