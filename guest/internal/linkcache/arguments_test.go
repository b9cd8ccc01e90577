package linkcache

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const goID = "rR-QrvlanYX8ZcYqk6HR/agAAAAAAAAAAAAAAAAAA/bbAAAAAAAAAAAAAAAAAA/rR-QrvlanYX8ZcYqk6HR"

// what go gives its linker for a test, with changes.
func line(old, new string) []string {
	text := "/go/link -o W/b001/a.test -importcfg W/b001/importcfg.link -s -w -X=runtime.godebugDefault=x=1 " +
		"-buildmode=exe -buildid=" + goID + " -X testing.testBinary=1 -extld=gcc W/b001/_pkg_.a"
	return strings.Fields(strings.Replace(text, old, new, 1))
}

func TestWhatIsKept(t *testing.T) {
	l, ok := parse(line("", ""))
	if !ok || l.output != "W/b001/a.test" || l.id != goID || l.action() != "rR-QrvlanYX8ZcYqk6HR" || l.external != "gcc" {
		t.Errorf("%+v, %v", l, ok)
	}
	want := "-s -w X runtime.godebugDefault=x=1 buildmode exe X testing.testBinary=1 extld gcc"
	if got := strings.Join(l.shape, " "); got != want {
		t.Error(got)
	}
	for old, new := range map[string]string{
		"-buildmode=exe": "-buildmode pie", "-s -w": "-race --w=0", "-extld=gcc": "--extld clang",
		"-X testing.testBinary=1": "-linkmode=internal -extldflags=-static",
	} {
		if _, ok := parse(line(old, new)); !ok {
			t.Errorf("not kept with %s", new)
		}
	}
}

func TestWhatIsNotKept(t *testing.T) {
	for new, old := range map[string]string{
		"/go/compile":                    "/go/link",
		"-V=full":                        "-s",
		"-linkmode=external":             "-s",
		"--linkmode external":            "-s",
		"-buildmode=c-shared":            "-buildmode=exe",
		"-buildmode=plugin":              "-buildmode=exe",
		"-linkshared":                    "-s",
		"-msan":                          "-s",
		"-tmpdir=/tmp":                   "-s",
		"-cpuprofile=x":                  "-s",
		"-v":                             "-s",
		"-fipso W/fips.o":                "-s",
		"-I /lib/ld.so":                  "-s",
		"-unknown":                       "-s",
		"@file":                          "-s",
		"-s @file":                       "W/b001/_pkg_.a",
		"":                               "-extld=gcc",
		" ":                              "W/b001/_pkg_.a",
		"a.a b.a":                        "W/b001/_pkg_.a",
		"-buildid=x -buildid=" + goID:    "-buildid=" + goID,
		"-buildid=" + goID + " -buildid": "-buildid=" + goID,
		"-buildid=mine":                  "-buildid=" + goID,
		"-buildid=":                      "-buildid=" + goID,
		"-buildid=a/b/c/a":               "-buildid=" + goID,
		"../rQrvlanYX8ZcYqk6HR/a/b/../rQrvlanYX8ZcYqk6HR": goID,
		"-o": "-importcfg",
	} {
		if l, ok := parse(line(old, new)); ok {
			t.Errorf("kept with %q: %+v", new, l)
		}
	}
	if _, ok := parse([]string{"link", "-o"}); ok {
		t.Error("a flag without its value")
	}
}

func TestTheExternalLinkerIsReplaced(t *testing.T) {
	for external, want := range map[string][2]string{
		"gcc":               {"P", "gcc"},
		"ccache gcc":        {"P gcc", "ccache"},
		"'/a b/gcc' '-x y'": {"P '-x y'", "/a b/gcc"},
		`"it's" -x`:         {"P -x", "it's"},
	} {
		for _, flag := range []string{"-extld=", "-extld "} {
			l := link{command: []string{"link", "", external}, external: external, externalAt: 2}
			if flag == "-extld=" {
				l = link{command: []string{"link", "-extld=" + external}, external: external, externalAt: 1}
			}
			command, name, ok := l.withExternal("P")
			got := strings.TrimPrefix(command[l.externalAt], "-extld=")
			if !ok || got != want[0] || name != want[1] {
				t.Errorf("%s: %q %q %v", external, got, name, ok)
			}
		}
	}
	for _, external := range []string{"", "  ", "'gcc", "''"} {
		if _, _, ok := (link{command: []string{external}, external: external}).withExternal("P"); ok {
			t.Errorf("%q", external)
		}
	}
	if got, ok := quote("/a b/P"); !ok || got != "'/a b/P'" {
		t.Error(got)
	}
	if _, ok := quote(`a 'b' "c"`); ok {
		t.Error("this cannot be written")
	}
}

