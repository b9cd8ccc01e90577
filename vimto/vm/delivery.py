"""What became of the signals that we passed on, and when it is time to give the machine up.

Each signal frame is answered by the guest program, which says as well whether a process that the
signal is meant for is in uninterruptible sleep. After a signal that asks for the end we ask again
from time to time (signal 0), until the grace period is over:

    no answer for as long       nothing runs in the machine any more: it is ended
    still uninterruptible       no signal will ever end the command: the machine is ended
    neither                     the command handles or ignores the signal, as it may
    our terminal was closed     nobody is left to end it: it is killed, and the machine with it
"""

import signal

from vimto.vm.signals import Interrupted

# Nobody looks any more at what a closed terminal would show.
_HANG_UP_GRACE = 2.0
# For the shares to be written back, where no other limit was set.
_KILL_GRACE = 10.0
_ASK_EVERY = 1.0


class Delivery:
    """Judges by the answers; all times are those of `time.monotonic`.

    `grace` is in seconds; 0 is without an end, but for a terminal that is closed.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._unanswered: list[float] = []  # when each of these frames was sent
        self._stuck = ""
        self._number = 0  # the signal whose effect is awaited; 0: none
        self._since = self._until = self._ask_at = 0.0
        self.closed = False

    def sent(self, now: float) -> None:
        """A signal frame is on its way, which will be answered."""
        self._unanswered.append(now)

    def expect(self, number: int, now: float) -> None:
        """The signal that was sent asks for the end; others are not waited for."""
        grace = self._grace
        if number == signal.SIGHUP:
            grace = min(grace, _HANG_UP_GRACE) or _HANG_UP_GRACE
        if grace and (not self._number or now + grace < self._until):
            self._await(number, now, grace)

    def hang_up(self, now: float) -> None:
        """Our terminal was closed, and the command told: it must end in any case."""
        self.closed = True
        self._await(signal.SIGHUP, now, _HANG_UP_GRACE)

    def _await(self, number: int, now: float, grace: float) -> None:
        self._number, self._since, self._until = number, now, now + grace
        self._ask_at = now + min(_ASK_EVERY, grace / 4)

    def answered(self, stuck: str, now: float) -> bool:
        """Take the answer to the oldest frame; says whether one was due.

        `stuck` is the guest's word on a process that is out of reach, or empty.
        """
        if not self._unanswered:
            return False
        del self._unanswered[0]
        self._stuck = stuck
        self._ask_at = now + min(_ASK_EVERY, (self._until - self._since) / 4)
        return True

    def postpone(self, seconds: float) -> None:
        """Let time not have passed: the machine was stopped."""
        self._unanswered = [sent + seconds for sent in self._unanswered]
        self._since += seconds
        self._until += seconds
        self._ask_at += seconds

    @property
    def has_killed(self) -> bool:
        """Whether `check` has had the command killed, for nobody was left to end it."""
        return self._number == signal.SIGKILL

    @property
    def hangs_up(self) -> bool:
        """Whether a SIGHUP is under way that may, or may not, mean that our terminal is closing."""
        return self._number == signal.SIGHUP and not self.closed

    @property
    def wake_at(self) -> float:
        """When `check` is due; 0 is never."""
        if not self._number:
            return 0.0
        if self._unanswered:
            return self._silent_at()
        return min(self._ask_at, self._until)

    def _silent_at(self) -> float:
        return max(self._unanswered[0], self._since) + (self._until - self._since)

    def check(self, now: float) -> int | None:
        """Return the number of a signal to send now, if one is due.

        Raises `Interrupted` when the machine is to be ended.
        """
        if not self._number:
            return None
        if self._unanswered:
            if now >= self._silent_at():
                raise self._end("the guest program does not answer any more")
            return None
        if now < self._until:
            return 0 if now >= self._ask_at else None
        if self._stuck:
            what, *where = self._stuck.split("\n")
            raise self._end(what, tuple(where))
        if not self.closed:
            self._number = 0
            return None
        if self.has_killed:
            raise self._end("it has not ended the command and written back the shares")
        # What is in the shares can still be written back: the guest does that after the command.
        self._await(signal.SIGKILL, now, self._grace or _KILL_GRACE)
        return signal.SIGKILL

    def _end(self, reason: str, lines: tuple[str, ...] = ()) -> Interrupted:
        number = signal.SIGHUP if self.closed else self._number
        passed = f"{self._until - self._since:g} s after {signal.Signals(self._number).name}"
        return Interrupted(number, f"the machine was ended {passed}: {reason}", lines)
