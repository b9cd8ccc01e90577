"""Snapshots on disk: machines that wait for their first order, kept as files and restored for ever.

    CACHE/snapshots/KEY/ram          the guest's RAM, sparse; restored machines map it privately
    CACHE/snapshots/KEY/state        the devices
    CACHE/snapshots/KEY/info         JSON: digests of the two, and what the snapshot is for people

KEY stands for all that shaped the machine, as contents: the same machine has the same key on
another host. A snapshot is used by whoever holds it, and one that is not what `info` says is as
good as none. Which files have been compared with `info` is in the table of `cache.digest`.
"""

import errno
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from vimto.cache import entry
from vimto.cache.digest import Table

# What is compared with `info`, the smaller one first.
_FILES = ("state", "ram")


class Snapshot:
    """A snapshot in use. Owns the lock and the open state; `close` lets go of them."""

    def __init__(self, path: str, lock: int, state: int) -> None:
        self.path = path
        self.state = state
        self._lock = lock

    @property
    def ram(self) -> str:
        """The path of the RAM file."""
        return os.path.join(self.path, "ram")

    def close(self) -> None:
        """Let go of the snapshot. Idempotent."""
        if self._lock >= 0:
            os.close(self.state)
            os.close(self._lock)
            self.state = self._lock = -1

    def drop(self) -> None:
        """Remove the snapshot; machines that run from it go on."""
        self.close()
        entry.remove(self.path)


def find_snapshot(snapshots: str, key: str) -> Snapshot | None:
    """Return the snapshot `key`, held, or None when there is none that can be trusted.

    One that is damaged, or that somebody else could have written, is removed.
    """
    path = os.path.join(snapshots, key)
    try:
        lock = entry.hold(path)
    except entry.UntrustedError:
        entry.remove(path)
        return None
    except OSError:
        return None
    try:
        if _is_whole(path, Table(os.path.dirname(snapshots))):
            state = os.open(os.path.join(path, "state"), os.O_RDONLY | os.O_CLOEXEC)
        else:
            os.close(lock)
            entry.remove(path)
            return None
    except OSError:  # this process has too many files open, or the like: no fault of the snapshot
        os.close(lock)
        return None
    with suppress(OSError):
        os.utime(path)  # when it was used last: the oldest are removed first
    return Snapshot(path, lock, state)


def _is_whole(path: str, table: Table) -> bool:
    """Compare the files with `info`; one that this host knows is not read again.

    Raises `OSError` when they are there, and cannot be read now.
    """
    try:
        with open(f"{path}/info", "rb") as file:
            info = json.load(file)
        # QEMU 7.2 opens the file for writing, though it maps it privately.
        if not os.access(f"{path}/ram", os.W_OK):
            return False
        for name in _FILES:
            status = os.lstat(f"{path}/{name}")
            size, digest = info[name]
            if status.st_size != size or not entry.is_trusted(status):
                return False
            if table.digest(f"{path}/{name}") != digest:
                return False
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False
    except OSError as exc:
        if exc.errno != errno.EIO:
            raise
        return False
    return True


def is_saved(snapshots: str, key: str) -> bool:
    """Say whether there is a snapshot `key`, without a closer look."""
    return os.path.exists(os.path.join(snapshots, key, "info"))


@contextmanager
def new_snapshot(snapshots: str, key: str, about: dict[str, object]) -> Iterator[str]:
    """Give a directory in which to make `ram` and `state`, which becomes the snapshot `key`.

    Nothing is left when the body raises. `about` goes into `info`. Raises `OSError`, or
    `CacheError` where the cache cannot be written.
    """
    path = os.path.join(snapshots, key)
    table = Table(os.path.dirname(snapshots))
    with entry.new_directory(path) as aside:
        yield aside
        info = {**about, "created": int(time.time())}
        for name in _FILES:
            fd = os.open(f"{aside}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(fd)  # after a crash of the host the file must not be zeros
                size = os.fstat(fd).st_size
            finally:
                os.close(fd)
            info[name] = [size, table.digest(f"{aside}/{name}")]
        with open(f"{aside}/info", "w", encoding="ascii") as file:
            json.dump(info, file)
        if os.path.lexists(path):  # damaged, or it would have been used
            entry.remove(path)


class SnapshotInfo(NamedTuple):
    """A snapshot for people: `size` in bytes on disk, `used` in seconds since the epoch."""

    key: str
    kernel: str
    memory: int
    size: int
    used: float
    busy: bool


def list_snapshots(snapshots: str) -> list[SnapshotInfo]:
    """Return the snapshots in `snapshots`, the one used last first."""
    found = []
    for key in entry.entries(snapshots):
        path = os.path.join(snapshots, key)
        try:
            with open(f"{path}/info", "rb") as file:
                info = json.load(file)
            kernel, memory = str(info["kernel"]), int(info["memory"])
            used = os.stat(path).st_mtime
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            kernel, memory, used = "?", 0, 0.0  # damaged, and the first to be removed
        size = entry.disk_usage(path)
        found.append(SnapshotInfo(key, kernel, memory, size, used, entry.is_held(path)))
    return sorted(found, key=lambda snapshot: -snapshot.used)


def prune_snapshots(
    snapshots: str, limit: int, *, keep: str = "", since: float = math.inf
) -> list[SnapshotInfo]:
    """Remove the longest unused snapshots until all take at most `limit` bytes.

    Those stay that are in use, that were used at `since` or later, and `keep`. Returns what was
    removed. What killed makers left is removed as well.
    """
    entry.sweep(snapshots)
    found = list_snapshots(snapshots)
    total = sum(snapshot.size for snapshot in found)
    removed = []
    for snapshot in reversed(found):
        if total <= limit:
            break
        if snapshot.key == keep or snapshot.used >= since:
            continue
        if entry.remove(os.path.join(snapshots, snapshot.key)):
            total -= snapshot.size
            removed.append(snapshot)
    return removed
