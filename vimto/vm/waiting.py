"""How a run waits for what others do: until it is told to end, and no longer than it may."""

import math
import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import F_GETFL, F_SETFL, F_SETOWN, fcntl
from typing import NamedTuple

from vimto.errors import VimtoError
from vimto.vm.observer import Observer
from vimto.vm.signals import ENDING, Interrupted, SignalPipe


class Abandoned(VimtoError):
    """Nobody waits for the command any more; its machine must end at once."""

    def __init__(self) -> None:
        super().__init__("the vimto that started this run is gone")


class Lifeline(Observer):
    """A descriptor that hangs up when the vimto that planned this run is gone; -1 is none."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def interests(self) -> list[tuple[int, int]]:
        return [(self._fd, 0)] if self._fd >= 0 else []  # POLLHUP is always reported

    def handle(self, fd: int, events: int) -> None:
        raise Abandoned


class Waiting(NamedTuple):
    """What may end a wait: our signals, and the hang-up of `lifeline` (-1 for none).

    `until` (time.monotonic) is when no more may be waited, None where it takes as long as it takes.
    """

    signals: SignalPipe
    lifeline: int
    until: float | None = None

    @property
    def fds(self) -> list[int]:
        """The descriptors that become readable when `pause` has something to raise."""
        return [self.signals.fd, *([self.lifeline] if self.lifeline >= 0 else [])]

    @property
    def left(self) -> float:
        """The seconds that may still be waited."""
        return math.inf if self.until is None else max(0.0, self.until - time.monotonic())

    def pause(self, limit: float) -> None:
        """Sleep for `limit` seconds; raises `Interrupted` or `Abandoned` when told to end."""
        ready = select.select(self.fds, [], [], limit)[0]
        if self.lifeline in ready:
            raise Abandoned
        for number in self.signals.read():
            if number in ENDING:
                raise Interrupted(number)

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Inside it what `pause` would raise is raised whatever we are doing.

        For work without a place at which to look, such as QEMU's writing of a state.
        """
        with self.signals.raising(), _hearing(self.lifeline):
            yield


@contextmanager
def _hearing(lifeline: int) -> Iterator[None]:
    """Inside it the hang-up of the pipe `lifeline` raises `Abandoned`; -1 is none."""
    if lifeline < 0:
        yield
        return

    def listen(*_signal: object) -> None:
        if select.select([lifeline], [], [], 0)[0]:
            raise Abandoned

    # The kernel sends SIGIO when the pipe's last writer has gone (fcntl(2), O_ASYNC).
    flags = fcntl(lifeline, F_GETFL)
    before = signal.signal(signal.SIGIO, listen)
    try:
        fcntl(lifeline, F_SETOWN, os.getpid())
        fcntl(lifeline, F_SETFL, flags | os.O_ASYNC)
        listen()  # it may have gone already
        yield
    finally:
        fcntl(lifeline, F_SETFL, flags)
        signal.signal(signal.SIGIO, before)
