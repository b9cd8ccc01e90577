package modules

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"vimto/guest/internal/sys"
)

// moduleTree writes an index of modules, and settings, below a new root.
func moduleTree(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	dir := root + "/lib/modules/" + sys.Release()
	for name, text := range map[string]string{
		dir + "/modules.dep": "kernel/fs/ext4/ext4.ko.xz: kernel/fs/mb-cache.ko /abs/crc16.ko\n" +
			"kernel/fs/mb-cache.ko: /abs/crc16.ko\n/abs/crc16.ko:\nkernel/snd.ko:\n",
		dir + "/modules.alias":           "# c\nalias \nalias fs-ext4 ext4\nalias pci:v*d[a-c]?sv-* mb_cache\nalias fs-ext4 crc16\n",
		dir + "/modules.symbols":         "alias symbol:crc16 crc16\n",
		dir + "/modules.softdep":         "softdep ext4 pre: snd post: none\n",
		dir + "/modules.builtin":         "kernel/net/unix/unix.ko\n",
		dir + "/modules.builtin.modinfo": "unix.license=GPL\x00unix.alias=net-pf-1\x00",
		root + "/etc/modprobe.d/a.conf":  "options snd a=1 \\\n b=2\nblacklist mb-cache\nalias my-* snd\n",
		root + "/lib/modprobe.d/a.conf":  "blacklist snd\n",
		root + "/proc/cmdline":           "quiet snd.c=\"x\" a=b.c modprobe.blacklist=crc16,pcspkr\n",
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestModuleIndex(t *testing.T) {
	x := findModules(moduleTree(t))
	want := []string{"/abs/crc16.ko", x.dir + "/kernel/fs/mb-cache.ko", x.dir + "/kernel/fs/ext4/ext4.ko.xz"}
	if got := x.files("ext4"); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if x.files("ext") != nil || !x.isBuiltin("unix") || x.isBuiltin("ext4") {
		t.Error("what is a module, and what is built in?")
	}
	for alias, want := range map[string]string{
		"fs_ext4": "ext4 crc16", "pci:v0001dbxsv_": "mb_cache", "symbol:crc16": "crc16", "fs_none": "",
	} {
		if names, builtin := x.resolve(alias); strings.Join(names, " ") != want || builtin {
			t.Errorf("%s: %v, %v", alias, names, builtin)
		}
	}
	if _, builtin := x.resolve("net_pf_1"); !builtin {
		t.Error("an alias of what is built in")
	}
}

func TestModuleSettings(t *testing.T) {
	root := moduleTree(t)
	s := readSettings([]string{root + "/etc/modprobe.d", root + "/lib/modprobe.d"}, root+"/proc/cmdline")
	if got := s.options("snd"); got != `a=1 b=2 c="x"` {
		t.Errorf("options: %s", got)
	}
	if got := s.aliased("my_card"); len(got) != 1 || got[0] != "snd" {
		t.Errorf("alias: %v", got)
	}
	for name, want := range map[string]bool{"mb_cache": true, "crc16": true, "snd": false} {
		if s.blacklisted[name] != want {
			t.Errorf("blacklist of %s: %v", name, !want)
		}
	}
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"", "", true}, {"a", "a", true}, {"a", "", false}, {"", "a", false}, {"a*", "a", true}, {"*", "", true},
		{"a*c*e", "abcde", true}, {"a*c*f", "abcde", false}, {"a?c", "abc", true}, {"a?", "a", false},
		{"[a-c]x", "bx", true}, {"[a-c]x", "dx", false}, {"[!a]", "b", true}, {"[!a]", "a", false}, {"[", "[", true},
		{"**a", "a", true},
	} {
		if got := matches(c.pattern, c.text); got != c.want {
			t.Errorf("%q %q: %v", c.pattern, c.text, got)
		}
	}
}

// run calls modprobe in the made tree; nothing is loaded, for the flags say so or there is nothing.
func runIn(t *testing.T, root string, words ...string) (int, string, string) {
	t.Helper()
	var out, errs strings.Builder
	status := Modprobe("", append([]string{"-d", root, "-C" + root + "/etc/modprobe.d"}, words...), &out, &errs)
	dir := root + "/lib/modules/" + sys.Release() + "/"
	return status, strings.ReplaceAll(out.String(), dir, ""), errs.String()
}

func TestModprobe(t *testing.T) {
	root := moduleTree(t)
	for _, c := range []struct{ words, out, errs string }{
		{"-D ext4 x=1", "insmod kernel/snd.ko a=1 b=2\ninsmod /abs/crc16.ko \ninsmod kernel/fs/mb-cache.ko \n" +
			"insmod kernel/fs/ext4/ext4.ko.xz x=1\n", ""},
		{"-nva -- mb-cache snd", "insmod /abs/crc16.ko \ninsmod kernel/fs/mb-cache.ko \ninsmod kernel/snd.ko a=1 b=2\n", ""},
		{"--dry-run --quiet ext4", "", ""},
		{"-nvb mb-cache", "", ""},
		{"-D unix", "builtin unix\n", ""},
		{"-q net-pf-1", "", ""},
		{"-r ext4", "", ""},
		{"-D none", "", "FATAL: Module none not found in directory"},
		{"-q none", "", "-"},
		{"-r unix", "", "FATAL: Module unix is builtin."},
		{"-r --first-time ext4", "", "FATAL: Module ext4 is not in kernel."},
		{"--nonsense", "", "unknown flag `--nonsense`"},
		{"-S", "", "needs a value"},
		{"", "", "usage: "},
	} {
		status, out, errs := runIn(t, root, strings.Fields(c.words)...)
		want := 0
		if c.errs != "" {
			want = 1
		}
		if status != want || out != c.out || c.errs != "-" && !strings.Contains(errs, c.errs) || c.errs == "-" && errs != "" {
			t.Errorf("%s: status %d\n%s%s", c.words, status, out, errs)
		}
	}
}

func TestModprobeOfNothing(t *testing.T) {
	if status, out, errs := runIn(t, moduleTree(t), "-q", "--", ""); status != 1 || out+errs != "" {
		t.Errorf("status %d\n%s%s", status, out, errs)
	}
}
