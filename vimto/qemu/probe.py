"""What this machine can do: which QEMU there is, and whether KVM works under it."""

import fcntl
import os
from typing import TYPE_CHECKING, NamedTuple

from vimto import proc
from vimto.cache import entry
from vimto.cache.digest import local_directory
from vimto.errors import CacheError, CommandError, QemuError

if TYPE_CHECKING:  # who only looks for QEMU is in a hurry
    from pathlib import Path

# linux/kvm.h: _IO(0xAE, 0x00) and _IO(0xAE, 0x01).
_KVM_GET_API_VERSION = 0xAE00
_KVM_CREATE_VM = 0xAE01
_KVM_API_VERSION = 12


class Qemu(NamedTuple):
    """A QEMU binary: its absolute path, its version and what identifies exactly this build."""

    path: str
    version: tuple[int, int, int]
    identity: str


class Accelerator(NamedTuple):
    """How the guest's instructions run: `name` is `kvm` or `tcg`, `reason` says why not KVM."""

    name: str
    reason: str = ""

    @property
    def emulated(self) -> bool:
        """Whether QEMU translates every instruction, which is ten and more times slower."""
        return self.name == "tcg"


def probe_qemu(path: str, cache: "Path") -> Qemu:
    """Ask QEMU for its version, once per binary: the answer is kept in `cache`.

    Raises `QemuError` when the binary does not run or is older than 7.0.
    """
    stat = os.stat(path)
    identity = f"{path}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ino}"
    answer = os.path.join(local_directory(cache), "qemu-version")
    try:
        known, text = _read(answer).split("\n", 1)
    except (OSError, ValueError):
        known, text = "", ""
    if known != identity:
        try:
            text = proc.run([path, "--version"]).text
        except CommandError as exc:
            raise QemuError(f"`{path}` does not run", lines=exc.lines) from exc
        _remember(answer, f"{identity}\n{text}")
    version = parse_version(text)
    if version < (7, 0, 0):
        raise QemuError(
            f"QEMU {'.'.join(map(str, version))} is too old",
            hint="vimto needs QEMU 7.0 or newer; Debian 12 and Ubuntu 24.04 have it",
        )
    return Qemu(path=path, version=version, identity=identity)


def _read(answer: str) -> str:
    with open(answer, encoding="utf-8", errors="replace") as file:
        return file.read()


def _remember(answer: str, text: str) -> None:
    try:
        with entry.new_file(answer) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
    except (OSError, CacheError):
        pass  # a read-only cache costs the next run 30 ms, nothing else


def parse_version(text: str) -> tuple[int, int, int]:
    """Take `QEMU emulator version 7.2.22 (Debian …)`; raises `QemuError` for anything else."""
    words = text.split()
    if words[:3] == ["QEMU", "emulator", "version"] and len(words) > 3:
        numbers = words[3].split(".")
        if len(numbers) >= 2 and all(n.isdigit() for n in numbers[:3]):
            major, minor, micro = [*map(int, numbers[:3]), 0][:3]
            return major, minor, micro
    raise QemuError("QEMU does not tell its version", lines=tuple(text.splitlines()[:3]))


def choose_accelerator(
    wanted: str, *, device: str = "/dev/kvm", cpuinfo: str = "/proc/cpuinfo"
) -> Accelerator:
    """Choose KVM where it works and emulation elsewhere.

    `wanted` is `auto`, `kvm` or `tcg`. A host's `/dev/kvm` may open and even create a machine
    although the processor has no virtualisation to offer; an ordinary kernel then hangs at its
    first steps. Therefore the processor's flags count as well. Raises `QemuError` when `kvm` is
    demanded and cannot be used.
    """
    if wanted == "tcg":
        return Accelerator(name="tcg", reason="`accel = tcg` is configured")
    reason = _why_no_kvm(device, cpuinfo)
    if not reason:
        return Accelerator(name="kvm")
    if wanted == "kvm":
        raise QemuError(f"KVM cannot be used: {reason}", hint="`-accel auto` emulates instead")
    return Accelerator(name="tcg", reason=reason)


def _why_no_kvm(device: str, cpuinfo: str) -> str:
    if os.uname().machine == "x86_64" and not _have_virtualisation(cpuinfo):
        return "the processor offers no virtualisation (neither vmx nor svm in /proc/cpuinfo)"
    try:
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return f"there is no {device}"
    except PermissionError:
        return f"{device} cannot be opened; is this user in the group `kvm`?"
    except OSError as exc:
        return f"{device} cannot be opened: {exc.strerror}"
    try:
        if fcntl.ioctl(fd, _KVM_GET_API_VERSION, 0) != _KVM_API_VERSION:
            return f"{device} speaks another version of KVM's interface"
        os.close(fcntl.ioctl(fd, _KVM_CREATE_VM, 0))
    except OSError as exc:
        return f"{device} cannot create a machine: {exc.strerror}"
    finally:
        os.close(fd)
    return ""


def _have_virtualisation(cpuinfo: str) -> bool:
    try:
        with open(cpuinfo, encoding="ascii", errors="replace") as lines:
            flags = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return False
    return bool({"vmx", "svm"} & set(flags.split()))


def identify_host_cpu(cpuinfo: str = "/proc/cpuinfo", *, emulated: bool = False) -> str:
    """Return what of the host's processor a save depends on.

    Under KVM that is its model, stepping and microcode. An emulated processor has the host's time
    stamp counter, whose rate the saved kernel has measured; it goes with the name of the model.
    """
    wanted = ["vendor_id", "cpu family", "model", "stepping", "microcode"]
    if emulated:
        wanted = ["model name"]
    found: dict[str, str] = {}
    try:
        with open(cpuinfo, encoding="ascii", errors="replace") as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() in wanted:
                    found.setdefault(key.strip(), value.strip())
                elif not key.strip() and found:
                    break
    except OSError:
        pass
    return " ".join(f"{key}={found[key]}" for key in wanted if key in found)
