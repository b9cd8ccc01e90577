package modules

import (
	"bufio"
	"os"
	"strings"

	"vimto/guest/internal/sys"
)

// moduleIndex stands for depmod(8)'s files in the directory of the kernel's modules; they are read as needed.
type moduleIndex struct{ dir string }

// findModules returns the index of the running kernel's modules.
func findModules(root string) moduleIndex {
	for _, place := range []string{"/lib/modules/", "/usr/lib/modules/"} {
		dir := root + place + sys.Release()
		if _, err := sys.Mode(dir + "/modules.dep"); err == nil {
			return moduleIndex{dir}
		}
	}
	return moduleIndex{root + "/lib/modules/" + sys.Release()}
}

// lines calls do with each line of one of the files, until it returns false. A missing file has no lines.
func (x moduleIndex) lines(name string, do func(line string) bool) {
	file, err := os.Open(x.dir + "/" + name)
	if err != nil {
		return
	}
	defer file.Close()
	scanner := bufio.NewScanner(file)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() && do(scanner.Text()) {
	}
}

// files returns the paths of a module and of all that it needs, in the order in which to load them, or nil if
// there is no such module.
func (x moduleIndex) files(name string) []string {
	var found []string
	x.lines("modules.dep", func(line string) bool {
		path, needs, ok := strings.Cut(line, ":")
		if !ok || moduleName(path) != name {
			return true
		}
		found = strings.Fields(needs)
		for i, j := 0, len(found)-1; i < j; i, j = i+1, j-1 {
			found[i], found[j] = found[j], found[i]
		}
		found = append(found, path)
		for i, path := range found {
			if !strings.HasPrefix(path, "/") {
				found[i] = x.dir + "/" + path
			}
		}
		return false
	})
	return found
}

// isBuiltin says whether the module is built into the kernel.
func (x moduleIndex) isBuiltin(name string) bool {
	found := false
	x.lines("modules.builtin", func(line string) bool {
		found = moduleName(line) == name
		return !found
	})
	return found
}

// resolve returns the modules that an alias stands for, and whether one is built in.
func (x moduleIndex) resolve(alias string) (names []string, builtin bool) {
	file := "modules.alias"
	if strings.HasPrefix(alias, "symbol:") {
		file = "modules.symbols"
	}
	seen := map[string]bool{}
	x.lines(file, func(line string) bool {
		// Most lines are about devices; their first letter tells enough.
		rest, ok := strings.CutPrefix(line, "alias ")
		if !ok || rest == "" || rest[0] != alias[0] && !isWild(rest[0]) {
			return true
		}
		pattern, name, _ := strings.Cut(rest, " ")
		if matches(underscored(pattern), alias) && !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
		return true
	})
	if len(names) > 0 {
		return names, false
	}
	text, _ := os.ReadFile(x.dir + "/modules.builtin.modinfo")
	for _, entry := range strings.Split(string(text), "\x00") {
		if _, fact, ok := strings.Cut(entry, "."); ok {
			if pattern, ok := strings.CutPrefix(fact, "alias="); ok && matches(underscored(pattern), alias) {
				return nil, true
			}
		}
	}
	return nil, false
}

// soft returns a module's soft dependencies before and after it, from a line as in modprobe.d(5).
func soft(name, line string) (before, after []string) {
	fields := strings.Fields(line)
	if len(fields) < 2 || fields[0] != "softdep" || moduleName(fields[1]) != name {
		return nil, nil
	}
	into := &before
	for _, field := range fields[2:] {
		switch field {
		case "pre:":
			into = &before
		case "post:":
			into = &after
		default:
			*into = append(*into, field)
		}
	}
	return before, after
}

// moduleName returns a module's name as the kernel knows it, from a name or a file's path.
func moduleName(path string) string {
	name := path[strings.LastIndexByte(path, '/')+1:]
	if at := strings.LastIndex(name, ".ko"); at >= 0 && (len(name) == at+3 || name[at+3] == '.') {
		name = name[:at]
	}
	return strings.ReplaceAll(name, "-", "_")
}

// underscored returns an alias as depmod and modprobe compare them: `-` is `_`, but not between brackets.
func underscored(alias string) string {
	text, inside := []byte(alias), false
	for i, c := range text {
		switch {
		case c == '[':
			inside = true
		case c == ']':
			inside = false
		case c == '-' && !inside:
			text[i] = '_'
		}
	}
	return string(text)
}

func isWild(c byte) bool { return c == '*' || c == '?' || c == '[' }

// matches is fnmatch(3) without flags.
func matches(pattern, text string) bool {
	for pattern != "" {
		switch c := pattern[0]; {
		case c == '*':
			for pattern != "" && pattern[0] == '*' {
				pattern = pattern[1:]
			}
			for i := 0; i <= len(text); i++ {
				if matches(pattern, text[i:]) {
					return true
				}
			}
			return false
		case text == "":
			return false
		case c == '[' && strings.Contains(pattern, "]"):
			set, rest, _ := strings.Cut(pattern[1:], "]")
			if !inSet(set, text[0]) {
				return false
			}
			pattern, text = rest, text[1:]
		case c == '?' || c == text[0]:
			pattern, text = pattern[1:], text[1:]
		default:
			return false
		}
	}
	return text == ""
}

// inSet says whether a letter is in a set in brackets: letters, and ranges of them.
func inSet(set string, c byte) bool {
	negated := set != "" && (set[0] == '!' || set[0] == '^')
	if negated {
		set = set[1:]
	}
	found := false
	for i := 0; i < len(set); i++ {
		if i+2 < len(set) && set[i+1] == '-' {
			found = found || set[i] <= c && c <= set[i+2]
			i += 2
		} else {
			found = found || set[i] == c
		}
	}
	return found != negated
}
