package run

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"vimto/guest/internal/process"
	"vimto/guest/internal/wire"
	"vimto/guest/internal/wiretest"
)

// outcome is what the host is told of an order.
type outcome struct {
	kinds          []wire.Kind
	stdout, stderr string
	notices        []wire.Notice
	exit           struct {
		Status, Signal     int
		Error, Stage, Hint string
	}
}

// carryOut runs an order's commands here, with nothing mounted, and plays the host; on may answer frames.
func carryOut(t *testing.T, order map[string]any, on func(*wire.Port, wire.Kind)) outcome {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root may start processes with the groups of others")
	}
	given := map[string]any{
		"protocol": 1, "argv": []string{"true"}, "env": []string{"PATH=/usr/bin:/bin"}, "dir": "/", "umask": 0o22,
		"stdin": "null", "stdout": "pipe", "stderr": "pipe",
	}
	for key, value := range order {
		given[key] = value
	}
	text, err := json.Marshal(given)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := wire.ParseOrder(text)
	if err != nil {
		t.Fatal(err)
	}
	reaper := process.NewReaper()
	go reaper.Run()
	guest, host := wiretest.Pair(t)
	s, err := newSession(guest, reaper, parsed, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	s.priming = true
	s.spawn(s.clock.run)
	go s.run()
	go func() { _ = s.dispatch() }()
	seen := listen(t, host, on)
	if !reaper.WaitIdle(10 * time.Second) { // other tests wait for processes of their own
		t.Error("a process is left behind")
	}
	return seen
}

// listen takes the guest's frames up to the exit.
func listen(t *testing.T, host *wire.Port, on func(*wire.Port, wire.Kind)) outcome {
	t.Helper()
	var seen outcome
	for {
		k, payload, err := host.Next()
		if err != nil {
			t.Fatal(err)
		}
		seen.kinds = append(seen.kinds, k)
		switch k {
		case wire.KindClock:
			err = host.Send(wire.KindClock, make([]byte, 8))
		case wire.KindStdout:
			seen.stdout += string(payload)
		case wire.KindStderr:
			seen.stderr += string(payload)
		case wire.KindNotice:
			var notice wire.Notice
			err = json.Unmarshal(payload, &notice)
			seen.notices = append(seen.notices, notice)
		case wire.KindExit:
			if err := json.Unmarshal(payload, &seen.exit); err != nil {
				t.Fatal(err)
			}
			return seen
		}
		if err != nil {
			t.Fatal(err)
		}
		if on != nil {
			on(host, k)
		}
	}
}

func TestWhatIsShared(t *testing.T) {
	shares := []wire.Share{{Path: "/a/b"}, {Path: "/r", Readonly: true}}
	for directory, want := range map[string]bool{"/a/b": true, "/a/b/c": true, "/a/bc": false, "/a": false, "/r": false} {
		if got := isShared(shares, directory); got != want {
			t.Errorf("%s: %v", directory, got)
		}
	}
}

func TestTheCommandsStatusAndStreams(t *testing.T) {
	for script, want := range map[string]struct {
		stdout, stderr string
		status, signal int
	}{
		"echo out; echo err >&2":      {"out\n", "err\n", 0, 0},
		"exit 7":                      {"", "", 7, 0},
		"kill -9 $$":                  {"", "", 137, 9},
		"umask; pwd; echo $#; read x": {"0077\n/tmp\n0\n", "", 1, 0},
	} {
		got := carryOut(t, map[string]any{"argv": []string{"sh", "-c", script}, "dir": "/tmp", "umask": 0o77}, nil)
		if got.stdout != want.stdout || got.stderr != want.stderr || got.exit.Status != want.status ||
			got.exit.Signal != want.signal || got.exit.Stage != "command" || got.exit.Error != "" {
			t.Errorf("%s: %+v", script, got)
		}
	}
}

func TestACommandThatCannotStart(t *testing.T) {
	for _, c := range []struct {
		order  map[string]any
		status int
		error  string
	}{
		{map[string]any{"argv": []string{"none-of-that-name"}}, 127, "command `none-of-that-name` was not found in PATH"},
		{map[string]any{"argv": []string{"/"}}, 126, "command `/` is a directory"},
		{map[string]any{"dir": "/none-of-that-name"}, 126, "working directory `/none-of-that-name`: no such file or directory"},
	} {
		got := carryOut(t, c.order, nil)
		if got.exit.Status != c.status || got.exit.Error != c.error || got.exit.Stage != "start" {
			t.Errorf("%v: %+v", c.order, got.exit)
		}
	}
}

func TestSetupAndTeardown(t *testing.T) {
	command := func(script string) [][]string { return [][]string{{"sh", "-c", script}} }
	last := wire.Notice{Level: "stage", Text: "flush"}
	for name, c := range map[string]struct {
		setup, teardown string
		status          int
		error           string
		notices         []wire.Notice
	}{
		"all is well": {"echo a", "echo b", 0, "", []wire.Notice{
			{Level: "setup", Text: "a"}, {Level: "stage", Text: "teardown"}, {Level: "teardown", Text: "b"}, last,
		}},
		"setup fails": {"echo why; exit 3", "echo b", 125,
			"setup: command `sh -c echo why; exit 3` ended with status 3; its last output:\nwhy", []wire.Notice{
				{Level: "setup", Text: "why"}, {Level: "stage", Text: "teardown"}, {Level: "teardown", Text: "b"}, last,
			}},
		"teardown fails": {"true", "kill -15 $$", 125,
			"teardown: command `sh -c kill -15 $$` ended with signal 15 (terminated)", []wire.Notice{
				{Level: "stage", Text: "teardown"}, last,
			}},
	} {
		got := carryOut(t, map[string]any{"setup": command(c.setup), "teardown": command(c.teardown)}, nil)
		if got.exit.Status != c.status || got.exit.Error != c.error || !equal(got.notices, c.notices) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func equal(a, b []wire.Notice) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestThePauseBeforeTheStart(t *testing.T) {
	got := carryOut(t, map[string]any{"gdb_pause": true}, func(host *wire.Port, k wire.Kind) {
		if k == wire.KindPaused {
			_ = host.Send(wire.KindResume, nil)
		}
	})
	paused, started := -1, -1
	for i, k := range got.kinds {
		if k == wire.KindPaused {
			paused = i
		} else if k == wire.KindStarted {
			started = i
		}
	}
	if paused < 0 || started < paused {
		t.Errorf("%s", got.kinds)
	}
}

func TestAMalformedFrameIsTheEnd(t *testing.T) {
	got := carryOut(t, map[string]any{"argv": []string{"sleep", "1"}}, func(host *wire.Port, k wire.Kind) {
		if k == wire.KindStarted {
			_ = host.Send(wire.KindStdout, nil)
		}
	})
	if got.exit.Status != wire.StatusLost || !strings.HasSuffix(got.exit.Error, "only the guest sends: stdout") {
		t.Errorf("%+v", got.exit)
	}
}
