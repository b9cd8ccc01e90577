"""Time that a machine could not use: it does not count against the limits for its start.

A host under load, or one that stops QEMU for a while, is not the machine's fault. What counts is
time in which QEMU ran, or had nothing to do.
"""

import os
import time
from collections.abc import Mapping
from typing import NamedTuple

from vimto import console

# Seconds between two looks, and how many of them count when we come late for the next one: then we
# were not allowed to run either.
_STEP = 0.5
# When the user is told, once, that the machine has waited for longer than it has run.
_SAID_AFTER = 60.0
# proc(5): stopped, traced, and waiting for a disk.
_HELD = frozenset("TtD")


class Threads(NamedTuple):
    """What /proc says of QEMU's threads: their states, and the seconds each waited to run."""

    states: str
    waited: Mapping[str, float]


class Patience:
    """Looks at the process `pid` from time to time, as `wake_at` (time.monotonic) demands."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._seen = Threads("", {})  # its threads are as young as this, nearly
        self._last = self._begun = time.monotonic()
        self._lost = 0.0
        self._said = False

    @property
    def wake_at(self) -> float:
        """When to look next."""
        return self._last + _STEP

    def lost(self) -> float:
        """Return the seconds since the last call that the machine could not use."""
        now = time.monotonic()
        if now < self.wake_at:
            return 0.0
        before, self._seen = self._seen, read_threads(self._pid)
        elapsed, self._last = now - self._last, now
        lost = lost_time(before, self._seen, elapsed)
        self._lost += lost
        all_of_it = now - self._begun
        if all_of_it > _SAID_AFTER and self._lost > all_of_it / 2 and not self._said:
            self._said = True
            console.note(
                f"waiting: of the last {all_of_it:.0f} s this host let QEMU (process {self._pid})"
                f" run for {all_of_it - self._lost:.0f} s; limits count those alone"
            )
        return lost


def lost_time(before: Threads, after: Threads, elapsed: float) -> float:
    """Return how many of `elapsed` seconds between two looks QEMU could not use."""
    if _HELD.intersection(after.states):
        return elapsed
    waits = (waited - before.waited.get(name, 0.0) for name, waited in after.waited.items())
    could_run = 1.0 - min(1.0, max(waits, default=0.0) / elapsed)
    return elapsed - min(elapsed, 2 * _STEP) * could_run


def read_threads(pid: int) -> Threads:
    """Look at the threads of process `pid`; of one that has ended, or hides them, there are none.

    A kernel without CONFIG_SCHED_INFO says that nobody ever waits.
    """
    states, waited = "", {}
    try:
        names = os.listdir(f"/proc/{pid}/task")
    except OSError:
        names = []
    for name in names:
        try:
            with open(f"/proc/{pid}/task/{name}/stat", "rb") as file:
                states += file.read().rpartition(b")")[2].split()[0].decode()
            with open(f"/proc/{pid}/task/{name}/schedstat", "rb") as file:
                waited[name] = int(file.read().split()[1]) / 1e9
        except (OSError, IndexError, ValueError):
            pass
    return Threads(states, waited)
