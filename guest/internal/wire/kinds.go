package wire

import (
	"encoding/binary"
	"fmt"
	"strconv"
)

// A frame is a header, which is the payload's length (u32, little-endian) and the kind (u8), and the
// payload. The host's side is vimto/vm/protocol.py; both sides' tests read tests/golden/wire.

// protocolVersion is the number both sides put into their first frame.
const protocolVersion = 1

// HeaderSize is the number of bytes before the payload.
const HeaderSize = 5

// Kind says what a frame is.
type Kind uint8

const (
	KindReady   Kind = 1  // to the host: this guest waits for its order
	KindRun     Kind = 2  // to the guest: the order
	KindStarted Kind = 3  // to the host: the command runs
	KindStdin   Kind = 4  // to the guest; an empty one is the end
	KindAck     Kind = 5  // both ways: so many bytes of a stream were consumed
	KindStdout  Kind = 6  // to the host
	KindStderr  Kind = 7  // to the host
	KindSignal  Kind = 8  // to the guest: deliver it
	KindResize  Kind = 9  // to the guest: the terminal's new size
	KindNotice  Kind = 10 // to the host: a message for the user
	KindExit    Kind = 11 // to the host: how the command ended; the last frame
	KindOpen    Kind = 12 // to the guest: connect to an address
	KindOpened  Kind = 13 // to the host: connected, or why not
	KindData    Kind = 14 // both ways: bytes on a connection
	KindDataAck Kind = 15 // both ways: so many bytes of a connection were consumed
	KindClose   Kind = 16 // both ways: no more data will come in this direction
	KindReset   Kind = 17 // both ways: the connection is gone
	// KindAccepted tells the host that the order has arrived: from here on no other machine may get it.
	KindAccepted Kind = 18
	// KindClock asks for the host's time (empty) and answers (i64, nanoseconds since the epoch). The time
	// in the order is late if that waited in the host's socket while the machine was being restored.
	KindClock Kind = 19
	// KindPaused tells the host that everything but the command's start is done, if the order asks for
	// that pause, in which a debugger may attach. KindResume ends it.
	KindPaused Kind = 20
	KindResume Kind = 21
	// KindSignalled answers a KindSignal, each one: see Signalled.
	KindSignalled Kind = 22
)

const (
	// MaxStream is the largest payload of a frame that carries a stream's bytes.
	MaxStream = 256 << 10
	maxJSON   = 16 << 20
)

// Windows: how many bytes may be sent before the receiver has acknowledged any.
const (
	StdinWindow   = 256 << 10
	OutputWindow  = 1 << 20
	ChannelWindow = 256 << 10
)

// kinds holds what every kind is called and how many bytes its payload may have.
var kinds = [...]struct {
	name        string
	least, most int
}{
	KindReady:     {"ready", 0, maxJSON},
	KindRun:       {"run", 0, maxJSON},
	KindStarted:   {"started", 0, maxJSON},
	KindStdin:     {"stdin", 0, MaxStream},
	KindAck:       {"ack", 5, 5},
	KindStdout:    {"stdout", 0, MaxStream},
	KindStderr:    {"stderr", 0, MaxStream},
	KindSignal:    {"signal", 1, 1},
	KindResize:    {"resize", 4, 4},
	KindNotice:    {"notice", 0, maxJSON},
	KindExit:      {"exit", 0, maxJSON},
	KindOpen:      {"open", 0, maxJSON},
	KindOpened:    {"opened", 0, maxJSON},
	KindData:      {"data", 4, MaxStream},
	KindDataAck:   {"data-ack", 8, 8},
	KindClose:     {"close", 4, 4},
	KindReset:     {"reset", 4, MaxStream},
	KindAccepted:  {"accepted", 0, maxJSON},
	KindClock:     {"clock", 0, 8},
	KindPaused:    {"paused", 0, maxJSON},
	KindResume:    {"resume", 0, 0},
	KindSignalled: {"signalled", 0, maxJSON},
}

func (k Kind) isKnown() bool { return int(k) < len(kinds) && kinds[k].name != "" }

// String returns the kind's name, as in "exit frame".
func (k Kind) String() string {
	if k.isKnown() {
		return kinds[k].name
	}
	return "unknown (" + strconv.Itoa(int(k)) + ")"
}

// Seal writes the header of a frame whose payload already lies at frame[HeaderSize:].
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

// parseHeader returns the kind and the payload's length. It refuses unknown kinds, and lengths that the
// kind does not allow, so that whoever takes the payload finds it long enough.
func parseHeader(header []byte) (Kind, int, error) {
	size, k := binary.LittleEndian.Uint32(header), Kind(header[4])
	if !k.isKnown() {
		return k, 0, fmt.Errorf("frame of kind %d, which is unknown", k)
	}
	if least, most := kinds[k].least, kinds[k].most; uint64(size) < uint64(least) || uint64(size) > uint64(most) {
		if least == most {
			return k, 0, fmt.Errorf("%s frame of %d bytes instead of %d", k, size, most)
		}
		return k, 0, fmt.Errorf("%s frame of %d bytes: it must have %d to %d", k, size, least, most)
	}
	return k, int(size), nil
}
