"""How a run waits for what others do: until it is told to end, and no longer than it may."""

import math
import select
import time
from typing import NamedTuple

from vimto.errors import BootError
from vimto.vm.signals import ENDING, Interrupted, SignalPipe


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
        """Sleep for `limit` seconds; raises `Interrupted` or `BootError` when told to end."""
        ready = select.select(self.fds, [], [], limit)[0]
        if self.lifeline in ready:
            raise BootError("the vimto that started this run is gone")
        for number in self.signals.read():
            if number in ENDING:
                raise Interrupted(number)
