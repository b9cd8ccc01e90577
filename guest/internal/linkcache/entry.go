package linkcache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"vimto/guest/internal/sys"
)

// An entry is a linked binary and a trailer. It is written without fsync(2), which would hold up the build: after a
// crash of the host the trailer tells whether all of it is there. Entries follow the rules of vimto/cache/entry.py:
// aside under a lock, whole by one rename, never changed, but for the time of the last use.
const (
	magic         = "vimtolk1"
	trailerLength = len(magic) + 8 + 4
)

var errUnusable = errors.New("not an entry that can be used")

// restore makes output a copy of the entry at path. Where it fails, nothing of that is left.
func restore(path, output string) error {
	in, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	status, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() || int(status.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return errUnusable
	}
	size, sum, err := readTrailer(in, info.Size())
	if err != nil {
		_ = os.Remove(path)
		return err
	}
	out, err := create(output)
	if err != nil {
		return err
	}
	got, err := transfer(out, in, size)
	if err == nil && got != sum {
		_ = os.Remove(path)
		err = errUnusable
	}
	if err = errors.Join(err, out.Close()); err != nil {
		_ = os.Remove(output)
		return err
	}
	now := time.Now()
	_ = os.Chtimes(path, now, now)
	return nil
}

// create makes a new file as the linker would.
func create(output string) (*os.File, error) {
	if info, err := os.Lstat(output); err == nil && info.Mode().IsRegular() {
		_ = os.Remove(output)
	}
	// Not through a link, which would lead out of go's work directory: machines may write there.
	return os.OpenFile(output, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o775)
}

// transfer copies the first size bytes, by reference where the file system can, and returns their sum.
func transfer(out, in *os.File, size int64) (uint32, error) {
	cloned := sys.Clone(int(out.Fd()), int(in.Fd())) == nil
	if cloned {
		if err := out.Truncate(size); err != nil {
			return 0, err
		}
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	buffer := make([]byte, 256<<10)
	sum := uint32(0)
	for at := int64(0); at < size; {
		n, err := in.ReadAt(buffer[:min(size-at, int64(len(buffer)))], at)
		if n == 0 {
			return 0, errors.Join(errUnusable, err)
		}
		sum = crc32.Update(sum, table, buffer[:n])
		if !cloned {
			if _, err := out.WriteAt(buffer[:n], at); err != nil {
				return 0, err
			}
		}
		at += int64(n)
	}
	return sum, nil
}

func readTrailer(file *os.File, length int64) (size int64, sum uint32, err error) {
	size = length - int64(trailerLength)
	if size <= 0 {
		return 0, 0, errUnusable
	}
	var text [trailerLength]byte
	if _, err := file.ReadAt(text[:], size); err != nil {
		return 0, 0, err
	}
	told := binary.LittleEndian.Uint64(text[len(magic):])
	if string(text[:len(magic)]) != magic || told != uint64(size) {
		return 0, 0, errUnusable
	}
	return size, binary.LittleEndian.Uint32(text[len(magic)+8:]), nil
}

// An aside is an entry in the making.
type aside struct {
	file *os.File
	name string
}

// newAside makes a file beside path, locked for as long as this process lives, or until drop.
func newAside(path string) (*aside, error) {
	directory, base := filepath.Split(path)
	name := fmt.Sprintf("%s.%s.%x%x~", directory, base, os.Getpid(), time.Now().UnixNano())
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	a := &aside{file: file, name: name}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		a.drop()
		return nil, err
	}
	return a, nil
}

// drop removes what has not become an entry.
func (a *aside) drop() {
	if a.name != "" {
		_ = os.Remove(a.name)
	}
	a.file.Close()
}

// save makes output the entry at path, unless the name was removed meanwhile. Where that is impossible, for want of
// space for example, there is none.
func (a *aside) save(output, path string) {
	if _, err := os.Lstat(a.name); err != nil {
		return
	}
	if a.fill(output) == nil && os.Rename(a.name, path) == nil {
		a.name = ""
	}
}

func (a *aside) fill(output string) error {
	in, err := os.OpenFile(output, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() == 0 {
		return errUnusable
	}
	sum, err := transfer(a.file, in, info.Size())
	if err != nil {
		return err
	}
	text := binary.LittleEndian.AppendUint64([]byte(magic), uint64(info.Size()))
	text = binary.LittleEndian.AppendUint32(text, sum)
	_, err = a.file.WriteAt(text, info.Size())
	return err
}
