package modules

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"vimto/guest/internal/process"
	"vimto/guest/internal/sys"
)

// This program is also the modprobe(8) that the kernel calls (/proc/sys/kernel/modprobe), because the host's
// would first have to be read over 9p, with its libraries. Where the host has none, as most containers, it is
// the one in PATH as well.

// ModprobePath is where the guest's root has this program under that name.
const ModprobePath = "/usr/lib/vimto/modprobe"

// StageModprobe puts this program below root, an upper tree of the guest's root, and makes the kernel use it.
// A link to the running program takes no space in the snapshot.
func StageModprobe(root string) error {
	path := root + ModprobePath
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Link("/init", path); err != nil {
		return err
	}
	err := sys.WriteFile("/proc/sys/kernel/modprobe", ModprobePath)
	if err == syscall.ENOENT { // a kernel without modules
		return nil
	}
	return err
}

const modprobeUsage = `usage: modprobe [-abDnqrv] [-C DIR] [-d DIR] [-S VERSION] MODULE [PARAMETER=VALUE]...
       modprobe -a|-r [flags] MODULE...
This is vimto's modprobe, for guests of a host without kmod.
`

// modprobe is one run of the program.
type modprobe struct {
	build    string
	index    moduleIndex
	places   []string // where settings are
	settings moduleSettings

	all, remove, show, dry, quiet, verbose, first, blacklist bool
	names                                                    []string
	parameters                                               string

	done map[string]bool // what was loaded, or is being loaded
	out  io.Writer
}

// Modprobe does what the arguments say and returns an exit status. build names this program's source.
func Modprobe(build string, arguments []string, out, errs io.Writer) int {
	m := &modprobe{build: build, index: findModules(""), places: settingPlaces, out: out, done: map[string]bool{}}
	if err := m.parse(arguments); err != nil {
		fmt.Fprintf(errs, "modprobe: %v\n%s", err, modprobeUsage)
		return 1
	}
	if len(m.names) == 0 {
		fmt.Fprint(errs, modprobeUsage)
		return 1
	}
	m.settings = readSettings(m.places, "/proc/cmdline")
	status := 0
	for _, name := range m.names {
		if err := m.handle(name); err != nil {
			status = 1
			if !m.quiet || !errors.Is(err, errNotFound) {
				fmt.Fprintf(errs, "modprobe: %v\n", err)
			}
		}
	}
	return status
}

// parse reads the arguments in the manner of getopt_long(3).
func (m *modprobe) parse(arguments []string) error {
	long := map[string]byte{
		"all": 'a', "remove": 'r', "show-depends": 'D', "show": 'n', "dry-run": 'n', "quiet": 'q', "verbose": 'v',
		"use-blacklist": 'b', "first-time": '1', "syslog": 's', "ignore-install": 'i', "ignore-remove": 'i',
		"force": 'i', "force-vermagic": 'i', "force-modversion": 'i', "remove-holders": 'i', "remove-dependencies": 'i',
		"dirname": 'd', "set-version": 'S', "config": 'C', "wait": 'w', "version": 'V', "help": 'h',
	}
	for len(arguments) > 0 {
		argument := arguments[0]
		arguments = arguments[1:]
		var flags string
		value, hasValue := "", false
		switch {
		case argument == "--":
			m.operands(arguments)
			return nil
		case strings.HasPrefix(argument, "--"):
			var name string
			name, value, hasValue = strings.Cut(argument[2:], "=")
			if long[name] == 0 {
				return fmt.Errorf("unknown flag `%s`", argument)
			}
			flags = string(long[name])
		case strings.HasPrefix(argument, "-") && len(argument) > 1:
			flags = argument[1:]
		default:
			m.operands(append([]string{argument}, arguments...))
			return nil
		}
		for i := 0; i < len(flags); i++ {
			flag := flags[i]
			if strings.IndexByte("dSCw", flag) >= 0 {
				if !hasValue && i+1 < len(flags) {
					value, hasValue = flags[i+1:], true
				}
				if !hasValue {
					if len(arguments) == 0 {
						return fmt.Errorf("flag `%s` needs a value", argument)
					}
					value, arguments = arguments[0], arguments[1:]
				}
				m.set(flag, value)
				break
			}
			if !m.turnOn(flag) {
				return fmt.Errorf("unknown flag `-%c`", flag)
			}
		}
	}
	return nil
}

