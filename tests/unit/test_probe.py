"""Which accelerator is chosen, and why not KVM."""

import os
from pathlib import Path

import pytest

from vimto.errors import QemuError
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


def fake_qemu(tmp_path: Path, version: str) -> str:
    path = tmp_path / "qemu"
    calls = tmp_path / "calls"
    path.write_text(f"#!/bin/sh\necho x >>{calls}\necho QEMU emulator version {version}\n")
    path.chmod(0o755)
    return str(path)


def test_the_version_is_asked_once(tmp_path: Path) -> None:
    path = fake_qemu(tmp_path, "8.1.0")
    first = probe.probe_qemu(path, tmp_path / "cache")
    assert first.version == (8, 1, 0)
    assert probe.probe_qemu(path, tmp_path / "cache") == first
    assert (tmp_path / "calls").read_text() == "x\n"


def test_an_old_qemu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QemuError, match=r"QEMU 4\.2\.0 is too old"):
        probe.probe_qemu(fake_qemu(tmp_path, "4.2.0"), tmp_path / "cache")


def test_no_qemu_is_said_with_a_hint() -> None:
    with pytest.raises(QemuError) as caught:
        find.find_qemu("qemu-system-nothing")
    assert "apt-get install" in caught.value.hint


def test_the_processor_is_identified(cpuinfo: Path) -> None:
    assert probe.identify_host_cpu(str(cpuinfo)) == "vendor_id=AuthenticAMD model=1"