func TestKeys(t *testing.T) {
	linker := filepath.Join(t.TempDir(), "link")
	if err := os.WriteFile(linker, []byte("one"), 0o755); err != nil {
		t.Fatal(err)
	}
	key := func(old, new string) string {
		l, ok := parse(line(old, new))
		if !ok {
			t.Fatalf("%q is not understood", new)
		}
		l.command[0] = linker
		key, err := l.key()
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	base := key("", "")
	if !strings.HasPrefix(base, "rR-QrvlanYX8ZcYqk6HR-") {
		t.Error(base)
	}
	for old, new := range map[string]string{"W/b001/a.test": "V/b.test", "W/b001/importcfg.link": "x", "W/b001/_pkg_.a": "y"} {
		if key(old, new) != base {
			t.Errorf("where things lie is part of the key: %s", new)
		}
	}
	seen := map[string]string{base: ""}
	for old, new := range map[string]string{
		"-s -w": "-w", "-w": "-race", "=x=1": "=x=2", "exe": "pie", "gcc": "clang",
		goID: strings.Replace(goID, "/ag", "/ah", 1), "-X testing": "-linkmode=internal -X testing",
	} {
		each := key(old, new)
		if other, there := seen[each]; there {
			t.Errorf("%q and %q have one key", new, other)
		}
		seen[each] = new
	}
	for _, name := range variables {
		t.Setenv(name, "other")
		if each := key("", ""); seen[each] != "" || each == base {
			t.Errorf("%s makes no difference", name)
		}
		t.Setenv(name, "")
	}
	if err := os.WriteFile(linker, []byte("two"), 0o755); err != nil {
		t.Fatal(err)
	}
	if key("", "") == base {
		t.Error("another linker has the same key")
	}
}

func TestWordsAreNotRunTogether(t *testing.T) {
	linker := filepath.Join(t.TempDir(), "link")
	if err := os.WriteFile(linker, []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, shape := range [][]string{{"ab", "c"}, {"a", "bc"}, {"abc"}} {
		key, err := (link{command: []string{linker}, id: goID, shape: shape}).key()
		if err != nil || seen[key] {
			t.Error(shape, err)
		}
		seen[key] = true
	}
}

func TestTheCompilersLibrary(t *testing.T) {
	dir := t.TempDir()
	library, compiler := filepath.Join(dir, "libgcc.a"), filepath.Join(dir, "cc")
	script := "#!/bin/sh\necho said >&2\n[ \"$*\" = \"-x y$MACHINE --print-libgcc-file-name\" ] && echo " + library + "\n"
	for path, text := range map[string]string{library: "one", compiler: script, filepath.Join(dir, "link"): "x"} {
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	keys := map[string]bool{}
	key := func(architecture, machine string) bool {
		t.Setenv("GOARCH", architecture)
		t.Setenv("MACHINE", machine)
		l := link{command: []string{filepath.Join(dir, "link"), "a"}, id: goID, external: compiler + " '-x' y", race: true}
		if !l.findLibrary() {
			return false
		}
		key, err := l.key()
		if err != nil {
			t.Fatal(err)
		}
		keys[key] = true
		l.externalAt = 1
		if command, _, _ := l.withExternal("P"); command[1] != "-libgcc="+library {
			t.Error(command)
		}
		return true
	}
	if !key("amd64", " -m64") || !key("arm64", "") || key("amd64", " -m32") || key("s390x", " -m64") {
		t.Error("which compilers are asked, and how")
	}
	if err := os.WriteFile(library, []byte("two"), 0o644); err != nil {
		t.Fatal(err)
	}
	if !key("arm64", "") || len(keys) != 3 {
		t.Error("what is in the library makes no difference")
	}
}
