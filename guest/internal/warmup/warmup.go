// Package warmup lets an emulator translate kernel code before the command needs it. An emulator translates
// the machine's code when that first runs, once for all processors, and in a restored machine nothing is
// translated: whatever happens for the first time takes ten times as long as later. When the root is mounted,
// half of what the command still waits for is kernel code that starts and ends programs. So while processor 0
// mounts the root, another one, which would sleep, starts and ends a small program that asks the kernel for
// what every program asks for. docs/performance.md has the figures.
//
// Prepare belongs before the snapshot; Start belongs to the order.
package warmup

import (
	"os"
	"runtime"
	"syscall"

	"vimto/guest/internal/process"
)

// warmupPath is the program's place in the initramfs, which is out of reach once the root is mounted.
const warmupPath = "/vimto-warmup"

// Program is ready to be started. A nil Program does nothing: there is no processor or no code for it.
type Program struct {
	begun, ended chan struct{}
}

// Prepare writes the program and keeps a thread for it on all processors but the first.
func Prepare(r *process.Reaper) (*Program, error) {
	others, ok := process.OtherCPUs()
	text := programText()
	if len(text) == 0 || !ok {
		return nil, nil
	}
	if err := os.WriteFile(warmupPath, programFile(text, warmupPath), 0o755); err != nil {
		return nil, err
	}
	null, err := syscall.Open("/dev/null", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	w := &Program{begun: make(chan struct{}), ended: make(chan struct{}, 1)}
	go onOwnThread(func() { w.run(r, uintptr(null), &others) })
	return w, nil
}

// Start starts the program. The function that it returns waits until no trace of it is left.
func (w *Program) Start() (wait func()) {
	if w == nil {
		return func() {}
	}
	w.begun <- struct{}{}
	return func() { <-w.ended }
}

// onOwnThread runs do on a thread of its own, other than the main thread, whose state is what /proc/1 shows.
func onOwnThread(do func()) {
	runtime.LockOSThread()
	if syscall.Gettid() != syscall.Getpid() {
		do()
		return
	}
	locked := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		close(locked)
		do()
	}()
	<-locked
	runtime.UnlockOSThread()
}

func (w *Program) run(r *process.Reaper, null uintptr, where *process.CPUSet) {
	_ = process.SetAffinity(0, where)
	attr := &syscall.ProcAttr{
		Dir: "/", Env: []string{"PATH=/"}, Files: []uintptr{null, null, null},
		Sys: &syscall.SysProcAttr{Setpgid: true, Credential: &syscall.Credential{}},
	}
	for range w.begun {
		if _, done, err := r.Start(warmupPath, []string{warmupPath}, attr, where); err == nil {
			<-done
		}
		w.ended <- struct{}{}
	}
}