func (m *modprobe) turnOn(flag byte) bool {
	switch flag {
	case 'a':
		m.all = true
	case 'r':
		m.remove = true
	case 'D':
		m.show = true
	case 'n':
		m.dry = true
	case 'q':
		m.quiet = true
	case 'v':
		m.verbose = true
	case 'b':
		m.blacklist = true
	case '1':
		m.first = true
	case 's', 'i', 'f': // there is no syslog; install commands are not run, and nothing is forced
	case 'V':
		fmt.Fprintf(m.out, "vimto's modprobe, build %s\n", m.build)
		os.Exit(0)
	case 'h':
		fmt.Fprint(m.out, modprobeUsage)
		os.Exit(0)
	default:
		return false
	}
	return true
}

func (m *modprobe) set(flag byte, value string) {
	switch flag {
	case 'd':
		m.index = findModules(strings.TrimRight(value, "/"))
	case 'C':
		m.places = []string{value}
	case 'S':
		m.index.dir = filepath.Dir(m.index.dir) + "/" + value
	}
}

func (m *modprobe) operands(operands []string) {
	for i, operand := range operands {
		if !m.all && !m.remove && i > 0 {
			m.parameters = strings.Join(operands[i:], " ")
			return
		}
		if !strings.HasPrefix(operand, "-") || len(m.names) == 0 {
			m.names = append(m.names, operand)
		}
	}
}

var errNotFound = errors.New("not found")

// handle loads or removes what one name stands for.
func (m *modprobe) handle(name string) error {
	targets, err := m.targets(name)
	if err != nil {
		return err
	}
	for _, target := range targets {
		if m.remove {
			err = errors.Join(err, m.unload(target))
		} else {
			err = errors.Join(err, m.load(target, m.parameters))
		}
	}
	return err
}

