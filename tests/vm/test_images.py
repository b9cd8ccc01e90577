"""Kernels from OCI images: pulled from a registry, laid over the host's root, booted."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need
from tests.oci.servers import docker_registry
from tests.unit.oci_parts import make_tar, member
from tests.vm.conftest import AS_ROOT, NEWEST, OLDEST, Module, Vimto

ROOT = Path(__file__).parents[2]

TEST = """
package m

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

func TestKernel(t *testing.T) {
	var name syscall.Utsname
	if err := syscall.Uname(&name); err != nil {
		t.Fatal(err)
	}
	release := ""
	for _, c := range name.Release {
		if c == 0 {
			break
		}
		release += string(rune(c))
	}
	t.Log("running", release)
	if _, err := os.Stat("/usr/lib/modules/" + release + "/modules.dep"); err != nil {
		t.Error(err)
	}
	if out, err := exec.Command("modprobe", "dummy").CombinedOutput(); err != nil {
		t.Errorf("modprobe: %v: %s", err, out)
	}
	modules, _ := os.ReadFile("/proc/modules")
	if !strings.Contains(string(modules), "dummy ") {
		t.Error("the module is not loaded")
	}
	if link, err := os.Readlink("/lib"); err != nil || !strings.HasSuffix(link, "usr/lib") {
		t.Errorf("/lib is %q, %v", link, err)
	}
}
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    need("docker-registry")
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


def push(registry: str, kernel: str, tag: str, directory: Path) -> str:
    name = f"{registry}/kernels:{tag}"
    words = ["-o", directory / "layout", "--compress", "none", "--push", name, kernel]
    made = [sys.executable, ROOT / "hack/kernel-image", *words]
    subprocess.run(made, check=True, capture_output=True)
    return name


@pytest.mark.timeout(600)
def test_go_test_under_two_kernels(
    registry: str, vimto: Vimto, module: Module, tmp_path: Path
) -> None:
    need("modprobe")
    module.write("m_test.go", TEST)
    name = push(registry, OLDEST, "oldest", tmp_path)
    push(registry, NEWEST, "newest", tmp_path)
    module.write(".vimto.toml", f'kernel = "{name}"\nuser = "root"\n')
    environ = {"VIMTO_CACHE_DIR": str(tmp_path / "cache")}
    vimto.flags = ()
    for flags, version in (((), "running 5."), (("-kernel", ":newest"), "running 7.")):
        vimto.flags = flags
        done = vimto.go("-v", "./...", env=environ, limit=400).check()
        assert version in done.text
        assert "pulling" in done.errors
        again = vimto.go("-v", "./...", env=environ, limit=400).check()
        assert "pulling" not in again.errors
    lock = module.root / ".vimto.lock"
    assert not lock.exists()
    # What is locked boots, whatever its tag means by then.
    vimto.flags = ()
    vimto("kernel", "lock", env=environ).check()
    locked = lock.read_bytes()
    push(registry, NEWEST, "oldest", tmp_path)
    for flags, version, said in (
        (("-pull-fresh", "0s"), "5.", ""),
        (("-pull", "always"), "7.", "vimto: `-pull always` goes past"),
        (("-kernel", ":oldest"), "7.", "vimto: -kernel goes past"),
    ):
        vimto.flags = flags
        done = vimto("exec", "uname", "-r", env=environ, limit=400).check()
        assert done.text.startswith(version)
        assert said in done.errors and (said or not done.errors)
    assert lock.read_bytes() == locked


@pytest.mark.timeout(600)
def test_directories_that_are_links_on_the_host(vimto: Vimto, tmp_path: Path) -> None:
    need("umoci")
    layout = tmp_path / "layout"
    words = ["-o", f"{layout}:1", "--compress", "none", OLDEST]
    made = [sys.executable, ROOT / "hack/kernel-image", *words]
    subprocess.run(made, check=True, capture_output=True)
    layer = tmp_path / "layer.tar"
    # Directories now, and not links: they would hide all of the host's programs and libraries.
    files = [member(f"{name}/extra", b"x") for name in ("bin", "sbin", "lib", "lib64")]
    directories = [member(f"{name}/") for name in ("bin", "sbin", "lib", "lib64")]
    layer.write_bytes(make_tar(*directories, *files, member("etc/extra", b"etc")))
    raw = ["umoci", "raw", "add-layer", "--image", f"{layout}:1", str(layer)]
    subprocess.run(raw, check=True, capture_output=True)
    vimto.flags = (*AS_ROOT, "-kernel", f"oci:{layout}:1")
    done = vimto.script(
        "uname -r; cat /etc/extra /bin/extra /usr/lib64/extra; readlink -f /lib",
        env={"VIMTO_CACHE_DIR": str(tmp_path / "cache")},
    ).check()
    lines = done.text.splitlines()
    assert lines[0].startswith("5.")
    assert lines[1:] == ["etcxx/usr/lib"]
