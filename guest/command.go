package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	})
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
		path := within(dir, name)
		info, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			return "", notFound(fmt.Errorf("command `%s`: no such file in the VM", name))
		}
		if err == nil && info.IsDir() {
			return "", &failure{stage: "start", status: statusNotExecutable, err: fmt.Errorf("command `%s` is a directory", name)}
		}
		return name, nil
	}
	var denied string
	for _, place := range filepath.SplitList(variable(env, "PATH", "/usr/local/bin:/usr/bin:/bin")) {
		if place == "" {
			place = "."
		}
		path := place + "/" + name
		info, err := os.Stat(within(dir, path))
		if err != nil || info.IsDir() {
			continue
		}
		if info.Mode()&0o111 != 0 {
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

// setSysctls writes the named kernel parameters; a dot or a slash separates the parts of a name.
func setSysctls(values map[string]string) error {
	for name, value := range values {
		path := name
		if !strings.Contains(name, "/") {
			path = strings.ReplaceAll(name, ".", "/")
		}
		if err := os.WriteFile("/proc/sys/"+path, []byte(value), 0o644); err != nil {
			// A kernel without core dumps has no core_pattern; nobody asked for it by name.
			if name == "kernel.core_pattern" && errors.Is(err, os.ErrNotExist) {
				continue
			}
			return fmt.Errorf("sysctl `%s`: %w", name, err)
		}
	}
	return nil
}

// resources are RLIMIT_* numbers, which package syscall has only some of (asm-generic/resource.h).
var resources = map[string]int{
	"cpu": 0, "fsize": 1, "data": 2, "stack": 3, "core": 4, "rss": 5, "nproc": 6, "nofile": 7,
	"memlock": 8, "as": 9, "locks": 10, "sigpending": 11, "msgqueue": 12, "nice": 13, "rtprio": 14,
	"rttime": 15,
}

// setLimits sets this process's limits, which the command inherits. Through package syscall, so that
// the runtime does not put its own idea of the number of open files back when the command starts.
func setLimits(limits map[string][2]uint64) error {
	for name, pair := range limits {
		resource, ok := resources[name]
		if !ok {
			return fmt.Errorf("unknown resource limit `%s`", name)
		}
		limit := syscall.Rlimit{Cur: pair[0], Max: pair[1]}
		if err := syscall.Setrlimit(resource, &limit); err != nil {
			return fmt.Errorf("resource limit `%s`: %w", name, err)
		}
	}
	return nil
}
