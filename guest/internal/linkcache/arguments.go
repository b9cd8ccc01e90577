package linkcache

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// A link is a command line of go's linker that is understood.
type link struct {
	command    []string
	output     string   // -o
	id         string   // -buildid
	shape      []string // all that shapes the output but for files and the build ID, in order
	external   string   // -extld
	externalAt int      // its place in command, with or without the name
	race       bool     // -race
	library    string   // what the C compiler calls its own library, for `-race`
}

// What a link that is kept may be told, by switches and by flags with a value. All else is rare, or makes the
// linker read or write more than it does for go. Source: cmd/link/internal/ld/main.go of Go 1.26.
var (
	switches = []string{"s", "w", "race", "checklinkname", "compressdwarf"}
	shaping  = []string{"X", "B", "buildmode", "extldflags", "installsuffix", "linkmode"}
)

// How the linker names its flags' values that do not shape the output, or not by their text alone.
const (
	outputFlag   = "o"
	configFlag   = "importcfg"
	idFlag       = "buildid"
	externalFlag = "extld"
	raceFlag     = "race"
)

// parse understands the command line of a link that may be kept, by package flag's rules.
func parse(command []string) (link, bool) {
	l := link{command: command}
	if filepath.Base(command[0]) != "link" {
		return l, false
	}
	at := 1
	for ; at < len(command) && strings.HasPrefix(command[at], "-"); at++ {
		name, value, given := strings.Cut(strings.TrimPrefix(command[at][1:], "-"), "=")
		if contains(switches, name) {
			l.shape = append(l.shape, command[at])
			l.race = l.race || name == raceFlag
			continue
		}
		if !given {
			at++
			if at == len(command) {
				return l, false
			}
			value = command[at]
		}
		if !l.set(name, value, at) {
			return l, false
		}
	}
	for _, each := range command {
		if strings.HasPrefix(each, "@") { // a file of arguments
			return l, false
		}
	}
	packages := command[min(at, len(command)):]
	return l, len(packages) == 1 && l.output != "" && l.external != "" && l.action() != ""
}

// set notes a flag, whose value is at that place of the command; false for one with which nothing is kept.
func (l *link) set(name, value string, at int) bool {
	switch {
	case name == outputFlag && l.output == "":
		l.output = value
	case name == idFlag && l.id == "": // a second one is the user's
		l.id = value
	case name == externalFlag && l.external == "":
		l.external, l.externalAt = value, at
		l.shape = append(l.shape, name, value)
	case name == configFlag: // a file of go's, of the packages that the action ID stands for
	case name == "linkmode" && value == "external":
		return false
	case name == "buildmode" && value != "exe" && value != "pie":
		return false
	case contains(shaping, name):
		l.shape = append(l.shape, name, value)
	default:
		return false
	}
	return true
}

func contains(list []string, name string) bool {
	for _, each := range list {
		if each == name {
			return true
		}
	}
	return false
}

// action returns go's hash of all that goes into the link, "" for a build ID that is not go's own.
//
// go gives ACTION/ACTION/CONTENT/ACTION, of the link, of package main twice, and in the content's place the first
// again; source: useCache in cmd/go/internal/work/buildid.go of Go 1.26.
func (l link) action() string {
	const shortest = 16
	parts := strings.Split(l.id, "/")
	if len(parts) != 4 || parts[0] != parts[3] || len(parts[0]) < shortest {
		return ""
	}
	for _, c := range parts[0] {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && !('0' <= c && c <= '9') && c != '-' && c != '_' {
			return ""
		}
	}
	return parts[0]
}

// What of the environment the linker looks at; the action ID has most of it, depending on go's version.
var variables = []string{"GOROOT", "GOOS", "GOARCH", "GOEXPERIMENT", "GO_EXTLINK_ENABLED"}

// The dynamic loaders that Linux programs name. The linker takes the C library's by what is there. Source:
// Linuxdynld and LinuxdynldMusl in cmd/link/internal/*/obj.go of Go 1.26.
var loaders = []string{
	"/lib64/ld-linux-x86-64.so.2", "/lib/ld-musl-x86_64.so.1",
	"/lib/ld-linux.so.2", "/lib/ld-musl-i386.so.1",
	"/lib/ld-linux-aarch64.so.1", "/lib/ld-musl-aarch64.so.1",
	"/lib/ld-linux.so.3", "/lib/ld-musl-arm.so.1", "/lib/ld-musl-armhf.so.1",
	"/lib64/ld-linux-loongarch-lp64d.so.1", "/lib/ld-musl-loongarch64.so.1",
	"/lib/ld.so.1", "/lib/ld-linux-riscv64-lp64d.so.1", "/lib/ld-musl-riscv64.so.1",
	"/lib64/ld64.so.1", "/lib64/ld64.so.2", "/lib/ld-musl-s390x.so.1",
}

