package run

import (
	"encoding/binary"
	"testing"
	"time"

	"vimto/guest/internal/wire"
	"vimto/guest/internal/wiretest"
)

func TestTheClockIsAskedForUntilAnAnswerIsQuick(t *testing.T) {
	guest, host := wiretest.Pair(t)
	c := newClock(guest)
	asked := make(chan int, 1)
	go func() {
		count := 0
		for {
			if k, payload, err := host.Next(); err != nil || k != wire.KindClock || len(payload) > 0 {
				asked <- count
				return
			}
			if count++; count < 3 {
				time.Sleep(clockWanted) // the first two take too long
			}
			c.told(0, time.Now()) // no time: this machine's clock is left alone
		}
	}()
	c.run()
	<-c.set
	guest.HangUp()
	if count := <-asked; count < 3 || count > clockTries {
		t.Errorf("asked %d times", count)
	}
}

func TestAnAnswerThatNobodyAskedForIsDropped(t *testing.T) {
	c := newClock(nil)
	c.told(1, time.Now())
	c.told(2, time.Now())
	if a := <-c.answers; a.hostNS != 1 || len(c.answers) != 0 {
		t.Error(a)
	}
}

func TestMalformedClockFramesAreRefused(t *testing.T) {
	for size, ok := range map[int]bool{0: false, 4: false, 8: true} {
		payload := make([]byte, size)
		if size == 8 {
			binary.LittleEndian.PutUint64(payload, 42)
		}
		if ns, err := wire.ParseClock(payload); (err == nil) != ok || ok && ns != 42 {
			t.Errorf("%d bytes: %d, %v", size, ns, err)
		}
	}
}
