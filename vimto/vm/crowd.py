"""How many machines share this host's processors, and what an emulator makes of it.

Every running machine holds a shared lock on the directory of the saves; /proc/locks (proc(5)) lists
the holders, of all users.
"""

import fcntl
import os

# A guest's processor that waits for a spinlock spins while the host runs something else than the
# processor that holds it: two machines of two processors on two host processors spent a quarter of
# the time so. Where all are emulated in one thread, a processor that spins makes room at once.
ALONE, CROWDED = "multi", "single"


class Seat:
    """A running machine's place in the crowd. Owns a descriptor; `close` gives the place up."""

    def __init__(self, saves: str) -> None:
        self._fd = -1
        try:
            self._fd = os.open(saves, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            pass  # no directory, or a file system without locks: who is not seen is alone

    def threads(self, processors: int) -> str:
        """Return how QEMU shall emulate: each of `processors` in a thread, or all in one.

        Threads of their own are for a host that has a processor for each one of every machine.
        """
        wanted = max(1, self._count()) * processors
        return ALONE if wanted <= len(os.sched_getaffinity(0)) else CROWDED

    def _count(self) -> int:
        """Return the number of machines that have a seat, 0 when that cannot be told."""
        if self._fd < 0:
            return 0
        inode = f":{os.fstat(self._fd).st_ino}"
        try:
            with open("/proc/locks", encoding="ascii") as file:
                fields = [line.split() for line in file]
        except OSError:
            return 0
        return sum(f[1] == "FLOCK" and f[5].endswith(inode) for f in fields if len(f) > 5)

    def close(self) -> None:
        """Give the seat up. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
