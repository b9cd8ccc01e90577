"""How many machines share this host's processors, and what an emulator makes of it.

Every running machine holds a lock on as many bytes of the saves' directory as it has processors, at
a place of its own, so that whoever asks for the locks (fcntl(2), F_OFD_GETLK) sees all of them.
/proc/locks lists them too, but waits for other processors first: 15 ms.
"""

import fcntl
import os
import struct

# A guest's processor that waits for a spinlock spins while the host runs something else than the
# processor that holds it: two machines of two processors on two host processors spent a quarter of
# the time so. Where all are emulated in one thread, a processor that spins makes room at once.
ALONE, CROWDED = "multi", "single"

# struct flock of a 64-bit Linux: type, whence, start, length, pid.
_FLOCK = "hhqqi4x"
_END = 1 << 62


class Seat:
    """The place in the crowd of a machine with `processors`, while it runs.

    Owns a descriptor; `close` gives the place up. Where the directory `saves` cannot be locked,
    the machine is not seen, and sees nobody.
    """

    def __init__(self, saves: str, processors: int) -> None:
        self._processors = processors
        self._fd = -1
        try:
            self._fd = os.open(saves, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            place = int.from_bytes(os.urandom(7), "big")
            self._ask(fcntl.F_OFD_SETLK, fcntl.F_RDLCK, place, processors)
        except OSError:
            pass

    def threads(self) -> str:
        """Return how QEMU shall emulate: each processor in a thread, or all of them in one.

        Threads of their own are for a host that has a processor for each one of every machine.
        """
        wanted = self._processors + (self._others(0, _END) if self._fd >= 0 else 0)
        return ALONE if wanted <= len(os.sched_getaffinity(0)) else CROWDED

    def _others(self, start: int, end: int) -> int:
        """Return the number of bytes from `start` to `end` that others have locked."""
        if start >= end:
            return 0
        try:
            kind, first, length = self._ask(fcntl.F_OFD_GETLK, fcntl.F_WRLCK, start, end - start)
        except OSError:
            return 0
        if kind == fcntl.F_UNLCK:
            return 0
        return length + self._others(start, first) + self._others(first + length, end)

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
