package run

import (
	"errors"
	"fmt"
	"io"
	"time"

	"vimto/guest/internal/wire"
)

// dispatch handles the host's frames until the host hangs up.
func (s *session) dispatch() error {
	defer s.rescue()
	for {
		k, payload, err := s.port.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = s.handle(k, payload)
		}
		if err != nil {
			s.end(wire.Exit{Status: wire.StatusLost, Stage: "command", Err: "protocol error: " + err.Error()})
			return err
		}
	}
}

func (s *session) handle(k wire.Kind, payload []byte) error {
	switch k {
	case wire.KindStdin:
		return s.stdio.PutInput(payload)
	case wire.KindAck:
		return s.stdio.Acknowledge(wire.ParseAck(payload))
	case wire.KindSignal:
		return s.signal(wire.ParseSignal(payload))
	case wire.KindResize:
		s.stdio.Resize(wire.ParseSize(payload))
	case wire.KindClock:
		hostNS, err := wire.ParseClock(payload)
		if err != nil {
			return err
		}
		s.clock.told(hostNS, time.Now())
	case wire.KindResume:
		s.resumeOnce.Do(func() { close(s.resumed) })
	case wire.KindOpen:
		return s.channels.Dial(payload)
	case wire.KindData, wire.KindDataAck, wire.KindClose, wire.KindReset:
		return s.channels.Handle(k, payload)
	default:
		return fmt.Errorf("the host sent a frame that only the guest sends: %s", k)
	}
	return nil
}
