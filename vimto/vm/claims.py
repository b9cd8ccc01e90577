"""How many machines share this host: who starts next, and what an emulator makes of the others.

Every machine holds locks on bytes of the snapshots' directory, so that whoever asks for the locks
(fcntl(2), F_OFD_GETLK) sees all of them, and the kernel frees them however the machine ends:

    _CLAIMS + random       as many bytes as it has processors, while it runs
    _QUEUE + time          one byte, from when it wants to start until its turn comes
    _STARTS + time         one byte, from then until it has started

A vimto that was stopped (Ctrl-Z, SIGSTOP) keeps its locks, and nothing says whose a lock is. So
whoever is next does not count those that have been starting for long, nor, after a while, those
before it that leave a free place to it.

/proc/locks lists them too, but waits for other processors first: 15 ms.
"""

import fcntl
import math
import os
import struct
import time
from collections.abc import Callable
from contextlib import suppress

from vimto import console
from vimto.limits import host_processors, memory_left

# A guest's processor that waits for a spinlock spins while the host runs something else than the
# processor that holds it: two machines of two processors on two host processors spent a quarter of
# the time so. Where all are emulated in one thread, a processor that spins makes room at once.
THREAD_EACH, ONE_THREAD = "multi", "single"

# struct flock of a 64-bit Linux: type, whence, start, length, pid.
_FLOCK = "hhqqi4x"
_CLAIMS, _QUEUE, _STARTS, _END = 0, 1 << 61, 3 << 60, 1 << 62

# Nobody can be woken when a lock of another process goes: those who are next look more often.
_NEXT_STEP, _STEP = 0.02, 0.1
# Whoever waits no longer than this need not know.
_SAID_AFTER = 8.0
# MiB that a QEMU takes besides its guest's memory.
_OVERHEAD = 100
# How long memory is waited for while no machine starts or ends: others than we may hold it.
_MEMORY_PATIENCE = 60.0
# Starting takes a restored machine a second, one that boots under emulation ten on a quiet host.
_START_PATIENCE = 60.0
# How long each of those before us may leave a place free: it looks ten times a second.
_PLACE_PATIENCE = 5.0


