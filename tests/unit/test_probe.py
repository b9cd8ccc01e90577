"""Which accelerator is chosen, and why not KVM."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vimto import console
from vimto.errors import QemuError
from vimto.plan.prepare import _tell_accelerator
from vimto.qemu import find, probe

AMD = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel\t\t: 1\nflags\t\t: fpu svm lm\n\n"
PLAIN = "processor\t: 0\nflags\t\t: fpu lm\n"


@pytest.fixture
def cpuinfo(tmp_path: Path) -> Path:
    path = tmp_path / "cpuinfo"
    path.write_text(AMD)
    return path


def test_without_virtualisation_in_the_processor_kvm_is_not_even_opened(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(PLAIN)
    chosen = probe.choose_accelerator("auto", device="/dev/null", cpuinfo=str(path))
    assert chosen.name == "tcg"
    assert chosen.emulated
    assert "neither vmx nor svm" in chosen.reason


def test_a_missing_device_is_the_reason(cpuinfo: Path, tmp_path: Path) -> None:
    device = str(tmp_path / "kvm")
    chosen = probe.choose_accelerator("auto", device=device, cpuinfo=str(cpuinfo))
    assert chosen.name == "tcg"
    assert chosen.reason == f"there is no {device}"


def test_a_device_that_is_no_kvm_is_the_reason(cpuinfo: Path) -> None:
    chosen = probe.choose_accelerator("auto", device="/dev/null", cpuinfo=str(cpuinfo))
    assert chosen.name == "tcg"
    assert "cannot create a machine" in chosen.reason


def test_kvm_that_another_hypervisor_keeps_busy_is_not_used(
    cpuinfo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ioctl(_fd: int, request: int, _argument: int) -> int:
        if request == 0xAE00:
            return 12
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(probe.fcntl, "ioctl", ioctl)
    before = os.listdir("/proc/self/fd")
    chosen = probe.choose_accelerator("auto", device="/dev/null", cpuinfo=str(cpuinfo))
    assert chosen.emulated
    assert chosen.reason == "/dev/null cannot create a machine: Device or resource busy"
    with pytest.raises(QemuError, match=r"KVM cannot be used: .* busy$"):
        probe.choose_accelerator("kvm", device="/dev/null", cpuinfo=str(cpuinfo))
    assert os.listdir("/proc/self/fd") == before


def test_kvm_of_another_version_is_not_used(cpuinfo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe.fcntl, "ioctl", lambda *_: 13)
    chosen = probe.choose_accelerator("auto", device="/dev/null", cpuinfo=str(cpuinfo))
    assert chosen.reason == "/dev/null speaks another version of KVM's interface"


def test_kvm_is_chosen_when_a_machine_can_be_created(
    cpuinfo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def ioctl(_fd: int, request: int, _argument: int) -> int:
        asked.append(request)
        return 12 if request == 0xAE00 else os.open(os.devnull, os.O_RDONLY)

    monkeypatch.setattr(probe.fcntl, "ioctl", ioctl)
    chosen = probe.choose_accelerator("auto", device="/dev/null", cpuinfo=str(cpuinfo))
    assert chosen == probe.Accelerator(name="kvm")
    assert asked == [0xAE00, 0xAE01]


def test_kvm_on_demand_fails_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(PLAIN)
    with pytest.raises(QemuError, match="KVM cannot be used: the processor"):
        probe.choose_accelerator("kvm", device="/dev/null", cpuinfo=str(path))


def no_rights(error: int) -> Callable[..., int]:
    plain = os.open

    def refuse(path: str, *flags: int, **options: Any) -> int:
        if path == "/dev/null":
            raise OSError(error, os.strerror(error), path)
        return plain(path, *flags, **options)

    return refuse


@pytest.mark.parametrize(
    ("error", "ci", "remedy"),
    [
        (errno.EACCES, False, "sudo usermod -aG kvm $USER, then log in again"),
        (errno.EACCES, True, "vimto setup-ci -apply"),
        (errno.ENODEV, True, "vimto setup-ci -apply"),
        (errno.ENODEV, False, "sudo modprobe kvm_amd"),
        (errno.EIO, False, ""),
    ],
)
def test_what_can_be_mended_has_a_remedy(
    cpuinfo: Path, monkeypatch: pytest.MonkeyPatch, error: int, ci: bool, remedy: str
) -> None:
    monkeypatch.setattr(probe.os, "open", no_rights(error))
    monkeypatch.delenv("CI", raising=False)
    if ci:
        monkeypatch.setenv("CI", "true")
    chosen = probe.choose_accelerator("auto", device="/dev/null", cpuinfo=str(cpuinfo))
    assert (chosen.name, chosen.remedy) == ("tcg", remedy)
    assert "/dev/null" in chosen.reason
    with pytest.raises(QemuError) as caught:
        probe.choose_accelerator("kvm", device="/dev/null", cpuinfo=str(cpuinfo))
    assert caught.value.hint.startswith(remedy)


def test_what_cannot_be_mended_has_none(cpuinfo: Path, tmp_path: Path) -> None:
    device = str(tmp_path / "kvm")
    assert probe.choose_accelerator("auto", device=device, cpuinfo=str(cpuinfo)).remedy == ""
    cpuinfo.write_text(PLAIN)
    assert probe.choose_accelerator("auto", device=device, cpuinfo=str(cpuinfo)).remedy == ""


@pytest.mark.parametrize(
    ("remedy", "one_of_many", "verbose", "told"),
    [
        ("sudo x", False, 0, True),
        ("sudo x", True, 0, False),
        ("sudo x", True, 1, True),
        ("", False, 0, False),
        ("", False, 1, True),
    ],
)
def test_who_is_told_of_emulation(
    capfd: pytest.CaptureFixture[str], remedy: str, one_of_many: bool, verbose: int, told: bool
) -> None:
    console.set_verbosity(verbose)
    try:
        chosen = probe.Accelerator(name="tcg", reason="a reason", remedy=remedy)
        _tell_accelerator(chosen, one_of_many=one_of_many)
    finally:
        console.set_verbosity(0)
    text = ": ".join(filter(None, ["a reason", remedy]))
    line = f"vimto: emulating, which is ten times slower, for {text}\n"
    assert capfd.readouterr().err == (line if told else "")


@pytest.mark.parametrize(
    ("mebibytes", "reason"),
    [(900 << 10, "this host has 3.0 GiB, swap included"), (1 << 45, "3.0 GiB"), (3 << 10, "")],
)
def test_memory_that_the_host_can_never_give_is_refused(
    tmp_path: Path, mebibytes: int, reason: str
) -> None:
    meminfo = tmp_path / "meminfo"
    lines = ("MemTotal: 2097152 kB", "MemAvailable: 1024 kB", "SwapTotal: 1048576 kB", "X: 1")
    meminfo.write_text("".join(f"{line}\n" for line in lines))
    if not reason:
        probe.check_memory(mebibytes, meminfo=str(meminfo))
        return
    with pytest.raises(QemuError, match="cannot be had") as caught:
        probe.check_memory(mebibytes, meminfo=str(meminfo))
    assert reason in caught.value.message
    assert "`-memory` asks for less" in caught.value.hint


def test_memory_that_this_process_may_not_have_is_refused(tmp_path: Path) -> None:
    """A limit of ours (`ulimit -v`), or the kernel's strict accounting, where no total is told."""
    with pytest.raises(QemuError, match=r"refuses it \(Cannot allocate memory\)"):
        probe.check_memory(1 << 45, meminfo=str(tmp_path / "missing"))


