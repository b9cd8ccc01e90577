package process

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestLookUp(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"first/tool": 0o644, "second/tool": 0o755, "second/plain": 0o644} {
		path := dir + "/" + name
		if err := os.MkdirAll(path[:strings.LastIndex(path, "/")], 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"PATH=/nowhere", "PATH=" + dir + "/first:second"}
	for _, c := range []struct {
		name, want string
		status     int
	}{
		{"tool", "second/tool", 0},
		{"plain", "", statusNotExecutable},
		{"missing", "", statusNotFound},
		{"", "", statusNotFound},
		{"./second/tool", "./second/tool", 0},
		{"./second/none", "", statusNotFound},
		{"./second", "", statusNotExecutable},
		{dir + "/second/tool/x", "", statusNotFound},
	} {
		got, problem := LookUp(c.name, env, dir)
		status := 0
		if problem != nil {
			status = problem.Status
		}
		if got != c.want || status != c.status {
			t.Errorf("%q: %q, status %d (%v)", c.name, got, status, problem)
		}
	}
}

func TestReaperDeliversEachStatusToItsOwner(t *testing.T) {
	r := NewReaper()
	go r.Run()
	const n = 20
	channels := make([]<-chan syscall.WaitStatus, n)
	for i := range channels {
		// A child that ends at once may end before its pid is noted; one is ended by a signal.
		script := "exit " + string(rune('0'+i%10))
		if i == 7 {
			script = "kill -9 $$"
		}
		_, done, err := r.Start("/bin/sh", []string{"sh", "-c", script}, &syscall.ProcAttr{Files: []uintptr{0, 1, 2}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		channels[i] = done
	}
	for i, done := range channels {
		status := <-done
		if i == 7 && status.Signal() != syscall.SIGKILL || i != 7 && status.ExitStatus() != i%10 {
			t.Errorf("child %d: %x", i, status)
		}
	}
	if _, _, err := r.Start("/nonexistent", []string{"x"}, &syscall.ProcAttr{}, nil); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("error %v", err)
	}
}