class _Place:
    """Bytes of the directory `snapshots` that are ours until `close`, and a view of the others'.

    Where the directory cannot be locked, the machine is not seen, and sees nobody.
    """

    def __init__(self, snapshots: str, start: int, length: int) -> None:
        self._fd = -1
        self.start = start
        try:
            self._fd = os.open(snapshots, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._ask(fcntl.F_OFD_SETLK, fcntl.F_RDLCK, start, length)
        except OSError:
            pass

    def others(self, start: int, end: int, enough: int = _END) -> int:
        """Return the number of bytes from `start` to `end` that others have locked.

        Once they are `enough`, no more are counted.
        """
        found, left = 0, [(start, end)] if self._fd >= 0 else []
        while left and found < enough:
            start, end = left.pop()
            if start >= end:
                continue
            try:
                kind, at, length = self._ask(fcntl.F_OFD_GETLK, fcntl.F_WRLCK, start, end - start)
            except OSError:
                break
            if kind != fcntl.F_UNLCK:
                found += length
                left += [(start, at), (at + length, end)]
        return found

    def _ask(self, command: int, kind: int, start: int, length: int) -> tuple[int, int, int]:
        """Return kind, start and length of what fcntl(2) answers about such a lock."""
        lock = struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0)
        kind, _, start, length, _ = struct.unpack(_FLOCK, fcntl.fcntl(self._fd, command, lock))
        return kind, start, length

    def close(self) -> None:
        """Give the place up. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Claim(_Place):
    """What a machine with `processors` takes of this host, while it runs."""

    def __init__(self, snapshots: str, processors: int) -> None:
        self._processors = processors
        super().__init__(snapshots, _CLAIMS + int.from_bytes(os.urandom(7), "big"), processors)

    def threads(self) -> str:
        """Return how QEMU shall emulate: each processor in a thread, or all of them in one.

        Threads of their own are for a host that has a processor for each one of every machine.
        """
        wanted = self._processors + self.others(_CLAIMS, _QUEUE)
        return THREAD_EACH if wanted <= host_processors() else ONE_THREAD


class Turn(_Place):
    """A machine's place in the queue of those that start, which it leaves when it may `take` it.

    `close` lets the next one come.
    """

    def __init__(self, snapshots: str) -> None:
        with suppress(OSError):
            os.makedirs(snapshots, mode=0o755, exist_ok=True)
        super().__init__(snapshots, _QUEUE + time.monotonic_ns(), 1)

    def take(self) -> None:
        """Be one of those that start, not of those that wait for it."""
        with suppress(OSError, ValueError):  # it is closed, or could not be locked
            self._ask(fcntl.F_OFD_SETLK, fcntl.F_RDLCK, _STARTS + time.monotonic_ns(), 1)
            self._ask(fcntl.F_OFD_SETLK, fcntl.F_UNLCK, self.start, 1)

    def before(self, enough: int = _END) -> int:
        """Return how many that came before still wait; once they are `enough`, no more count."""
        return self.others(_QUEUE, self.start, enough)

    def starting(self) -> int:
        """Return how many are starting that have not taken too long for it."""
        oldest = _STARTS + time.monotonic_ns() - int(_START_PATIENCE * 1e9)
        return self.others(oldest, _END, host_processors())

    def running(self) -> int:
        """Return the number of processors of all machines that run."""
        return self.others(_CLAIMS, _QUEUE)


def obstacle(ahead: int, running: int, memory: int, available: Callable[[], int]) -> str:
    """Return what keeps a machine with `memory` MiB from starting now, or nothing.

    `ahead` is how many start before it, `running` whether others run. As many start at once as
    the host has processors, and while others are there none does that the host could not give all
    its memory, and as much to each that starts with it. `available` says how many MiB there are.
    """
    if ahead >= host_processors():
        return "other machines start first"
    if ahead or running:
        wanted, left = _need(memory) * (ahead + 1), available()
        if left < wanted:
            return f"{left} MiB of memory are free, and {wanted} MiB may be needed"
    return ""


def room(memory: int, available: int) -> int:
    """Return how many machines with `memory` MiB may start while `available` MiB are free.

    By the rule of `obstacle`: one that is alone always starts.
    """
    return max(1, available // _need(memory))


def _need(memory: int) -> int:
    return memory + _OVERHEAD


def wait_turn(
    snapshots: str, memory: int, pause: Callable[[float], None], limit: float = math.inf
) -> Turn:
    """Return once a machine with `memory` MiB may start; the caller closes its turn then.

    `pause` sleeps for so many seconds, or raises. Says what it waits for after a while. Goes on
    all the same after `limit` seconds, and when a minute has brought no memory, nor any other
    machine's start or end; goes past others that were stopped.
    """
    turn = Turn(snapshots)
    try:
        _wait(turn, memory, pause, limit)
        turn.take()
    except BaseException:
        turn.close()
        raise
    return turn


def _wait(turn: Turn, memory: int, pause: Callable[[float], None], limit: float) -> None:
    begun = changed = full = time.monotonic()
    seen, said, passed = (-1, -1, -1), False, 0
    while True:
        most = 2 * host_processors()
        now = turn.starting(), turn.before(_END if passed else most), turn.running()
        ahead = now[0] + max(0, now[1] - passed)
        reason = obstacle(ahead, now[2], memory, available_memory)
        if not reason:
            return
        at = time.monotonic()
        if now != seen:
            seen, changed = now, at
        if at - begun >= limit:
            console.note(f"no longer waiting, for go's own timer has started: {reason}")
            return
        if ahead < host_processors() and at - changed > _MEMORY_PATIENCE:
            console.note(f"no longer waiting: {reason}")
            return
        if at - begun > _SAID_AFTER and not said:
            said = True
            console.note(f"waiting: {reason}")
        # Those before us may wait for memory as well.
        if now[0] >= host_processors() or obstacle(0, now[2], memory, available_memory):
            full = at
        passed = int((at - full) / _PLACE_PATIENCE)
        pause(_NEXT_STEP if ahead < most else _STEP)


def available_memory() -> int:
    """Return how many MiB new processes may take on this host, or in this container."""
    with open("/proc/meminfo", "rb") as file:
        found = int(file.read().partition(b"\nMemAvailable:")[2].split(None, 1)[0]) << 10
    left = memory_left()
    return (found if left is None else min(found, left)) >> 20
