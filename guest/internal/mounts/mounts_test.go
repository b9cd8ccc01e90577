package mounts

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vimto/guest/internal/wire"
)

func TestControllersAreEnabledForTheChildren(t *testing.T) {
	group := t.TempDir()
	if err := enableControllers(group); err != nil {
		t.Errorf("a kernel without cgroup2: %v", err)
	}
	if err := os.WriteFile(group+"/cgroup.controllers", []byte("cpu memory\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	err := enableControllers(group)
	if err == nil || strings.Count(err.Error(), "cgroup controller `") != 2 {
		t.Errorf("two controllers cannot be enabled where there is no such file: %v", err)
	}
	if err := os.WriteFile(group+"/cgroup.subtree_control", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := enableControllers(group); err != nil {
		t.Error(err)
	}
	if text, _ := os.ReadFile(group + "/cgroup.subtree_control"); string(text) != "+memory" { // the last one
		t.Errorf("%q", text)
	}
}

func TestLinksAreMadeWithTheirDirectories(t *testing.T) {
	root := t.TempDir()
	kept := root + "/kept"
	if err := os.WriteFile(kept, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	makeLinks([]wire.Link{
		{Path: root + "/a/b/link", Target: "there"}, {Path: root + "/plain", Target: "/here"}, {Path: kept, Target: "no"},
	})
	for path, want := range map[string]string{"/a/b/link": "there", "/plain": "/here"} {
		if got, err := os.Readlink(root + path); got != want {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	if text, err := os.ReadFile(kept); string(text) != "x" {
		t.Errorf("what was there is gone: %v", err)
	}
}

func TestDeviceLinksMayBeThereAlready(t *testing.T) {
	dev := t.TempDir()
	for i := 0; i < 2; i++ {
		if err := linkDevices(dev); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.Readlink(dev + "/stdin"); got != "fd/0" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestMountPoints(t *testing.T) {
	root := t.TempDir()
	file := filepath.Join(root, "file")
	if err := makeFile(filepath.Join(root, "d/e/file")); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for path, ok := range map[string]bool{"/new/one": true, "/d": true, "": true, "/file": false, "/file/below": false} {
		if err := makeMountPoint(root + path); (err == nil) != ok {
			t.Errorf("%s: %v", path, err)
		}
	}
	if isMountPoint(root) || !isMountPoint("/proc") {
		t.Error("what is a mount point?")
	}
}

func TestASharesPathIsAbsolute(t *testing.T) {
	err := mountShare(wire.Share{Path: "relative"}, 0)
	if err == nil || err.Error() != "share `relative`: the path is not absolute" {
		t.Error(err)
	}
}
