package mounts

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// tree makes directories ("lib/") and links ("lib>usr/lib") below a new directory.
func tree(t *testing.T, names ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, name := range names {
		link, target, isLink := strings.Cut(name, ">")
		path := filepath.Join(root, link)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil && isLink {
			err = os.Symlink(target, path)
		} else if err == nil {
			err = os.MkdirAll(path, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestPlanOverlaysKeepsTheHostsLinks(t *testing.T) {
	image := tree(t, "boot/", "lib/modules/6.1/", "usr/lib/x/", "sbin/")
	host := tree(t, "lib>usr/lib", "sbin>/usr/sbin", "usr/lib/", "usr/sbin/", "boot/")
	upper := t.TempDir()
	got, err := planOverlays([]string{image}, host, upper)
	want := []overlay{
		{"/usr/lib", []string{image + "/lib", image + "/usr/lib", host + "/usr/lib"}},
		{"/usr/sbin", []string{image + "/sbin", host + "/usr/sbin"}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	for name, target := range map[string]string{"lib": "usr/lib", "sbin": "/usr/sbin"} {
		if link, err := os.Readlink(upper + "/" + name); err != nil || link != target {
			t.Errorf("%s leads to %q, %v", name, link, err)
		}
	}
}

func TestPlanOverlaysKeepsTheHostsDirectory(t *testing.T) {
	image := tree(t, "lib>usr/lib", "usr/lib/modules/")
	host := tree(t, "lib/", "usr/lib/")
	upper := t.TempDir()
	got, err := planOverlays([]string{image}, host, upper)
	want := []overlay{{"/lib", []string{image + "/usr/lib", host + "/lib"}}}
	if err != nil || !reflect.DeepEqual(got, want) || !isRealDir(upper+"/lib") {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
}

func TestPlanOverlaysLeavesTheOrdinaryAlone(t *testing.T) {
	image := tree(t, "lib>usr/lib", "usr/lib/", "boot/", "new/", "tmp/")
	host := tree(t, "lib>usr/lib", "usr/lib/", "boot/", "tmp>var/tmp")
	upper := t.TempDir()
	got, err := planOverlays([]string{image}, host, upper)
	if err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := os.Lstat(upper + "/tmp"); err == nil {
		t.Error("/tmp is the guest's own")
	}
}
