"""Saves: machines that wait for their first order, kept as files and restored for ever.

    SAVES/KEY/ram    the guest's RAM, sparse; restored machines map it privately
    SAVES/KEY/state  the devices; a shared lock on it is held for as long as a machine uses the save
    SAVES/KEY/info   JSON, what the two files must look like, and what the save is for people
    SAVES/KEY.lock   held by whoever makes KEY; of size 1: that, or a restore, failed at its mtime
    SAVES/.KEY.PID   a save being made, or one being removed

An entry never changes: it is made aside and renamed into place. A save that is not what `info`
says is as good as none.
"""

import errno
import fcntl
import json
import os
import select
import time
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from vimto.errors import BootError, EmulatorFaultError, QemuError, VimtoError
from vimto.quoting import escape
from vimto.vm import protocol
from vimto.vm.crowd import CROWDED
from vimto.vm.exchange import check_ready
from vimto.vm.machine import (
    Machine,
    Memory,
    boot_words,
    emulated,
    save,
    slot_tags,
    start_machine,
)
from vimto.vm.plan import Plan, Tier
from vimto.vm.signals import ENDING, Interrupted, SignalPipe

# A save of Debian's 6.1 with 1 GiB takes 130 MiB; with less room than this none is tried.
_ROOM_NEEDED = 512 << 20
_SAVE_LIMIT = 60.0
_LOCK_STEP = 0.05
# Where saving failed, those who waited for the save boot, and do not each try and fail again.
_RETRY_AFTER = 600.0


class Save:
    """One entry in use. Owns the lock; `close` lets it go."""

    def __init__(self, path: str, state: int) -> None:
        self.path = path
        self.state = state

    @property
    def ram(self) -> str:
        """The path of the RAM file."""
        return os.path.join(self.path, "ram")

    def close(self) -> None:
        """Let go of the save. Idempotent."""
        if self.state >= 0:
            os.close(self.state)
            self.state = -1

    def drop(self) -> None:
        """Remove the save; machines that run from it go on."""
        self.close()
        _remove(self.path)

    def distrust(self) -> None:
        """Remove a save that did not come back to life, and make no other one for a while.

        A QEMU that cannot restore what it saved would otherwise cost each run two boots.
        """
        self.drop()
        try:
            os.truncate(f"{self.path}.lock", 1)
        except OSError:
            pass


