// Package process starts processes and waits for them, as PID 1 must.
package process

import (
	"errors"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// Reaper waits for every process of the guest, as PID 1 must. It is the only caller of wait4, so nobody
// else can take a command's status. Its zero value is not usable: see NewReaper.
type Reaper struct {
	mu    sync.Mutex // held while a process starts, which may end before its pid is known here
	alive map[int]chan syscall.WaitStatus
	more  chan struct{} // tells Run that there may be children again
	idle  bool          // wait4 has found no children, and none was started since
	wake  *sync.Cond    // tells waiters that idle has changed
}

func NewReaper() *Reaper {
	r := &Reaper{alive: map[int]chan syscall.WaitStatus{}, more: make(chan struct{}, 1), idle: true}
	r.wake = sync.NewCond(&r.mu)
	return r
}

// Start starts a process and returns its pid and the channel on which its status will come. It may run on
// the processors in where, or on all of them if that is nil.
func (r *Reaper) Start(path string, argv []string, attr *syscall.ProcAttr, where *CPUSet) (int, <-chan syscall.WaitStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := forkExec(path, argv, attr, where)
	if err != nil {
		return 0, nil, err
	}
	done := make(chan syscall.WaitStatus, 1)
	r.alive[pid] = done
	r.idle = false
	select {
	case r.more <- struct{}{}:
	default:
	}
	return pid, done, nil
}

// forkExec is syscall.ForkExec for a process that may run on the processors in where.
func forkExec(path string, argv []string, attr *syscall.ProcAttr, where *CPUSet) (int, error) {
	if where == nil {
		where = &everyCPU
	}
	runtime.LockOSThread() // a process inherits from the thread that starts it
	defer runtime.UnlockOSThread()
	var ours CPUSet
	if getAffinity(&ours) == nil && ours != *where && SetAffinity(0, where) == nil {
		defer func() { _ = SetAffinity(0, &ours) }()
	}
	return withDefaults(func() (int, error) { return syscall.ForkExec(path, argv, attr) })
}

// Run reaps for ever.
func (r *Reaper) Run() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WALL, nil)
		switch {
		case errors.Is(err, syscall.ECHILD):
			r.mu.Lock()
			r.idle = len(r.alive) == 0
			r.wake.Broadcast()
			r.mu.Unlock()
			<-r.more
		case err != nil: // EINTR
		default:
			r.deliver(pid, status)
		}
	}
}

func (r *Reaper) deliver(pid int, status syscall.WaitStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if done, ok := r.alive[pid]; ok && (status.Exited() || status.Signaled()) {
		delete(r.alive, pid)
		done <- status
	}
}

// KillAll ends every process but this one and says whether they are gone within limit: a process in
// uninterruptible sleep must not keep the result from the host.
func (r *Reaper) KillAll(limit time.Duration) bool {
	// All processes are our children, or become that when their parents end; but for the kernel's
	// helpers, which end by themselves.
	if r.isIdle() {
		return true
	}
	_ = syscall.Kill(-1, syscall.SIGKILL)
	return r.WaitIdle(limit)
}

func (r *Reaper) isIdle() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.idle
}

// WaitIdle says whether all processes are gone within limit.
func (r *Reaper) WaitIdle(limit time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	expired := false
	timer := time.AfterFunc(limit, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		expired = true
		r.wake.Broadcast()
	})
	defer timer.Stop()
	for !r.idle && !expired {
		r.wake.Wait()
	}
	return r.idle
}
