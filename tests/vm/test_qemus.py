"""Several QEMUs: each boots, saves and restores; one that cannot is quoted, and boots."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vm.conftest import Vimto
from vimto.errors import QemuError
from vimto.vm.trial import try_snapshot

_TOOL = Path(__file__).parents[2] / "hack/qemus"
RESTORED = "the machine is restored from a snapshot"


def program(release: str) -> str:
    """Return the QEMU of a Debian release, fetched if it is not there."""
    if platform.freedesktop_os_release().get("ID") != "debian":
        pytest.skip("Debian's QEMUs are tried on Debian")
    done = subprocess.run([sys.executable, _TOOL, release], stdout=subprocess.PIPE, check=True)
    name, _, path = done.stdout.decode().strip().partition(" ")
    assert name == release
    return path


@pytest.mark.parametrize("release", ["bookworm", "trixie", "sid"])  # 7.2, 10, 11
def test_each_qemu_boots_saves_and_restores(vimto: Vimto, cache: Path, release: str) -> None:
    disks = ("-disk", "8M", "-disk", "image")
    vimto.flags = (*vimto.flags, "-qemu", program(release), "-v", "-v", *disks)
    image, sizes = vimto.directory / "image", "$(cat /sys/block/vd?/size)"
    image.write_bytes(bytes(1 << 20))
    made = vimto("exec", "sh", "-c", f"echo made {sizes} >>count").check().errors
    assert made.count(" -append ") == 1, "one boot"
    image.write_bytes(bytes(2 << 20))
    again = vimto("exec", "sh", "-c", f"echo again {sizes} >>count").check().errors
    assert " -append " not in again, "no boot"
    for log in (made, again):
        assert RESTORED in log
        assert "qemu-system-x86_64: " not in log, "QEMU complains of nothing, such as old options"
        assert "deprecated" not in log
    assert (vimto.directory / "count").read_text() == "made 16384 2048\nagain 16384 4096\n"


def test_a_qemu_that_cannot_restore_says_why_and_runs(
    vimto: Vimto, cache: Path, tmp_path: Path
) -> None:
    qemu = tmp_path / "qemu"
    # What it saves has a device that is not there when it is to be restored.
    qemu.write_text(
        '#!/bin/sh\ncase " $* " in *" -incoming "*) exec qemu-system-x86_64 "$@" ;; esac\n'
        'exec qemu-system-x86_64 "$@" -device qemu-xhci\n'
    )
    qemu.chmod(0o755)
    vimto.flags = (*vimto.flags, "-qemu", str(qemu))
    outcome = vimto("exec", "echo", "booted").check()
    assert outcome.stdout == b"booted\n"
    assert "the machine was not restored, booting: " in outcome.errors
    assert "load of migration failed" in outcome.errors
    assert outcome.errors.count("\n") == 1
    with pytest.raises(QemuError) as caught:  # what `vimto doctor` asks
        try_snapshot(str(qemu), "tcg")
    assert "load of migration failed" in caught.value.lines[-1]


def test_a_qemu_that_cannot_save_says_why_and_runs(
    vimto: Vimto, cache: Path, tmp_path: Path
) -> None:
    qemu = tmp_path / "qemu"
    qemu.write_text('#!/bin/sh\nexec qemu-system-x86_64 "$@" -device amd-iommu\n')
    qemu.chmod(0o755)
    vimto.flags = (*vimto.flags, "-qemu", str(qemu))
    outcome = vimto("exec", "echo", "booted").check()
    assert outcome.stdout == b"booted\n"
    assert "non-migratable device" in outcome.errors
    assert outcome.errors.count("\n") == 1
    report = vimto("doctor").check()
    weak = [line for line in report.text.splitlines() if "non-migratable device" in line]
    assert [line.split()[:2] for line in weak] == [["weak", "snapshots"], ["weak", "restore"]]
    assert report.errors.count("\n") == 1, "nothing but that it is tried"
