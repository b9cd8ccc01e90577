package sys

import (
	"bytes"
	"os"
	"syscall"
	"testing"
)

func TestFilesAreReadAndWrittenWhole(t *testing.T) {
	path := t.TempDir() + "/file"
	text := string(bytes.Repeat([]byte("0123456789"), 1000))
	if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadFile(path); err != nil || got != text {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := WriteFile(path, "short"); err != nil {
		t.Error(err)
	}
	if got, err := ReadFile(path); err != nil || got != "short" {
		t.Errorf("%q, %v", got, err)
	}
	if mode, err := Mode(path); err != nil || mode != syscall.S_IFREG|0o640 {
		t.Errorf("%o, %v", mode, err)
	}
}

func TestErrorsAreNumbers(t *testing.T) {
	path := t.TempDir() + "/none"
	_, readErr := ReadFile(path)
	_, modeErr := Mode(path)
	for _, err := range []error{readErr, modeErr, WriteFile(path, "x"), Err(syscall.ENOENT)} {
		if err != syscall.ENOENT {
			t.Errorf("%#v", err)
		}
	}
	if Err(0) != nil {
		t.Error("success is not an error")
	}
}

func TestParent(t *testing.T) {
	for path, want := range map[string]string{"/a/b": "/a", "/a": "/", "/a/b/c": "/a/b"} {
		if got := Parent(path); got != want {
			t.Errorf("%s: %s", path, got)
		}
	}
}
