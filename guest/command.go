package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// Exit statuses that are not the command's own, as shells and env(1) have them.
const (
	statusLost          = 125 // the machine or its set-up failed; no test result
	statusNotExecutable = 126
	statusNotFound      = 127
)

// failure is an error with the place it happened in and what the exit frame will say about it.
type failure struct {
	stage  string
	status int
	err    error
	hint   string
}

func (f *failure) Error() string { return f.err.Error() }

func failed(stage string, err error) *failure {
	return &failure{stage: stage, status: statusLost, err: err}
}

// command is a process to start: everything it inherits, explicit.
type command struct {
	argv, env []string
	dir       string
	files     []uintptr // ^0 is a closed descriptor
	attr      *syscall.SysProcAttr
}

// start looks argv[0] up and starts the process.
func (c command) start(r *reaper) (int, <-chan syscall.WaitStatus, *failure) {
	path, problem := lookUp(c.argv[0], c.env, c.dir)
	if problem != nil {
		return 0, nil, problem
	}
	pid, done, err := r.start(path, c.argv, &syscall.ProcAttr{
		Dir: c.dir, Env: c.env, Files: c.files, Sys: c.attr,
	}, &everyCPU)
	if err != nil {
		return 0, nil, c.explain(path, err)
	}
	return pid, done, nil
}

// explain says what a failed start means: the kernel's number alone does not tell a missing directory
// from a missing interpreter.
func (c command) explain(path string, err error) *failure {
	f := &failure{stage: "start", status: statusNotExecutable, err: fmt.Errorf("start `%s`: %w", path, err)}
	if info, statErr := os.Stat(c.dir); statErr != nil || !info.IsDir() {
		f.err = fmt.Errorf("working directory `%s`: %w", c.dir, err)
		f.hint = "the directory must exist in the VM: share it, or start from the repository"
		return f
	}
	switch {
	case errors.Is(err, syscall.ENOENT):
		f.err = fmt.Errorf("start `%s`: its interpreter or dynamic loader does not exist in the VM", path)
	case errors.Is(err, syscall.ENOEXEC):
		f.hint = "is it built for another architecture, or a script without `#!`?"
	case errors.Is(err, syscall.EACCES) && c.attr.Credential != nil:
		f.hint = fmt.Sprintf("the user it runs as must be allowed to execute it and to enter `%s`", c.dir)
	case errors.Is(err, syscall.E2BIG):
		f.hint = "arguments and environment together, or one of them, are too long for Linux"
	}
	return f
}

// lookUp returns the file to execute. A name without a slash is searched in the PATH of the command's
// own environment, like execvp would; a relative one is relative to dir.
func lookUp(name string, env []string, dir string) (string, *failure) {
	notFound := func(err error) *failure {
		return &failure{stage: "start", status: statusNotFound, err: err}
	}
	if name == "" {
		return "", notFound(errors.New("the command is an empty string"))
	}
	if strings.Contains(name, "/") {
		mode, err := modeOf(within(dir, name))
		if err == syscall.ENOENT || err == syscall.ENOTDIR {
			return "", notFound(fmt.Errorf("command `%s`: no such file in the VM", name))
		}
		if err == nil && mode&syscall.S_IFMT == syscall.S_IFDIR {
			return "", &failure{stage: "start", status: statusNotExecutable, err: fmt.Errorf("command `%s` is a directory", name)}
		}
		return name, nil
	}
	var denied string
	for places, more := variable(env, "PATH", "/usr/local/bin:/usr/bin:/bin"), true; more; {
		var place string
		place, places, more = strings.Cut(places, ":")
		if place == "" {
			place = "."
		}
		path := place + "/" + name
		mode, err := modeOf(within(dir, path))
		if err != nil || mode&syscall.S_IFMT == syscall.S_IFDIR {
			continue
		}
		if mode&0o111 != 0 {
			return path, nil
		}
		denied = path
	}
	if denied != "" {
		return "", &failure{stage: "start", status: statusNotExecutable, err: fmt.Errorf("`%s` is not executable", denied)}
	}
	return "", notFound(fmt.Errorf("command `%s` was not found in PATH", name))
}

func within(dir, path string) string {
	if strings.HasPrefix(path, "/") {
		return path
	}
	return dir + "/" + path
}

// variable returns the value of an environment variable, the last one if there are several.
func variable(env []string, name, fallback string) string {
	for i := len(env) - 1; i >= 0; i-- {
		if value, ok := strings.CutPrefix(env[i], name+"="); ok {
			return value
		}
	}
	return fallback
}

// path returns the parameter's file below /proc/sys.
func (s sysctl) path() string {
	path := []byte(s.name)
	for i, c := range path {
		if c == '/' {
			return s.name
		}
		if c == '.' {
			path[i] = '/'
		}
	}
	return string(path)
}

// setSysctls writes the kernel parameters.
func setSysctls(values []sysctl) error {
	for _, s := range values {
		if err := writeFile("/proc/sys/"+s.path(), s.value); err != nil {
			// A kernel without core dumps has neither; nobody asked for them by name.
			if strings.HasPrefix(s.name, "kernel.core_p") && err == syscall.ENOENT {
				continue
			}
			return fmt.Errorf("sysctl `%s`: %w", s.name, err)
		}
	}
	return nil
}

// resources are the names of RLIMIT_* by their numbers (asm-generic/resource.h); package syscall has
// only some.
var resources = [...]string{
	"cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile", "memlock", "as", "locks",
	"sigpending", "msgqueue", "nice", "rtprio", "rttime",
}

// setLimits sets this process's limits, which the command inherits. Through package syscall, so that
// the runtime does not put its own idea of the number of open files back when the command starts.
func setLimits(limits []rlimit) error {
	for _, l := range limits {
		resource := l.number()
		if resource < 0 {
			return fmt.Errorf("unknown resource limit `%s`", l.name)
		}
		if err := syscall.Setrlimit(resource, &syscall.Rlimit{Cur: l.soft, Max: l.hard}); err != nil {
			return fmt.Errorf("resource limit `%s`: %w", l.name, err)
		}
	}
	return nil
}

// number returns the limit's RLIMIT_* number, or -1.
func (l rlimit) number() int {
	for number, name := range resources {
		if name == l.name {
			return number
		}
	}
	return -1
}
