"""Kernels of every kind boot and restore: packages old and new, trees, files, built-in drivers."""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import builtin_kernel
from tests.vm.conftest import AS_ROOT, NEWEST, OLDEST, Vimto, unpacked
from vimto.qemu import virtiofsd

NEWER = "apt:linux-image-6.12-amd64/bookworm-security"
CLOUD = "apt:linux-image-cloud-amd64/bookworm-security"

# Enough to know that the root, the kernel's own files and a share are there.
LOOK = """
uname -r; cat seen; echo "$(uname -r)" > written; test -d /lib/modules/$(uname -r) && echo files
"""


def look(vimto: Vimto, kernel: str, *flags: str) -> str:
    """Run a command under `kernel` and return its release."""
    (vimto.directory / "seen").write_text("the host's\n")
    outcome = vimto("-kernel", kernel, *flags, "exec", "sh", "-c", LOOK).check()
    release, *rest = outcome.text.splitlines()
    assert rest == ["the host's", "files"]
    assert (vimto.directory / "written").read_text() == release + "\n"
    return release


@pytest.mark.parametrize(
    ("kernel", "release"), [(OLDEST, "5.10."), (NEWER, "6.12."), (NEWEST, "7.")]
)
def test_debians_kernels(vimto: Vimto, kernel: str, release: str) -> None:
    assert look(vimto, kernel).startswith(release)  # makes the snapshot, and restores
    # The flag counts for every test binary, so also the one that go runs.
    assert look(vimto, kernel, "-smp", "1", "-memory", "512M", "-no-snapshot").startswith(release)


def test_the_cloud_flavour_over_virtiofs(vimto: Vimto) -> None:
    if not any(map(shutil.which, virtiofsd.PLACES)):
        pytest.skip("this kernel has no 9p, and virtiofsd is not installed")
    vimto.directory = vimto.directory / "a, b,readonly=on"
    vimto.directory.mkdir()
    assert look(vimto, CLOUD).endswith("-cloud-amd64")
    script = """
    mount | grep -q ' on / type overlay' || exit 1
    mkdir /tmp/host && mount -t virtiofs root /tmp/host && ! touch /tmp/host/proof || exit 2
    seq 100000 > numbers; exit 7
    """
    outcome = vimto("-kernel", CLOUD, "exec", "sh", "-c", script).check(7)
    assert "Read-only file system" in outcome.errors
    assert (vimto.directory / "numbers").read_bytes().endswith(b"\n100000\n")


def test_a_kernel_with_everything_built_in(vimto: Vimto) -> None:
    kernel = builtin_kernel()
    flags = ("-kernel", str(kernel / "boot/vmlinuz"))
    script = "uname -r; pwd > written; mount | grep -c ' / type overlay'"
    outcome = vimto(*flags, "exec", "sh", "-c", script)
    assert re.match(r"6\.1\..*-builtin\n1\n", outcome.check().text)
    assert (vimto.directory / "written").read_text() == f"{vimto.directory}\n"


def test_files_and_directories(vimto: Vimto, tmp_path: Path) -> None:
    package = unpacked(NEWEST)
    tree = tmp_path / "an, image"
    shutil.copytree(package, tree, symlinks=True)
    assert look(vimto, str(tree)).startswith("7.")
    # A file in a tree finds its modules there; a relative path is one from here.
    image = next(tree.rglob("vmlinuz*"))
    assert look(vimto, os.path.relpath(image, vimto.directory)).startswith("7.")
    # little-vm-helper's images hold it deeper.
    shelf = tmp_path / "shelf/data/kernels/bpf-next"
    shutil.copytree(package, shelf, symlinks=True)
    assert look(vimto, str(tmp_path / "shelf")).startswith("7.")
    (vimto.directory / ".vimto.toml").write_text('kernel = "../an, image"\n')
    below = vimto.directory / "below"
    (vimto.directory / ".git").mkdir()
    below.mkdir()
    vimto.flags, vimto.directory = (), below
    assert vimto("exec", "uname", "-r").check().text.startswith("7.")


def test_the_hosts_kernel_or_the_reason(vimto: Vimto) -> None:
    vimto.flags = ()
    outcome = vimto("-kernel", "host", "exec", "uname", "-r")
    if Path(f"/boot/vmlinuz-{platform.release()}").exists():
        assert outcome.check().text == platform.release() + "\n"
    elif outcome.status:
        assert outcome.status == 125
        assert "no kernel installed" in outcome.errors and "hint: " in outcome.errors
    default = vimto("exec", "uname", "-r").check()
    assert "vimto: Linux " in default.errors


def test_the_standard_library_under_the_newest_kernel(vimto: Vimto) -> None:
    # The rest of what docs/stdlib.md lists takes too long for every run.
    goroot = subprocess.run(["go", "env", "GOROOT"], capture_output=True, text=True, check=True)
    assert Path(goroot.stdout.strip(), "src/os").is_dir()
    vimto.flags = (*AS_ROOT, "-kernel", NEWEST)
    outcome = vimto.go(
        "-short",
        "-run",
        "Pipe|Splice|Copy|TTY|Temp|Chmod|Exec|Credential|Flock|Rlimit|Getwd",
        "os",
        "os/exec",
        "syscall",
    ).check()
    assert outcome.text.count("ok  \t") == 3
