package main

import (
	"encoding/binary"
	"fmt"
	"math"
	"syscall"
)

// protocolVersion is the number both sides put into their first frame.
const protocolVersion = 1

// kind says what a frame is; tests/golden/wire holds one of each.
type kind uint8

const (
	kindReady   kind = 1
	kindRun     kind = 2
	kindStarted kind = 3
	kindStdin   kind = 4
	kindAck     kind = 5
	kindStdout  kind = 6
	kindStderr  kind = 7
	kindSignal  kind = 8
	kindResize  kind = 9
	kindNotice  kind = 10
	kindExit    kind = 11
	kindOpen    kind = 12
	kindOpened  kind = 13
	kindData    kind = 14
	kindDataAck kind = 15
	kindClose   kind = 16
	kindReset   kind = 17
	// kindAccepted says that the order has arrived: from here on no other machine may get it.
	kindAccepted kind = 18
	// kindClock asks for the host's time (empty), and answers: i64 nanoseconds since the epoch. An order
	// may have waited in the host's socket while the machine was being restored, and its time is late.
	kindClock kind = 19
	// kindPaused says that all is prepared but the command not started, as the order asked for: a debugger
	// may attach. kindResume answers it.
	kindPaused kind = 20
	kindResume kind = 21
	// kindSignalled answers a signal frame, each one: see signalled.
	kindSignalled kind = 22
)

const (
	// headerSize is the length field (u32, little-endian) and the kind.
	headerSize = 5
	maxStream  = 256 << 10
	maxJSON    = 16 << 20

	stdinWindow   = 256 << 10
	outputWindow  = 1 << 20
	channelWindow = 256 << 10

	// readerGone in place of a count says that nobody reads the stream any more.
	readerGone = 0xFFFFFFFF
)

// limit returns the largest payload a frame of this kind may have, or -1 for an unknown kind.
func (k kind) limit() int {
	switch k {
	case kindReady, kindRun, kindStarted, kindNotice, kindExit, kindOpen, kindOpened, kindAccepted, kindPaused, kindSignalled:
		return maxJSON
	case kindStdin, kindStdout, kindStderr, kindData, kindReset:
		return maxStream
	case kindAck:
		return 5
	case kindSignal:
		return 1
	case kindResize, kindClose:
		return 4
	case kindDataAck, kindClock:
		return 8
	case kindResume:
		return 0
	}
	return -1
}

// seal writes the header of a frame whose payload already lies at frame[headerSize:].
func seal(frame []byte, k kind) {
	binary.LittleEndian.PutUint32(frame, uint32(len(frame)-headerSize))
	frame[4] = byte(k)
}

// encode returns one frame with a copy of payload.
func encode(k kind, payload []byte) []byte {
	frame := make([]byte, headerSize+len(payload))
	copy(frame[headerSize:], payload)
	seal(frame, k)
	return frame
}

// parseHeader returns the kind and the payload's length, or an error if the limits are exceeded.
func parseHeader(header []byte) (kind, int, error) {
	size, k := binary.LittleEndian.Uint32(header), kind(header[4])
	limit := k.limit()
	if limit < 0 {
		return k, 0, fmt.Errorf("frame of unknown kind %d", k)
	}
	if uint64(size) > uint64(limit) {
		return k, 0, fmt.Errorf("frame of kind %d has %d bytes, the limit is %d", k, size, limit)
	}
	return k, int(size), nil
}

// ready is the first frame: what is waiting here.
type ready struct {
	agent, release string
	cpus           int
	bootMS         int64
	filesystems    []string
}

func (r ready) frame() []byte {
	return newMessage().number("protocol", protocolVersion).text("agent", r.agent).
		text("release", r.release).number("cpus", int64(r.cpus)).number("boot_ms", r.bootMS).
		texts("filesystems", r.filesystems).frame(kindReady)
}

// started says that the root is mounted, setup done and the command running.
type started struct {
	pid     int
	mountMS int64
}

func (s started) frame() []byte {
	return newMessage().number("pid", int64(s.pid)).number("mount_ms", s.mountMS).frame(kindStarted)
}

// notice is for the user; its level is "info", "warning", or, for what a command says, "setup" or
// "teardown". At the level "stage" it tells the host where we are: "teardown", "flush".
type notice struct{ level, text string }

func (n notice) frame() []byte {
	return newMessage().text("level", n.level).text("text", n.text).frame(kindNotice)
}

// signalled says that a signal was delivered, and what keeps it from having an effect: "", or a line
// about a process in uninterruptible sleep, and where the kernel has it.
type signalled struct {
	number syscall.Signal
	stuck  string
}

func (a signalled) frame() []byte {
	return newMessage().number("signal", int64(a.number)).text("stuck", a.stuck).frame(kindSignalled)
}

// exit is the last frame. Only a complete one means that the command ended as it says.
type exit struct {
	status, signal   int
	core             bool
	err, stage, hint string
}

func (e exit) frame() []byte {
	return newMessage().number("status", int64(e.status)).number("signal", int64(e.signal)).
		flag("core", e.core).text("error", e.err).text("stage", e.stage).text("hint", e.hint).frame(kindExit)
}

// open asks for a connection to an address of the guest; opened answers.
type open struct {
	id               uint32
	network, address string
}

func parseOpen(payload []byte) (open, error) {
	value, err := decode(payload)
	if err != nil {
		return open{}, fmt.Errorf("open frame: %w", err)
	}
	f := &fields{err: new(error)}
	f.members = f.object("open", value)
	return open{uint32(f.count("id", math.MaxUint32)), f.text("network"), f.text("address")}, *f.err
}

type opened struct {
	id  uint32
	err string
}

func (o opened) frame() []byte {
	return newMessage().number("id", int64(o.id)).text("error", o.err).frame(kindOpened)
}
