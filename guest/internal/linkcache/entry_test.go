package linkcache

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// place is a cache with one entry, and where the output goes.
type place struct {
	t                         *testing.T
	path, linked, output, dir string
	content                   []byte
}

func newPlace(t *testing.T) *place {
	dir := t.TempDir()
	p := &place{
		t: t, dir: dir, path: filepath.Join(dir, "key"), linked: filepath.Join(t.TempDir(), "linked"),
		output: filepath.Join(t.TempDir(), "a.test"), content: bytes.Repeat([]byte("0123456789"), 100_000),
	}
	if err := os.WriteFile(p.linked, p.content, 0o775); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *place) save() {
	a, err := newAside(p.path)
	if err != nil {
		p.t.Fatal(err)
	}
	a.save(p.linked, p.path)
	a.drop()
}

func (p *place) names() []string {
	entries, _ := os.ReadDir(p.dir)
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func TestAnEntryIsACopy(t *testing.T) {
	p := newPlace(t)
	p.save()
	old := time.Unix(1, 0)
	if err := os.Chtimes(p.path, old, old); err != nil {
		t.Fatal(err)
	}
	if err := restore(p.path, p.output); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(p.output); !bytes.Equal(got, p.content) {
		t.Errorf("%d bytes", len(got))
	}
	entry, _ := os.Stat(p.path)
	made, _ := os.Stat(p.output)
	linked, _ := os.Stat(p.linked)
	if !entry.ModTime().After(old) {
		t.Error("its use is not noted")
	}
	if entry.Mode() != 0o600 || made.Mode()&0o700 != linked.Mode()&0o700 || made.Mode()&0o002 != 0 {
		t.Errorf("%v %v", entry.Mode(), made.Mode())
	}
	if made.Sys().(*syscall.Stat_t).Nlink != 1 {
		t.Error("a hard link")
	}
	// go writes into what it got.
	if err := os.WriteFile(p.output, []byte("changed"), 0o775); err != nil {
		t.Fatal(err)
	}
	if err := restore(p.path, p.output); err != nil {
		t.Error(err)
	}
	if got, _ := os.ReadFile(p.output); !bytes.Equal(got, p.content) {
		t.Errorf("%d bytes", len(got))
	}
}

func TestADamagedEntryIsRemoved(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"empty":   func(path string) error { return os.Truncate(path, 0) },
		"short":   func(path string) error { return os.Truncate(path, 5) },
		"cut":     func(path string) error { return os.Truncate(path, 500_000) },
		"zeroed":  func(path string) error { return os.Truncate(path, 2_000_000) },
		"altered": func(path string) error { return alter(path, 77) },
		"trailer": func(path string) error { return alter(path, 1_000_000) },
	} {
		p := newPlace(t)
		p.save()
		if err := damage(p.path); err != nil {
			t.Fatal(err)
		}
		if restore(p.path, p.output) == nil {
			t.Errorf("%s: used", name)
		}
		if _, err := os.Lstat(p.output); err == nil {
			t.Errorf("%s: something is left", name)
		}
		if len(p.names()) != 0 {
			t.Errorf("%s: %v", name, p.names())
		}
	}
}

func alter(path string, at int64) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.WriteAt([]byte("#"), at)
	return err
}

func TestOnlyEntriesThatNobodyElseCanWrite(t *testing.T) {
	p := newPlace(t)
	p.save()
	for _, mode := range []os.FileMode{0o620, 0o602} {
		if err := os.Chmod(p.path, mode); err != nil {
			t.Fatal(err)
		}
		if restore(p.path, p.output) == nil {
			t.Errorf("%v is used", mode)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(p.path, 12345, 0); err != nil {
			t.Skip(err)
		}
		_ = os.Chmod(p.path, 0o644)
		if restore(p.path, p.output) == nil {
			t.Error("another user's is used")
		}
	}
	link := p.path + "-link"
	if err := os.Symlink(p.path, link); err != nil {
		t.Fatal(err)
	}
	if restore(link, p.output) == nil {
		t.Error("a symbolic link is followed")
	}
}

func TestTheOutputIsNotWrittenThroughALink(t *testing.T) {
	p := newPlace(t)
	p.save()
	victim := filepath.Join(p.dir, "victim")
	if err := os.Symlink(victim, p.output); err != nil {
		t.Fatal(err)
	}
	if restore(p.path, p.output) == nil {
		t.Error("it succeeded")
	}
	if _, err := os.Lstat(victim); err == nil {
		t.Error("the link was followed")
	}
}

func TestNothingIsKeptWhereTheNameHasGone(t *testing.T) {
	p := newPlace(t)
	a, err := newAside(p.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(asideVariable, a.name)
	t.Setenv(externalVariable, "/nonexistent/compiler")
	if status, ours := Run([]string{"linker", "-m64"}); status != 1 || !ours {
		t.Error(status, ours)
	}
	a.save(p.linked, p.path)
	a.drop()
	if len(p.names()) != 0 {
		t.Error(p.names())
	}
}

func TestNothingIsLeftOfWhatCannotBeKept(t *testing.T) {
	p := newPlace(t)
	if err := os.Remove(p.linked); err != nil {
		t.Fatal(err)
	}
	p.save()
	if len(p.names()) != 0 {
		t.Error(p.names())
	}
	if _, err := newAside(filepath.Join(p.dir, "none", "key")); err == nil {
		t.Error("made in a directory that is not there")
	}
}

func TestTwoOfOneKey(t *testing.T) {
	p := newPlace(t)
	first, err := newAside(p.path)
	if err != nil {
		t.Fatal(err)
	}
	p.save()
	if err := restore(p.path, p.output); err != nil {
		t.Error(err)
	}
	first.save(p.linked, p.path)
	first.drop()
	if err := restore(p.path, p.output); err != nil {
		t.Error(err)
	}
	if names := p.names(); len(names) != 1 {
		t.Error(names)
	}
}

func TestWhatIsNotForUs(t *testing.T) {
	for _, arguments := range [][]string{{"p"}, {"p", "core", "1"}, {"p", argument}, {"p", argument, "dir"}} {
		if _, ours := Run(arguments); ours {
			t.Error(arguments)
		}
	}
}