// key names the link by all that shapes it: the action ID, which is readable, and a hash of the rest.
func (l link) key() (string, error) {
	const format = "1"
	h := fnv.New128a()
	add := func(text string) {
		_ = binary.Write(h, binary.LittleEndian, uint64(len(text)))
		_, _ = io.WriteString(h, text)
	}
	linker, err := head(l.command[0])
	if err != nil {
		return "", err
	}
	add(format)
	add(linker)
	add(l.id)
	for _, name := range variables {
		add(os.Getenv(name))
	}
	for _, path := range loaders {
		_, err := os.Stat(path)
		add(fmt.Sprint(err == nil))
	}
	for _, word := range l.shape {
		add(word)
	}
	if l.library != "" {
		text, err := os.ReadFile(l.library)
		if err != nil {
			return "", err
		}
		add(string(text))
	}
	return fmt.Sprintf("%s-%x", l.action(), h.Sum(nil)), nil
}

// head returns the start of a program, in which the build ID of its own link is. go's action ID has the version of
// the linker alone, which says nothing about one that was built from a changed source.
func head(program string) (string, error) {
	path, err := find(program)
	if err != nil {
		return "", err
	}
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	text := make([]byte, 8<<10)
	n, err := io.ReadFull(file, text)
	if err == io.ErrUnexpectedEOF {
		err = nil
	}
	return string(text[:n]), err
}

// findLibrary asks the C compiler for its own library, in which the linker looks for what the race detector, which
// is C++, needs. It asks by itself otherwise, as here, and reads a file that go knows nothing of: source: loadlib
// in cmd/link/internal/ld/lib.go of Go 1.26. False where it would ask in another way.
func (l *link) findLibrary() bool {
	if !l.race {
		return true
	}
	command, err := splitWords(l.external)
	if err != nil {
		return false
	}
	switch architecture := os.Getenv("GOARCH"); {
	case architecture == "amd64", architecture == "" && runtime.GOARCH == "amd64":
		command = append(command, "-m64")
	case architecture == "arm64", architecture == "" && runtime.GOARCH == "arm64":
	default:
		return false
	}
	answer, ok := start(append(command, "--print-libgcc-file-name"), os.Environ(), false)
	l.library = strings.TrimSpace(string(answer))
	return ok && filepath.IsAbs(l.library)
}

// splitWords splits text as the go command does.
func splitWords(text string) ([]string, error) {
	var words []string
	for strings.TrimLeft(text, " \t\n\r") != "" {
		word, rest, ok := cutWord(text)
		if !ok {
			return nil, fmt.Errorf("%q cannot be split", text)
		}
		words, text = append(words, word), rest
	}
	return words, nil
}

// withExternal returns the command with program in the place of the external linker, and that one's name. Further
// words of `-extld` stay.
func (l link) withExternal(program string) (command []string, external string, ok bool) {
	external, rest, ok := cutWord(l.external)
	if !ok {
		return nil, "", false
	}
	quoted, ok := quote(program)
	command = append(command, l.command...)
	prefix := strings.TrimSuffix(command[l.externalAt], l.external)
	command[l.externalAt] = prefix + quoted + rest
	if l.library != "" { // before all, among the flags
		command = append([]string{command[0], "-libgcc=" + l.library}, command[1:]...)
	}
	return command, external, ok
}

// cutWord cuts the first word off text, which is split as the go command splits: quotes count at a word's start
// alone, and there are no escapes.
func cutWord(text string) (word, rest string, ok bool) {
	text = strings.TrimLeft(text, " \t\n\r")
	if text == "" {
		return "", "", false
	}
	if quote := text[0]; quote == '\'' || quote == '"' {
		end := strings.IndexByte(text[1:], quote) + 1
		return text[1:max(end, 1)], text[end+1:], end > 1
	}
	end := strings.IndexAny(text, " \t\n\r")
	if end < 0 {
		end = len(text)
	}
	return text[:end], text[end:], true
}

// quote writes a word so that the go command reads it back; false where it has no way to.
func quote(word string) (string, bool) {
	if !strings.ContainsAny(word, " \t\n\r") && !strings.HasPrefix(word, "'") && !strings.HasPrefix(word, "\"") {
		return word, true
	}
	for _, mark := range []string{"'", "\""} {
		if !strings.Contains(word, mark) {
			return mark + word + mark, true
		}
	}
	return "", false
}
