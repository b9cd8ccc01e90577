package run

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"vimto/guest/internal/streams"
	"vimto/guest/internal/sys"
	"vimto/guest/internal/wire"
	"vimto/guest/internal/wiretest"
)

func TestParseStat(t *testing.T) {
	got := parseStat("213 (a b) (c) D 1 213 213 34816 213 4194308 91 0")
	if want := (processStat{"a b) (c", 'D', 213, 4194308}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, text := range []string{"", "1 (x", "1 (x) D 2 3"} {
		if got := parseStat(text); got != (processStat{}) {
			t.Errorf("%q: got %v", text, got)
		}
	}
}

func TestStatusFields(t *testing.T) {
	const status = "Name:\tdd\nSigPnd:\t0000000000000100\nSigBlk:\tfffffffe7ffbfeff\nvoluntary_ctxt_switches:\t9\n"
	if mask(status, "SigPnd") != 1<<8 || mask(status, "ShdPnd") != 0 || field(status, "voluntary_ctxt_switches") != "9" {
		t.Error(mask(status, "SigPnd"), field(status, "voluntary_ctxt_switches"))
	}
}

func TestWriteBack(t *testing.T) {
	if countWritten() == "" {
		t.Error("the kernel does not say how much it has written back")
	}
	start := time.Now()
	pages := ""
	w := writeBack{count: func() string { return pages }}
	for _, step := range []struct {
		pages string
		after time.Duration
		moves bool
	}{
		{"7", 0, false}, // there is nothing to compare with yet
		{"7", time.Second, false},
		{"9", 2 * time.Second, true},
		{"9", 4 * time.Second, true},
		{"9", 6 * time.Second, false},
		{"10", 7 * time.Second, true},
	} {
		pages = step.pages
		if got := w.moves(start.Add(step.after)); got != step.moves {
			t.Errorf("%s pages after %v: got %v", step.pages, step.after, got)
		}
	}
}

func TestWhatIsBeingWrittenBackIsNotStuck(t *testing.T) {
	guest, host := wiretest.Pair(t)
	pages := "7"
	s := &session{port: guest, stage: "flush", writeBack: writeBack{count: func() string { return pages }}}
	for _, step := range []struct {
		pages string
		stuck bool
	}{{"7", true}, {"7", true}, {"9", false}} {
		pages = step.pages
		if err := s.signal(0); err != nil {
			t.Fatal(err)
		}
		_, payload, err := host.Next()
		if stuck := strings.Contains(string(payload), "still writing back"); err != nil || stuck != step.stuck {
			t.Errorf("%s pages: got %s, %v", step.pages, payload, err)
		}
	}
}

// sleepHelper, in the environment, makes this test binary sleep for good and out of every signal's reach:
// the parent of a vfork(2) does, until the child executes a program or ends.
const sleepHelper = "VIMTO_TEST_SLEEP"

func TestMain(m *testing.M) {
	if os.Getenv(sleepHelper) == "" {
		os.Exit(m.Run())
	}
	runtime.LockOSThread()
	if os.Getenv(sleepHelper) == "blocked" {
		all := ^uint64(0)
		_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, 0, uintptr(unsafe.Pointer(&all)), 0, 8, 0, 0)
	}
	os.Stdout.WriteString(strconv.Itoa(syscall.Gettid()) + "\n")
	const cloneVfork = 0x4000
	child, _, _ := syscall.RawSyscall6(syscall.SYS_CLONE, cloneVfork|uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	for child == 0 {
		_, _, _ = syscall.RawSyscall6(syscall.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	}
}

// startSleeper returns the process group of a process in uninterruptible sleep, and a function that sends
// its sleeping thread a signal (that thread, for another one would take what is sent to the process).
func startSleeper(t *testing.T, how string) (group int, kick func()) {
	t.Helper()
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), sleepHelper+"="+how, "GODEBUG=asyncpreemptoff=1") // those are signals, too
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	group = command.Process.Pid
	t.Cleanup(func() {
		_ = syscall.Kill(-group, syscall.SIGKILL)
		_ = command.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	tid, _ := strconv.Atoi(strings.TrimSpace(line))
	waitForState(t, "/proc/"+strconv.Itoa(group)+"/task/"+strconv.Itoa(tid), 'D')
	return group, func() {
		_, _, _ = syscall.Syscall(syscall.SYS_TGKILL, uintptr(group), uintptr(tid), uintptr(syscall.SIGURG))
	}
}

func waitForState(t *testing.T, task string, state byte) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		text, _ := sys.ReadFile(task + "/stat")
		if parseStat(text).state == state {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %s", task, text)
		}
	}
}

