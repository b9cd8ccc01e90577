package modules

import (
	"os"
	"path/filepath"
	"sort"
	"strings"

	"vimto/guest/internal/sys"
)

// moduleSettings are what modprobe.d(5) and the kernel's command line say about modules, except for install
// and remove commands, which are not run.
type moduleSettings struct {
	aliases     [][2]string // pattern and module
	given       map[string][]string
	blacklisted map[string]bool
	softdeps    []string
}

// settingPlaces are searched for *.conf files. Of two with the same name, the one in the earlier place counts.
var settingPlaces = []string{
	"/etc/modprobe.d", "/run/modprobe.d", "/usr/local/lib/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d",
}

// readSettings reads the files *.conf in the places, and the kernel's command line.
func readSettings(places []string, commandLine string) moduleSettings {
	s := moduleSettings{given: map[string][]string{}, blacklisted: map[string]bool{}}
	files := map[string]string{}
	for _, place := range places {
		paths, _ := filepath.Glob(place + "/*.conf")
		for _, path := range paths {
			if name := filepath.Base(path); files[name] == "" {
				files[name] = path
			}
		}
	}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		text, _ := os.ReadFile(files[name])
		s.read(string(text))
	}
	line, _ := sys.ReadFile(commandLine)
	s.readCommandLine(line)
	return s
}

func (s *moduleSettings) read(text string) {
	text = strings.ReplaceAll(text, "\\\n", " ")
	for _, line := range strings.Split(text, "\n") {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		name := moduleName(fields[1])
		switch fields[0] {
		case "alias":
			if len(fields) > 2 {
				s.aliases = append(s.aliases, [2]string{underscored(fields[1]), moduleName(fields[2])})
			}
		case "options":
			s.given[name] = append(s.given[name], fields[2:]...)
		case "blacklist":
			s.blacklisted[name] = true
		case "softdep":
			s.softdeps = append(s.softdeps, line)
		}
	}
}

// readCommandLine takes `MODULE.PARAMETER=VALUE` and `modprobe.blacklist=MODULE,…`.
func (s *moduleSettings) readCommandLine(line string) {
	for _, word := range strings.Fields(line) {
		name, parameter, ok := strings.Cut(word, ".")
		switch {
		case !ok || strings.Contains(name, "="):
		case name == "modprobe":
			for _, name := range strings.Split(strings.TrimPrefix(parameter, "blacklist="), ",") {
				s.blacklisted[moduleName(name)] = true
			}
		default:
			s.given[moduleName(name)] = append(s.given[moduleName(name)], parameter)
		}
	}
}

func (s *moduleSettings) options(name string) string { return strings.Join(s.given[name], " ") }

func (s *moduleSettings) aliased(alias string) []string {
	var names []string
	for _, pair := range s.aliases {
		if matches(pair[0], alias) {
			names = append(names, pair[1])
		}
	}
	return names
}