def test_emulation_on_demand_asks_nothing() -> None:
    assert probe.choose_accelerator("tcg", device="/x", cpuinfo="/x").name == "tcg"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright", (7, 2, 22)),
        ("QEMU emulator version 10.0", (10, 0, 0)),
    ],
)
def test_parse_version(text: str, version: tuple[int, int, int]) -> None:
    assert probe.parse_version(text) == version


def test_parse_version_refuses_something_else() -> None:
    with pytest.raises(QemuError, match="does not tell"):
        probe.parse_version("hello")


def fake_qemu(tmp_path: Path, version: str, name: str = "qemu") -> str:
    path = tmp_path / name
    calls = tmp_path / "calls"
    path.write_text(f"#!/bin/sh\necho x >>{calls}\necho QEMU emulator version {version}\n")
    path.chmod(0o755)
    return str(path)


def test_the_version_is_asked_once(tmp_path: Path) -> None:
    path = fake_qemu(tmp_path, "8.1.0")
    first = probe.probe_qemu(path, tmp_path / "cache")
    assert first.version == (8, 1, 0)
    assert probe.probe_qemu(path, tmp_path / "cache") == first
    other = fake_qemu(tmp_path, "9.0.0", "other")
    for _ in range(2):  # neither takes the other's place
        assert probe.probe_qemu(other, tmp_path / "cache").version == (9, 0, 0)
        assert probe.probe_qemu(path, tmp_path / "cache") == first
    assert (tmp_path / "calls").read_text() == "x\nx\n"


def test_an_old_qemu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QemuError, match=r"QEMU 4\.2\.0 is too old"):
        probe.probe_qemu(fake_qemu(tmp_path, "4.2.0"), tmp_path / "cache")


def test_no_qemu_is_said_with_a_hint() -> None:
    with pytest.raises(QemuError) as caught:
        find.find_qemu("qemu-system-nothing")
    assert "apt-get install" in caught.value.hint


def test_the_processor_is_identified(cpuinfo: Path) -> None:
    assert probe.identify_host_cpu(str(cpuinfo)) == "vendor_id=AuthenticAMD model=1"


def test_another_model_or_microcode_is_another_processor(tmp_path: Path) -> None:
    """A snapshot made under KVM on one of them is not restored on another: it is in the key."""

    def identify(*changes: tuple[str, str]) -> str:
        lines = {
            "processor": "0",
            "vendor_id": "AuthenticAMD",
            "cpu family": "25",
            "model": "1",
            "model name": "AMD EPYC",
            "stepping": "1",
            "microcode": "0xa0011d5",
            "cpu MHz": "2445.404",
            "flags": "fpu svm",
            **dict(changes),
        }
        path = tmp_path / "cpuinfo"
        path.write_text("".join(f"{key}\t: {value}\n" for key, value in lines.items()) * 2)
        return probe.identify_host_cpu(str(path))

    own = identify()
    assert own == identify(("cpu MHz", "3667.000"), ("processor", "1"))
    changes = {"vendor_id": "x", "cpu family": "26", "model": "2", "stepping": "2"}
    changes["microcode"] = "0xa0011d7"
    others = {identify(change) for change in changes.items()}
    assert own not in others and len(others) == len(changes)
