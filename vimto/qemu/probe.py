"""What this machine can do: which QEMU there is, and whether KVM works under it."""

import fcntl
import mmap
import os
from errno import ENODEV, ENOMEM, ENXIO
from typing import TYPE_CHECKING, NamedTuple

from vimto.cache import entry
from vimto.cache.digest import digest, local_directory
from vimto.errors import CacheError, CommandError, QemuError
from vimto.process import proc
from vimto.values import GIB, whole_number

if TYPE_CHECKING:  # who only looks for QEMU is in a hurry
    from pathlib import Path

KVM = "/dev/kvm"
# linux/kvm.h: _IO(0xAE, 0x00) and _IO(0xAE, 0x01).
_KVM_GET_API_VERSION = 0xAE00
_KVM_CREATE_VM = 0xAE01
_KVM_API_VERSION = 12
# The processor's flag for virtualisation, and the kernel's module that makes use of it.
_VIRTUALISATION = {"svm": "kvm_amd", "vmx": "kvm_intel"}


class QemuBinary(NamedTuple):
    """A QEMU binary: its absolute path, its version and what identifies exactly this build."""

    path: str
    version: tuple[int, int, int]
    identity: str


class Accelerator(NamedTuple):
    """How the guest's instructions run: `name` is `kvm` or `tcg`, `reason` says why not KVM.

    `remedy` is how this host gets KVM, empty where nothing can be done, or nothing need be.
    """

    name: str
    reason: str = ""
    remedy: str = ""

    @property
    def emulated(self) -> bool:
        """Whether QEMU translates every instruction, which is ten and more times slower."""
        return self.name == "tcg"


class Obstacle(NamedTuple):
    """Why this host has no KVM, and what of it a command can mend.

    `rights` says that the device is there and this user may not open it, `module` names the module
    of the kernel that is not loaded. `absent` says that there is no device, though the processor
    could serve one: it takes a module, or a container's engine that lets it in.
    """

    reason: str
    rights: bool = False
    module: str = ""
    absent: bool = False


def probe_qemu(path: str, cache: "Path") -> QemuBinary:
    """Ask QEMU for its version, once per binary: each one's answer is kept in `cache`.

    Raises `QemuError` when the binary does not run or is older than 7.0.
    """
    stat = os.stat(path)
    identity = f"{path}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ino}"
    # A file for each: who tries one kernel under two QEMUs calls them in turn.
    answer = f"{local_directory(cache)}/qemu/{digest(os.fsencode(identity))}"
    text = _recall(answer)
    if not text:
        try:
            text = proc.run([path, "--version"]).text
        except CommandError as exc:
            raise QemuError(f"`{path}` does not run", lines=exc.lines or (exc.message,)) from exc
        _remember(answer, text)
    version = parse_version(text)
    if version < (7, 0, 0):
        raise QemuError(
            f"QEMU {'.'.join(map(str, version))} is too old",
            hint="vimto needs QEMU 7.0 or newer; Debian 12 and Ubuntu 24.04 have it",
        )
    return QemuBinary(path=path, version=version, identity=identity)