// targets returns the modules that a name or an alias stands for: none if it is built in.
func (m *modprobe) targets(name string) ([]string, error) {
	if strings.HasPrefix(name, "/") || strings.HasPrefix(name, "./") {
		return nil, fmt.Errorf("FATAL: `%s` is a file; insmod loads files", name)
	}
	if name == "" {
		return nil, fmt.Errorf("FATAL: Module %s %w in directory %s", name, errNotFound, m.index.dir)
	}
	own := moduleName(name)
	if names := m.settings.aliased(underscored(name)); len(names) > 0 {
		return names, nil
	}
	if m.index.files(own) != nil {
		if m.blacklist && m.settings.blacklisted[own] {
			return nil, nil
		}
		return []string{own}, nil
	}
	builtin := m.index.isBuiltin(own)
	var names []string
	if !builtin {
		names, builtin = m.index.resolve(underscored(name))
	}
	if builtin {
		if m.remove {
			return nil, fmt.Errorf("FATAL: Module %s is builtin.", name)
		}
		if m.show {
			fmt.Fprintf(m.out, "builtin %s\n", own)
		}
		return nil, nil
	}
	var allowed []string
	for _, found := range names {
		if !m.settings.blacklisted[found] {
			allowed = append(allowed, found)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("FATAL: Module %s %w in directory %s", name, errNotFound, m.index.dir)
	}
	return allowed, nil
}

// load loads a module after all that it needs. Its soft dependencies are tried before and after it.
func (m *modprobe) load(name, parameters string) error {
	if m.done[name] {
		return nil
	}
	m.done[name] = true
	if m.first && isLoaded(name) {
		return fmt.Errorf("ERROR: could not insert '%s': Module already in kernel", name)
	}
	before, after := m.softDependencies(name)
	m.try(before)
	files := m.index.files(name)
	for _, path := range files {
		own := moduleName(path)
		if own != name && m.done[own] {
			continue
		}
		m.done[own] = true
		if own != name {
			early, late := m.softDependencies(own)
			m.try(early)
			after = append(after, late...)
		}
		options := m.settings.options(own)
		if own == name {
			options = strings.TrimSpace(options + " " + parameters)
		}
		if m.show || m.verbose {
			fmt.Fprintf(m.out, "insmod %s %s\n", path, options)
		}
		if m.show || m.dry {
			continue
		}
		if err := insertModule(path, options); err != nil && !errors.Is(err, syscall.EEXIST) {
			return fmt.Errorf("ERROR: could not insert '%s': %w", own, err)
		}
	}
	m.try(after)
	return nil
}

func (m *modprobe) softDependencies(name string) (before, after []string) {
	add := func(line string) bool {
		pre, post := soft(name, line)
		before, after = append(before, pre...), append(after, post...)
		return true
	}
	m.index.lines("modules.softdep", add)
	for _, line := range m.settings.softdeps {
		add(line)
	}
	return before, after
}

// try loads modules that need not be there.
func (m *modprobe) try(names []string) {
	for _, name := range names {
		targets, _ := m.targets(name)
		for _, target := range targets {
			_ = m.load(target, "")
		}
	}
}

// unload removes a module, and those that only it needed.
func (m *modprobe) unload(name string) error {
	if !isLoaded(name) {
		if m.first {
			return fmt.Errorf("FATAL: Module %s is not in kernel.", name)
		}
		return nil
	}
	files := m.index.files(name)
	for i := len(files) - 1; i >= 0; i-- {
		own := moduleName(files[i])
		if own != name && (!isLoaded(own) || useCount(own) != "0") {
			continue
		}
		if m.verbose || m.show {
			fmt.Fprintf(m.out, "rmmod %s\n", own)
		}
		if m.dry || m.show {
			continue
		}
		if err := deleteModule(own); err != nil && own == name {
			if err == syscall.EWOULDBLOCK {
				return fmt.Errorf("FATAL: Module %s is in use.", name)
			}
			return fmt.Errorf("ERROR: could not remove '%s': %w", name, err)
		}
	}
	return nil
}

func isLoaded(name string) bool {
	_, err := sys.Mode("/sys/module/" + name + "/refcnt") // what is built in has none
	return err == nil
}

func useCount(name string) string {
	text, _ := sys.ReadFile("/sys/module/" + name + "/refcnt")
	return strings.TrimSpace(text)
}

// insertModule loads a module's file. The kernel unpacks a compressed one itself if it can, as all those do
// whose packages compress their modules; else we unpack it, or the host's program for that compression does.
func insertModule(path, parameters string) error {
	if strings.HasSuffix(path, ".ko") {
		return finitModule(path, parameters, 0)
	}
	err := finitModule(path, parameters, compressedFile)
	if err == nil || errors.Is(err, syscall.EEXIST) {
		return err
	}
	image, unpackErr := unpack(path)
	if unpackErr != nil {
		return errors.Join(err, unpackErr)
	}
	return initModule(image, parameters)
}

func unpack(path string) ([]byte, error) {
	if program := map[string]string{".xz": "xz", ".zst": "zstd"}[filepath.Ext(path)]; program != "" {
		return outputOf(program, "-dcq", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	reader, err := gzip.NewReader(file)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(reader)
}

// outputOf runs a program of the host's and returns its output.
func outputOf(argv ...string) ([]byte, error) {
	path, problem := process.LookUp(argv[0], nil, "/")
	if problem != nil {
		return nil, problem.Err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer read.Close()
	process, err := os.StartProcess(path, argv, &os.ProcAttr{Files: []*os.File{nil, write, os.Stderr}})
	write.Close()
	if err != nil {
		return nil, err
	}
	output, err := io.ReadAll(read)
	state, waitErr := process.Wait()
	if waitErr == nil && !state.Success() {
		waitErr = fmt.Errorf("%s: %s", argv[0], state)
	}
	return output, errors.Join(err, waitErr)
}
