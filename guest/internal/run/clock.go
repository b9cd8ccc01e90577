package run

import (
	"encoding/binary"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"vimto/guest/internal/console"
	"vimto/guest/internal/sys"
	"vimto/guest/internal/wire"
)

const (
	rndAddEntropy = 0x40085203
	rndReseedCRNG = 0x5207
)

// clock sets this machine's clock by the host's, in the manner of NTP: the answer that came quickest is off by
// at most half of the time that it took.
type clock struct {
	port    *wire.Port
	answers chan answer
	set     chan struct{} // closed when the clock is set as well as can be
}

// answer is the host's time in nanoseconds, and when it came here.
type answer struct {
	hostNS int64
	came   time.Time
}

const (
	clockTries  = 8
	clockWanted = 10 * time.Millisecond
)

func newClock(p *wire.Port) *clock {
	return &clock{port: p, answers: make(chan answer, 1), set: make(chan struct{})}
}

// told takes an answer from the host; one that nobody asked for is dropped.
func (c *clock) told(hostNS int64, came time.Time) {
	select {
	case c.answers <- answer{hostNS, came}:
	default:
	}
}

// run asks until an answer is quick enough, and sets the clock by the best one.
func (c *clock) run() {
	defer close(c.set)
	var best answer // came: the middle of the question's and the answer's time
	took := time.Duration(1<<63 - 1)
	for try := 0; try < clockTries && took > clockWanted; try++ {
		asked := time.Now()
		if c.port.Send(wire.KindClock, nil) != nil {
			return
		}
		a := <-c.answers
		if trip := a.came.Sub(asked); trip < took {
			best, took = answer{a.hostNS, asked.Add(trip / 2)}, trip
		}
	}
	if err := setClock(best.hostNS, best.came); err != nil {
		console.Logf("set the clock: %v", err)
	}
}

// setClock sets CLOCK_REALTIME to the host's time at sending plus what has passed here since.
func setClock(hostNS int64, received time.Time) error {
	if hostNS == 0 {
		return nil
	}
	ts := syscall.NsecToTimespec(hostNS + time.Since(received).Nanoseconds())
	_, _, errno := syscall.Syscall(syscall.SYS_CLOCK_SETTIME, 0, uintptr(unsafe.Pointer(&ts)), 0)
	return sys.Err(errno)
}

// addEntropy credits the host's random bytes and makes the kernel use them at once. Until then all machines that
// are restored from one snapshot have the same generator, and would draw the same random names.
func addEntropy(seed []byte) error {
	if len(seed) == 0 {
		return nil
	}
	fd, err := syscall.Open("/dev/urandom", syscall.O_WRONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	// struct rand_pool_info: two ints, then the bytes. The kernel counts bits.
	info := make([]byte, 8+len(seed))
	binary.NativeEndian.PutUint32(info, uint32(8*len(seed)))
	binary.NativeEndian.PutUint32(info[4:], uint32(len(seed)))
	copy(info[8:], seed)
	if err := sys.Ioctl(fd, rndAddEntropy, unsafe.Pointer(&info[0])); err != nil {
		return err
	}
	runtime.KeepAlive(info)
	return sys.Ioctl(fd, rndReseedCRNG, nil)
}
