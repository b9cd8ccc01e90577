package process

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"vimto/guest/internal/sys"
)

// Exit statuses of a command that could not be started, as shells and env(1) have them.
const (
	statusNotExecutable = 126
	statusNotFound      = 127
)

// StartError says why a process was not started, and the status that shells give such a command.
type StartError struct {
	Status int
	Err    error
	Hint   string
}

func (e *StartError) Error() string { return e.Err.Error() }

// Command is a process to start, with everything that it inherits.
type Command struct {
	Argv, Env []string
	Dir       string
	Files     []uintptr // descriptors 0, 1, ...; ^0 is a closed one
	Attr      *syscall.SysProcAttr
}

// Start looks argv[0] up and starts the process.
func (c Command) Start(r *Reaper) (int, <-chan syscall.WaitStatus, *StartError) {
	path, problem := LookUp(c.Argv[0], c.Env, c.Dir)
	if problem != nil {
		return 0, nil, problem
	}
	pid, done, err := r.Start(path, c.Argv, &syscall.ProcAttr{
		Dir: c.Dir, Env: c.Env, Files: c.Files, Sys: c.Attr,
	}, nil)
	if err != nil {
		return 0, nil, c.explain(path, err)
	}
	return pid, done, nil
}

// explain says why a start failed: the kernel's error alone does not distinguish a missing directory from a
// missing interpreter.
func (c Command) explain(path string, err error) *StartError {
	f := &StartError{Status: statusNotExecutable, Err: fmt.Errorf("start `%s`: %w", path, err)}
	if info, statErr := os.Stat(c.Dir); statErr != nil || !info.IsDir() {
		f.Err = fmt.Errorf("working directory `%s`: %w", c.Dir, err)
		f.Hint = "the directory must exist in the machine: share it, or start from the repository"
		return f
	}
	switch {
	case errors.Is(err, syscall.ENOENT):
		f.Err = fmt.Errorf("start `%s`: its interpreter or dynamic loader does not exist in the machine", path)
	case errors.Is(err, syscall.ENOEXEC):
		f.Hint = "is it built for another architecture, or a script without `#!`?"
	case errors.Is(err, syscall.EACCES) && c.Attr.Credential != nil:
		f.Hint = fmt.Sprintf("the user that it runs as must be allowed to execute it and to enter `%s`", c.Dir)
	case errors.Is(err, syscall.E2BIG):
		f.Hint = "the arguments and the environment are too long for Linux, together or one string alone"
	}
	return f
}

// LookUp returns the file to execute. A name without a slash is looked up in the PATH of env, the command's
// own, as execvp(3) does; a relative path is relative to dir.
func LookUp(name string, env []string, dir string) (string, *StartError) {
	notFound := func(err error) *StartError {
		return &StartError{Status: statusNotFound, Err: err}
	}
	if name == "" {
		return "", notFound(errors.New("the command is an empty string"))
	}
	if strings.Contains(name, "/") {
		mode, err := sys.Mode(within(dir, name))
		if err == syscall.ENOENT || err == syscall.ENOTDIR {
			return "", notFound(fmt.Errorf("command `%s`: no such file in the machine", name))
		}
		if err == nil && mode&syscall.S_IFMT == syscall.S_IFDIR {
			return "", &StartError{Status: statusNotExecutable, Err: fmt.Errorf("command `%s` is a directory", name)}
		}
		return name, nil
	}
	var denied string
	for places, more := Getenv(env, "PATH", "/usr/local/bin:/usr/bin:/bin"), true; more; {
		var place string
		place, places, more = strings.Cut(places, ":")
		if place == "" {
			place = "."
		}
		path := place + "/" + name
		mode, err := sys.Mode(within(dir, path))
		if err != nil || mode&syscall.S_IFMT == syscall.S_IFDIR {
			continue
		}
		if mode&0o111 != 0 {
			return path, nil
		}
		denied = path
	}
	if denied != "" {
		return "", &StartError{Status: statusNotExecutable, Err: fmt.Errorf("`%s` is not executable", denied)}
	}
	return "", notFound(fmt.Errorf("command `%s` was not found in PATH", name))
}

func within(dir, path string) string {
	if strings.HasPrefix(path, "/") {
		return path
	}
	return dir + "/" + path
}

// Getenv returns the value of a variable in env, the last one if there are several.
func Getenv(env []string, name, fallback string) string {
	for i := len(env) - 1; i >= 0; i-- {
		if value, ok := strings.CutPrefix(env[i], name+"="); ok {
			return value
		}
	}
	return fallback
}
