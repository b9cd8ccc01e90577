package streams

import (
	"os"

	"vimto/guest/internal/wire"
)

// endOfFile is VEOF of a terminal in its default state.
const endOfFile = 4

// input carries the host's stdin frames to the command.
type input struct {
	queue      *wire.Queue
	file       *os.File // our end; nil if the command has none
	toTerminal bool
}

// pump writes what comes to the file, acknowledges it, and closes the file at the end; a terminal gets
// its end-of-file character instead. What a command no longer reads is lost, as in any pipe.
func (s *input) pump(p *wire.Port) {
	broken := false
	for {
		chunk, ok := s.queue.Take()
		if !ok {
			break
		}
		if !broken {
			_, err := s.file.Write(chunk)
			broken = err != nil
		}
		s.queue.Consumed(len(chunk))
		if p.Write(wire.AckFrame(len(chunk))) != nil {
			break
		}
	}
	if s.toTerminal {
		_, _ = s.file.Write([]byte{endOfFile})
		return
	}
	s.file.Close()
}