def find_save(saves: str, key: str) -> Save | None:
    """Return the entry `key`, held, or None when there is none that can be trusted.

    An entry that was truncated or altered is removed.
    """
    path = os.path.join(saves, key)
    try:
        state = os.open(os.path.join(path, "state"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        _hold(state)
        if not os.path.samestat(os.fstat(state), os.stat(os.path.join(path, "state"))):
            raise OSError(errno.ESTALE, "removed while it was being locked")
    except OSError:
        os.close(state)
        return None
    found = Save(path, state)
    if not _is_whole(found):
        found.drop()
        return None
    try:
        os.utime(path)  # when it was used last: the oldest are removed first
    except OSError:
        pass
    return found


def _hold(state: int) -> None:
    """Take the shared lock; raises `BlockingIOError` when another has it exclusively for long."""
    for _ in range(100):
        try:
            return fcntl.flock(state, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            # `kernel ls` looks whether it is in use, or it is being removed: neither takes long,
            # and to give up would cost a boot.
            time.sleep(0.01)
    fcntl.flock(state, fcntl.LOCK_SH | fcntl.LOCK_NB)


def have_save(saves: str, key: str) -> bool:
    """Say whether there is an entry `key`, without a closer look."""
    return os.path.exists(os.path.join(saves, key, "state"))


def _is_whole(found: Save) -> bool:
    try:
        with open(os.path.join(found.path, "info"), "rb") as file:
            info = json.load(file)
        data = os.pread(found.state, os.fstat(found.state).st_size, 0)
        ram = os.stat(found.ram)
        # QEMU 7.2 opens the file for writing, though it maps it privately.
        return os.access(found.ram, os.W_OK) and bool(
            info["state"] == [len(data), zlib.crc32(data)]
            and info["ram"] == [ram.st_size, ram.st_mtime_ns]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def acquire_save(plan: Plan, tier: Tier, signals: SignalPipe, lifeline: int) -> Save | None:
    """Return the save for `tier`, making it if there is none; None means: boot.

    One maker at a time: others wait for it, as long as a boot may take. Raises `BootError` when
    the machine does not boot at all, for then nothing is won by trying again.
    """
    found = find_save(plan.saves, tier.save)
    if found is not None:
        return found
    lock = _lock(plan, tier, signals, lifeline)
    if lock < 0:
        return None
    try:
        found = find_save(plan.saves, tier.save)
        if found is None and not _has_failed(lock):
            try:
                made = _make(plan, tier, signals, lifeline)
            except EmulatorFaultError:
                made = _make(plan, tier, signals, lifeline)
            os.ftruncate(lock, 0 if made else 1)
            found = find_save(plan.saves, tier.save)
        return found
    finally:
        os.close(lock)


def _lock(plan: Plan, tier: Tier, signals: SignalPipe, lifeline: int) -> int:
    """Return the descriptor of the maker's lock, or -1: no such file, or not in time."""
    try:
        os.makedirs(plan.saves, exist_ok=True)
        fd = os.open(f"{plan.saves}/{tier.save}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        return -1
    deadline = time.monotonic() + plan.boot_timeout
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except OSError:
            pass
        # flock(2) has no limit and our signals do not interrupt it; the wait is for seconds.
        if time.monotonic() > deadline:
            os.close(fd)
            return -1
        wait_for_signal(signals, lifeline, _LOCK_STEP)


def wait_for_signal(signals: SignalPipe, lifeline: int, limit: float) -> None:
    """Sleep for `limit` seconds; raises `Interrupted` or `BootError` when told to end."""
    fds = [signals.fd] if lifeline < 0 else [signals.fd, lifeline]
    ready = select.select(fds, [], [], limit)[0]
    if lifeline in ready:
        raise BootError("the vimto that started this run is gone")
    for number in signals.read():
        if number in ENDING:
            raise Interrupted(number)


def _has_failed(lock: int) -> bool:
    status = os.fstat(lock)
    return status.st_size > 0 and time.time() - status.st_mtime < _RETRY_AFTER


def _check_room(saves: str) -> None:
    room = os.statvfs(saves)
    if room.f_bavail * room.f_frsize < _ROOM_NEEDED:
        raise OSError(errno.ENOSPC, f"less than {_ROOM_NEEDED >> 20} MiB are free in `{saves}`")


def _make(plan: Plan, tier: Tier, signals: SignalPipe, lifeline: int) -> bool:
    """Boot a machine, save it and put it in place; say whether that worked.

    A failure to save costs one line and leaves nothing. Raises `BootError` for a machine that
    does not boot.
    """
    from vimto import console
    from vimto.vm.loss import explain, show_log

    aside = f"{plan.saves}/.{tier.save}.{os.getpid()}"
    _sweep(plan.saves, f".{tier.save}.")
    empty = f"{aside}/empty"
    try:
        os.makedirs(empty)
    except OSError:
        return False
    try:
        _check_room(plan.saves)
        slots = {tag: escape(empty) for tag in slot_tags(tier)}
        memory = Memory(f"{aside}/ram", shared=True)
        # A boot has nothing to do at once, and go compiles meanwhile.
        shape = emulated(tier, CROWDED)
        with start_machine(plan, shape, slots, memory, boot_words(plan)) as machine:
            try:
                wait_ready(machine, plan.boot_timeout, signals, lifeline)
            except BootError as exc:
                explained = explain(exc, machine, plan)
                if os.WIFSIGNALED(machine.status or 0):  # SIGBUS: no room for a page of the RAM
                    raise QemuError("QEMU was killed while the machine booted") from exc
                raise explained from exc
            save(machine, f"{aside}/state", _SAVE_LIMIT)
            show_log(machine)
        os.rmdir(empty)
        _write_info(aside, plan)
        os.rename(aside, f"{plan.saves}/{tier.save}")
        prune_saves(plan.saves, plan.snapshot_limit, keep=tier.save)
        return True
    except (OSError, QemuError) as exc:
        reason = exc.message if isinstance(exc, VimtoError) else exc.strerror
        console.warn(f"the machine was not saved, so each boots: {reason}")
        return False
    finally:
        _delete(aside)


def _write_info(path: str, plan: Plan) -> None:
    with open(f"{path}/state", "rb") as file:
        data = file.read()
    with open(f"{path}/ram", "rb") as file:
        os.fdatasync(file.fileno())  # after a crash of the host the file must not be zeros
        ram = os.fstat(file.fileno())
    info = {
        "state": [len(data), zlib.crc32(data)],
        "ram": [ram.st_size, ram.st_mtime_ns],
        "kernel": plan.kernel_name,
        "memory": plan.memory,
        "created": int(time.time()),
    }
    with open(f"{path}/info", "w", encoding="ascii") as file_out:
        json.dump(info, file_out)


def wait_ready(machine: Machine, limit: float, signals: SignalPipe, lifeline: int) -> None:
    """Wait until the guest says `ready`; raises `BootError`, or `Interrupted` for a signal."""
    deadline = time.monotonic() + limit
    reader = protocol.FrameReader()
    while True:
        fds = [machine.port, signals.fd, *([lifeline] if lifeline >= 0 else [])]
        ready = select.select(fds, [], [], max(0.0, deadline - time.monotonic()))[0]
        if not ready:
            raise BootError(f"the machine did not boot within {limit:g} s")
        if machine.port not in ready:
            wait_for_signal(signals, lifeline, 0)
            continue
        try:
            data = os.read(machine.port, 65536)
        except ConnectionResetError:
            data = b""
        if not data:
            raise BootError("the machine ended before it was ready")
        for kind, payload in reader.feed(data):
            if kind == protocol.READY:
                check_ready(protocol.decode_json(payload))
                return


class SaveInfo(NamedTuple):
    """An entry for people: `size` in bytes on disk, `used` in seconds since the epoch."""

    key: str
    kernel: str
    memory: int
    size: int
    used: float
    busy: bool


def list_saves(saves: str) -> list[SaveInfo]:
    """Return the entries in `saves`, the one used last first."""
    found = []
    for key in _entries(saves):
        path = os.path.join(saves, key)
        info: dict[str, Any] = {}
        try:
            with open(f"{path}/info", "rb") as file:
                info = json.load(file)
            used = os.stat(path).st_mtime
        except (OSError, ValueError):
            used = 0.0
        kernel, memory = str(info.get("kernel", "?")), int(info.get("memory", 0))
        found.append(SaveInfo(key, kernel, memory, _disk_usage(path), used, _is_busy(path)))
    return sorted(found, key=lambda save: -save.used)


def prune_saves(saves: str, limit: int, *, keep: str = "") -> list[SaveInfo]:
    """Remove the oldest unused entries, but `keep`, until all take at most `limit` bytes.

    Returns what was removed. What killed makers left is removed as well.
    """
    _sweep(saves, ".")
    entries = list_saves(saves)
    total = sum(entry.size for entry in entries)
    removed = []
    for entry in reversed(entries):
        if total <= limit:
            break
        if entry.key != keep and not entry.busy and _remove(os.path.join(saves, entry.key)):
            total -= entry.size
            removed.append(entry)
    return removed


def _entries(saves: str) -> list[str]:
    try:
        names = os.listdir(saves)
    except OSError:
        return []
    return [name for name in names if not name.startswith(".") and not name.endswith(".lock")]


def _disk_usage(path: str) -> int:
    total = 0
    for name in ("ram", "state", "info"):
        try:
            total += os.stat(f"{path}/{name}").st_blocks * 512
        except OSError:
            pass
    return total


def _is_busy(path: str) -> bool:
    return not _with_exclusive_lock(path, lambda: None)


def _remove(path: str) -> bool:
    """Remove an entry that no machine uses; say whether it is gone."""

    def remove() -> None:
        parent, key = os.path.split(path)
        aside = f"{parent}/.{key}.{os.getpid()}.removed"
        os.rename(path, aside)
        _delete(aside)

    return _with_exclusive_lock(path, remove)


def _with_exclusive_lock(path: str, action: Callable[[], None]) -> bool:
    try:
        fd = os.open(f"{path}/state", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if os.path.isdir(path):  # damaged: nobody can hold what is not there
            action()
            return True
        return False
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        action()
        return True
    except OSError:
        return False
    finally:
        os.close(fd)


def _sweep(saves: str, prefix: str) -> None:
    """Remove what makers and removers left that are no longer alive."""
    try:
        names = os.listdir(saves)
    except OSError:
        return
    for name in names:
        pid = name.split(".")[2:3]  # other dotted names are somebody else's
        if name.startswith(prefix) and pid and not os.path.exists(f"/proc/{pid[0]}"):
            _delete(os.path.join(saves, name))


def _delete(path: str) -> None:
    for name in ("ram", "state", "info"):
        try:
            os.unlink(f"{path}/{name}")
        except OSError:
            pass
    for directory in (f"{path}/empty", path):
        try:
            os.rmdir(directory)
        except OSError:
            pass