def _recall(answer: str) -> str:
    try:
        with open(answer, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


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
        numbers = [whole_number(part) for part in words[3].split(".")[:3]]
        if len(numbers) >= 2 and None not in numbers:
            major, minor, micro = [*(number or 0 for number in numbers), 0][:3]
            return major, minor, micro
    raise QemuError("QEMU does not tell its version", lines=tuple(text.splitlines()[:3]))


def choose_accelerator(
    wanted: str, *, device: str = KVM, cpuinfo: str = "/proc/cpuinfo"
) -> Accelerator:
    """Choose KVM where it works and emulation elsewhere.

    `wanted` is `auto`, `kvm` or `tcg`. A host's `/dev/kvm` may open and even create a machine
    although the processor has no virtualisation to offer; an ordinary kernel then hangs at its
    first steps. Therefore the processor's flags count as well. Raises `QemuError` when `kvm` is
    demanded and cannot be used.
    """
    if wanted == "tcg":
        return Accelerator(name="tcg", reason="`accel = tcg` is configured")
    obstacle = find_obstacle(device, cpuinfo)
    if obstacle is None:
        return Accelerator(name="kvm")
    remedy = _remedy(obstacle)
    if wanted == "kvm":
        hint = f"{remedy}; `-accel auto` emulates instead" if remedy else "`-accel auto` emulates"
        raise QemuError(f"KVM cannot be used: {obstacle.reason}", hint=hint)
    return Accelerator(name="tcg", reason=obstacle.reason, remedy=remedy)


def find_obstacle(device: str = KVM, cpuinfo: str = "/proc/cpuinfo") -> Obstacle | None:
    """Return why KVM cannot be used, None if it can."""
    x86 = os.uname().machine == "x86_64"
    if x86 and not (flags := _processor_flags(cpuinfo) & _VIRTUALISATION.keys()):
        return Obstacle(
            "the processor offers no virtualisation (neither vmx nor svm in /proc/cpuinfo)"
        )
    try:
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return Obstacle(f"there is no {device}", absent=True)
    except PermissionError:
        return Obstacle(f"this user may not open {device}", rights=True)
    except OSError as exc:
        # A device file that systemd made beforehand, and nothing behind it (ENODEV, or ENXIO).
        missing = x86 and exc.errno in (ENODEV, ENXIO)
        module = _VIRTUALISATION[min(flags)] if missing else ""
        return Obstacle(f"{device} cannot be opened: {exc.strerror}", module=module)
    try:
        if fcntl.ioctl(fd, _KVM_GET_API_VERSION, 0) != _KVM_API_VERSION:
            return Obstacle(f"{device} speaks another version of KVM's interface")
        os.close(fcntl.ioctl(fd, _KVM_CREATE_VM, 0))
    except OSError as exc:
        return Obstacle(f"{device} cannot create a machine: {exc.strerror}")
    finally:
        os.close(fd)
    return None


def _remedy(obstacle: Obstacle) -> str:
    if not (obstacle.rights or obstacle.module):
        return ""
    if "CI" in os.environ:  # a machine of the moment: nobody can log in again, nobody else is there
        return "vimto setup-ci -apply"
    if obstacle.module:
        return f"sudo modprobe {obstacle.module}"
    return "sudo usermod -aG kvm $USER, then log in again"


def _processor_flags(cpuinfo: str) -> set[str]:
    try:
        with open(cpuinfo, encoding="ascii", errors="replace") as lines:
            return set(next((line for line in lines if line.startswith("flags")), "").split())
    except OSError:
        return set()


def check_memory(mebibytes: int, *, meminfo: str = "/proc/meminfo") -> None:
    """Raise `QemuError` where this host can never give a machine so much memory.

    It need not be free: a machine takes what it uses. But Linux gives nobody at once more than
    there is of memory and swap (proc(5), overcommit_memory), and a guest that has it would spend
    minutes on its page tables before its first word.
    """
    size = mebibytes << 20
    total = sum(_meminfo(meminfo, "MemTotal", "SwapTotal"))
    if total and size > total:
        has, hint = f"this host has {total / GIB:.1f} GiB, swap included", ""
    else:
        try:
            mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
            return
        except (OSError, OverflowError) as exc:
            reason = os.strerror(getattr(exc, "errno", 0) or ENOMEM)
            has, hint = f"this host refuses it ({reason})", "; `ulimit -v` may set a limit"
    raise QemuError(
        f"a machine with {size / GIB:g} GiB of memory cannot be had: {has}",
        hint=f"`-memory` asks for less{hint}",
    )


def _meminfo(path: str, *names: str) -> list[int]:
    try:
        with open(path, encoding="ascii") as lines:
            fields = [line.split() for line in lines]
        return [int(field[1]) << 10 for field in fields if field[0].rstrip(":") in names]
    except (OSError, ValueError, IndexError):
        return []


def identify_host_cpu(cpuinfo: str = "/proc/cpuinfo", *, emulated: bool = False) -> str:
    """Return what of the host's processor a snapshot depends on.

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
