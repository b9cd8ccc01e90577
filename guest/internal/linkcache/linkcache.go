// Package linkcache keeps what go links. `go test -exec` links each test binary anew though nothing has changed.
// So vimto has go start its tools through this program (`go -toolexec`), and a link that is known is a copy:
//
//	PROGRAM link-cache DIRECTORY TOOL ARGUMENT…
//
// Every other tool, and a linker with arguments that are not understood, takes this process's place unchanged:
// go asks each of them for its version, and makes its own cache's keys of that.
//
// What a link makes depends on what go's action ID stands for, the packages' contents, the flags and the
// toolchain, as long as no external linker takes part: that one reads libraries which go knows nothing of. Whether
// it does go's linker decides while it links. So it is given this program as its external linker, which makes the
// new entry vanish before it starts the real one: see runExternal.
//
// No trouble of ours may fail a build. Whatever goes wrong, the tool takes this process's place in the end.
package linkcache

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// argument is the argument that makes this program the wrapper of go's tools.
const argument = "link-cache"

// Variables of the linker, by which this program knows that it is started as the external linker: `-extld` may
// hold a program alone, for the linker asks it what it supports by its first word.
const (
	asideVariable    = "VIMTO_LINK_ASIDE"
	externalVariable = "VIMTO_LINK_EXTERNAL"
)

// Run does what this program was started for, if that is one of this package's parts. Where it returns, ours says
// whether it was, and status is the status to exit with.
func Run(arguments []string) (status int, ours bool) {
	if os.Getenv(asideVariable) != "" {
		return runExternal(arguments[1:]), true
	}
	if len(arguments) > 3 && arguments[1] == argument {
		return runTool(arguments[2], arguments[3:]), true
	}
	return 0, false
}

// runTool runs a tool of go's, or copies from directory what it would make.
func runTool(directory string, command []string) int {
	if l, ok := parse(command); ok && l.keep(directory) {
		return 0
	}
	return replace(command)
}

// runExternal takes the place of the C compiler that links for go's linker. Before, it removes the name under which
// the result would be kept.
func runExternal(arguments []string) int {
	aside, program := os.Getenv(asideVariable), os.Getenv(externalVariable)
	if err := os.Remove(aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(os.Stderr, "vimto: %v\n", err)
		return 1 // the link fails, and is done again without us
	}
	os.Unsetenv(asideVariable)
	os.Unsetenv(externalVariable)
	return replace(append([]string{program}, arguments...))
}

// replace lets command take this process's place. It returns only where that is impossible.
func replace(command []string) int {
	path, err := find(command[0])
	if err == nil {
		err = syscall.Exec(path, command, os.Environ())
	}
	fmt.Fprintf(os.Stderr, "vimto: cannot run `%s`: %v\n", command[0], err)
	return 1
}

// find is exec.LookPath.
func find(program string) (string, error) {
	if strings.Contains(program, "/") {
		return program, nil
	}
	for _, directory := range filepath.SplitList(os.Getenv("PATH")) {
		path := filepath.Join(directory, program)
		info, err := os.Stat(path)
		if err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fs.ErrNotExist
}

// keep makes the output of the link, from directory or by linking; false where the caller has to link.
func (l link) keep(directory string) bool {
	if !l.findLibrary() {
		return false
	}
	key, err := l.key()
	if err != nil {
		return false
	}
	path := filepath.Join(directory, key)
	if restore(path, l.output) == nil {
		return true
	}
	kept, err := newAside(path)
	if err != nil {
		return false
	}
	defer kept.drop()
	said, ok := l.watch(kept.name)
	if !ok {
		return false
	}
	if len(said) == 0 {
		kept.save(l.output, path)
	}
	_, _ = os.Stderr.Write(said) // go puts what a tool writes to either together
	return true
}

// watch links as the caller would, with this program as the external linker. It returns what the linker said, and
// whether it succeeded.
func (l link) watch(aside string) ([]byte, bool) {
	program, err := os.Executable()
	if err != nil {
		return nil, false
	}
	command, external, ok := l.withExternal(program)
	if !ok {
		return nil, false
	}
	return start(command, append(os.Environ(), asideVariable+"="+aside, externalVariable+"="+external), true)
}

// start runs a command and returns what it wrote, to stderr too or not, and whether it succeeded.
func start(command, environ []string, stderr bool) ([]byte, bool) {
	path, err := find(command[0])
	if err != nil {
		return nil, false
	}
	reading, writing, err := os.Pipe()
	if err != nil {
		return nil, false
	}
	defer reading.Close()
	files := []uintptr{0, writing.Fd(), 2}
	if stderr {
		files[2] = files[1]
	}
	runtime.LockOSThread() // the command is killed when the thread that started it ends
	pid, err := syscall.ForkExec(path, command, &syscall.ProcAttr{
		Env:   environ,
		Files: files,
		Sys:   &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
	writing.Close()
	if err != nil {
		return nil, false
	}
	said, err := io.ReadAll(reading)
	var status syscall.WaitStatus
	for {
		_, waitErr := syscall.Wait4(pid, &status, 0, nil)
		if waitErr == nil {
			break
		}
		if waitErr != syscall.EINTR {
			return nil, false
		}
	}
	return said, err == nil && status.Exited() && status.ExitStatus() == 0
}