func TestASleeperIsFoundOnceASignalWaits(t *testing.T) {
	name := filepath.Base(os.Args[0])
	name = name[:min(len(name), 15)] // the kernel keeps no more
	for _, how := range []string{"plain", "blocked"} {
		group, kick := startSleeper(t, how)
		var s sleepers
		if found := s.find([]int{group}); found != "" {
			t.Errorf("%s, without a signal: %q", how, found)
		}
		found := ""
		for deadline := time.Now().Add(10 * time.Second); found == "" && time.Now().Before(deadline); {
			kick() // again: it may only have dozed off before, and taken the first
			found = s.find([]int{group + 1, group})
		}
		if !strings.HasPrefix(found, "`"+name+"` (process "+strconv.Itoa(group)+") is in") {
			t.Errorf("%s, with a signal: %q", how, found)
		}
		if found := s.find([]int{1 << 30}); found != "" {
			t.Errorf("%s, another group: %q", how, found)
		}
	}
}

func TestWhoIsOutOfReach(t *testing.T) {
	const hup, all = 1, ^uint64(0)
	for _, test := range []struct {
		what             string
		exiting          bool
		pending, blocked uint64
		once, again      bool // what the first look says, and the next one in the same sleep
	}{
		{"no signal", false, 0, 0, false, false},
		{"a signal that goes unnoticed", false, hup, 0, true, true},
		{"a signal that is blocked", false, hup, all, false, true},
		{"a process that closes its files", true, 0, 0, false, true},
		{"the same, and a signal", true, hup, 0, false, true},
	} {
		once := outOfReach(test.exiting, test.pending, test.blocked, false)
		again := outOfReach(test.exiting, test.pending, test.blocked, true)
		if once != test.once || again != test.again {
			t.Errorf("%s: %v, %v", test.what, once, again)
		}
	}
}

func TestAStoppedProcessDoesNotSleep(t *testing.T) {
	command := exec.Command("sh", "-c", "kill -STOP $$")
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	group := command.Process.Pid
	defer func() {
		_ = syscall.Kill(-group, syscall.SIGKILL)
		_ = command.Wait()
	}()
	waitForState(t, "/proc/"+strconv.Itoa(group), 'T')
	_ = syscall.Kill(-group, syscall.SIGTERM)
	var s sleepers
	if found := s.find([]int{group}) + s.find([]int{group}); found != "" {
		t.Errorf("found %q", found)
	}
}

func tgkill(pid, tid int, signal syscall.Signal) error {
	_, _, errno := syscall.Syscall(syscall.SYS_TGKILL, uintptr(pid), uintptr(tid), uintptr(signal))
	return sys.Err(errno)
}

func TestEachSignalIsAnswered(t *testing.T) {
	here, there := wiretest.Pair(t)
	for stage, want := range map[string]string{
		"setup": `{"signal":15,"stuck":""}`,
		"flush": `{"signal":15,"stuck":"the guest is still writing back what is in the shared directories"}`,
	} {
		s := &session{port: here, stage: stage, stdio: &streams.Stdio{}, writeBack: writeBack{count: countWritten}}
		if err := s.handle(wire.KindSignal, []byte{15}); err != nil {
			t.Fatal(err)
		}
		k, payload, err := there.Next()
		if err != nil || k != wire.KindSignalled || string(payload) != want {
			t.Errorf("%s: %s, %s, %v", stage, k, payload, err)
		}
	}
}

func TestASignalThatIsQuickerThanTheStart(t *testing.T) {
	command := exec.Command("sleep", "60")
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	s := &session{stage: "command", stdio: &streams.Stdio{}} // the host has been told, and nobody leads yet
	s.deliver(syscall.SIGTERM)
	s.lead(command.Process.Pid)
	time.AfterFunc(10*time.Second, func() { _ = command.Process.Kill() })
	if err := command.Wait(); err == nil || err.Error() != "signal: terminated" {
		t.Errorf("the command ended with %v", err)
	}
}
