"""The signals we are sent, as bytes in a pipe that the conversation with the guest polls."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from vimto import console
from vimto.errors import VimtoError

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_TAKEN = (*ENDING, signal.SIGWINCH, signal.SIGCONT, signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(VimtoError):
    """A signal asked us to end and the command cannot, or must not, decide about that.

    Without a `message` it says no more than which signal.
    """

    def __init__(self, number: int, message: str = "", lines: tuple[str, ...] = ()) -> None:
        super().__init__(
            message or f"interrupted by {signal.Signals(number).name}",
            lines=lines,
            hint="`-v -v` shows the kernel's log" if message else "",
        )
        self.status = 128 + number


def end_by_exception() -> None:
    """Make SIGTERM, SIGHUP and SIGQUIT raise `Interrupted` where nothing else takes them.

    What was begun outside of a machine (a download, a file aside, a helper) ends in its context
    manager then, as it does for Ctrl-C.
    """
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _raise)


def _raise(number: int, _frame: object) -> None:
    raise Interrupted(number)


def is_on_terminal() -> bool:
    """Say whether our session has a terminal; a closed one does not count."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True


class SignalPipe:
    """A context manager: inside it the signals arrive in `fd` instead of ending us.

    SIGUSR1 and SIGUSR2 are for the test as well, which may have asked for them.
    """

    def __init__(self) -> None:
        self.fd = -1
        self._write = -1
        self._before: dict[signal.Signals, object] = {}
        self._hurried = False

    def __enter__(self) -> "SignalPipe":
        self.fd, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in _TAKEN:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup(1) stays in force
                self._before[number] = signal.signal(number, self._wake)
        console.set_hurried(lambda: self._hurried)
        return self

    def __exit__(self, *_exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        signal.set_wakeup_fd(-1)
        console.set_hurried(lambda: False)
        os.close(self.fd)
        os.close(self._write)

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Inside it a signal that asks us to end raises `Interrupted`, whatever we are doing.

        For work without a place at which to look at `fd`.
        """
        for number in self.read():
            if number in ENDING:
                raise Interrupted(number)
        ours = [number for number in ENDING if number in self._before]
        try:
            for number in ours:
                signal.signal(number, _raise)
            yield
        finally:
            for number in ours:
                signal.signal(number, self._wake)

    def read(self) -> list[int]:
        """Return the numbers of the signals that came since the last call."""
        try:
            return list(os.read(self.fd, 64))
        except BlockingIOError:
            return []

    def _wake(self, number: int, _frame: object) -> None:
        """The wake-up descriptor has the number already."""
        self._hurried = self._hurried or number in ENDING
