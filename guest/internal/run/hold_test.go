package run

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// openAgain returns a new descriptor of the file, for a holder to close.
func openAgain(t *testing.T, path string) int {
	t.Helper()
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func isOpen(fd int) bool {
	var st syscall.Stat_t
	return syscall.Fstat(fd, &st) == nil
}

func TestHolderLetsGoOfWhatIsOldOrChanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte("1"), 0o755); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	h := &holder{}
	first, second := openAgain(t, path), openAgain(t, path)
	h.take(first, now)
	h.take(second, now.Add(time.Second))
	if isOpen(first) || !isOpen(second) || len(h.files) != 1 {
		t.Errorf("of one file one descriptor is held: %v", h.files)
	}
	h.release(now.Add(holdLimit + time.Millisecond))
	if !isOpen(second) {
		t.Error("it was executed again")
	}
	h.release(now.Add(holdLimit + 2*time.Second))
	if isOpen(second) || len(h.files) != 0 {
		t.Error("nobody has executed it for long")
	}
	third := openAgain(t, path)
	h.take(third, now)
	if err := os.WriteFile(path, []byte("22"), 0o755); err != nil {
		t.Fatal(err)
	}
	h.release(now)
	if isOpen(third) {
		t.Error("it was changed")
	}
}

func TestHolderHoldsAFew(t *testing.T) {
	h := &holder{}
	dir := t.TempDir()
	for i := 0; i < holdCount+3; i++ {
		path := filepath.Join(dir, string(rune('a'+i)))
		if err := os.WriteFile(path, nil, 0o755); err != nil {
			t.Fatal(err)
		}
		h.take(openAgain(t, path), time.Now())
	}
	if len(h.files) != holdCount {
		t.Errorf("%d are held", len(h.files))
	}
	h.drop(func(held) bool { return true })
}
