package wiretest

import (
	"testing"

	"vimto/guest/internal/wire"
)

// Pair returns two ports that are connected to each other, until the test ends.
func Pair(t *testing.T) (here, there *wire.Port) {
	t.Helper()
	here, there, err := wire.NewPair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(here.HangUp)
	return here, there
}
