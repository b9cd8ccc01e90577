"""Our terminal while the guest's command has one of its own.

    COOKED ──enter──> RAW ──leave──> COOKED

In RAW every key goes to the guest, whose terminal gives it its meaning: Ctrl-C interrupts the
command there, not vimto here. What works without the guest is the escape, as ssh(1) has it: at the
beginning of a line, `~.` ends the machine. Until the command has started, and after it, the
terminal is the user's: Ctrl-C during the boot ends vimto.
"""

import os
import signal
import termios
import time
import tty
from collections.abc import Callable
from typing import Any

from vimto import console
from vimto.vm import protocol
from vimto.vm.observer import Line, Observer
from vimto.vm.protocol import Kind
from vimto.vm.signals import Interrupted
from vimto.vm.streams import Input, is_behind

# Undoes what a program that died with its machine may have asked for: bracketed paste, mouse
# reports, application keys, a hidden cursor, colours (xterm's control sequences).
_RESET = b"\x1b[?2004l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1l\x1b>\x1b[?25h\x1b[0m\r\n"
ESCAPE_HELP = "`~.` at the beginning of a line (Enter, `~`, `.`) ends the machine"

# How long a person waits for an effect of a key before we say something.
_SILENCE = 3.0
# What may be typed, or pasted, beyond what the guest has taken: the escape must be read as well.
_TYPED_AHEAD = 1 << 20
_CTRL_C, _CTRL_BACKSLASH = b"\x03", b"\x1c"


class Terminal(Observer):
    """The terminal that our stdin and stdout are; a context manager that leaves it as it was."""

    def __init__(self, fd: int = 0) -> None:
        self._fd = fd
        self._before: list[Any] | None = None
        self._line: Line

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, kind: object, *_exc: object) -> None:
        raw = self._before is not None
        self.leave()
        if raw and kind is not None and os.environ.get("TERM", "dumb") != "dumb":
            try:
                os.write(1, _RESET)
            except OSError:
                pass

    def join(self, line: Line) -> None:
        self._line = line

    def started(self) -> None:
        if is_behind(self._fd):
            return  # continued in the background; `Keys` sees us come back
        self.enter()
        self._line.send_size()  # it may have changed since the order

    def continued(self) -> None:
        self.started()

    def keys(self) -> "Keys":
        """Return what is typed here, for the conversation."""
        return Keys(self._fd, self)

    def tell(self, text: str) -> None:
        """Show a line of ours between those of the command."""
        console.write(f"\nvimto: {text}")

    @property
    def is_raw(self) -> bool:
        """Whether keys go to the guest now."""
        return self._before is not None

    def size(self) -> dict[str, int]:
        """Return rows and columns as the order has them; a terminal without a size has 24 by 80."""
        try:
            columns, rows = os.get_terminal_size(self._fd)
        except OSError:
            columns, rows = 0, 0
        return {"rows": rows or 24, "cols": columns or 80}

    def enter(self) -> None:
        """Let every key through; keys that were typed already are kept."""
        if self._before is None:
            try:
                self._before = termios.tcgetattr(self._fd)
            except termios.error:
                return  # it hung up; reading it says so
        console.set_raw(True)
        self._change(lambda when: tty.setraw(self._fd, when))

    def ended(self) -> None:
        # Ctrl-C is ours again, should the command's last output find no reader.
        if self._before is None:
            return
        try:
            modes = termios.tcgetattr(self._fd)
        except termios.error:
            return
        modes[tty.LFLAG] |= termios.ISIG
        self._change(lambda _when: termios.tcsetattr(self._fd, termios.TCSANOW, modes))

    def leave(self) -> None:
        """Give the terminal its own modes back. Idempotent.

        In the background it has them already, from the shell.
        """
        console.set_raw(False)
        before, self._before = self._before, None
        if before is not None and not is_behind(self._fd):
            self._change(lambda when: termios.tcsetattr(self._fd, when, before))

    def _change(self, change: Callable[[int], object]) -> None:
        for when in (termios.TCSADRAIN, termios.TCSANOW):  # a signal may have cut the wait short
            try:
                change(when)
                return
            except termios.error:
                pass


class Escape:
    """Finds the escape in what is typed, as ssh(1) does: `~` counts at the beginning of a line."""

    def __init__(self) -> None:
        self._line_begins = True
        self._escaping = False

    def filter(self, typed: bytes) -> tuple[bytes, bytes]:
        """Return what goes to the command, and the characters that followed an escape.

        `~~` is one `~`; a `~` is kept back until the key after it says whether it was meant.
        """
        passed, orders = bytearray(), bytearray()
        for key in typed:
            if self._escaping:
                self._escaping = False
                if key in b".?":
                    orders.append(key)
                    self._line_begins = True
                    continue
                passed += b"~" if key == ord("~") else bytes((ord("~"), key))
            elif self._line_begins and key == ord("~"):
                self._escaping = True
                continue
            else:
                passed.append(key)
            self._line_begins = key in b"\r\n"
        return bytes(passed), bytes(orders)


class Keys(Input):
    """What is typed at a terminal in RAW; says how to leave where it has no effect."""

    def __init__(self, fd: int, terminal: Terminal) -> None:
        super().__init__(fd)
        self._terminal = terminal
        self._escape = Escape()
        self._typed = bytearray()  # what there is no credit for yet
        self._key_at = self._look_at = 0.0
        self._silent = False  # we have said so
        self._looking = False
        self._was_behind = False

    @property
    def wanted(self) -> bool:
        if self._is_behind:
            self._was_behind = True
            return False
        if self._was_behind:  # a shell gives back the terminal with modes of its own
            self._was_behind = False
            self._terminal.enter()
        return not self.ended and len(self._typed) < _TYPED_AHEAD

    def read_some(self) -> bytes:
        data = self._read(4096)
        if data is None:
            return b""
        if not data:
            self.ended = True
            self.hung_up = not os.isatty(self.fd)
            return protocol.encode(Kind.STDIN)
        passed, orders = self._escape.filter(data)
        if b"." in orders:
            raise Interrupted(signal.SIGINT, "the machine was ended by `~.`")
        if orders:
            self._terminal.tell(f"{ESCAPE_HELP}; `~~` is a `~`")
        if not self._silent:
            self._key_at = self._key_at or time.monotonic()
        if _CTRL_C in passed or _CTRL_BACKSLASH in passed:
            self._look_at = time.monotonic() + _SILENCE
        self._typed += passed
        return self._take()

    def _take(self) -> bytes:
        chunk = bytes(self._typed[: self._credit])
        del self._typed[: len(chunk)]
        self._credit -= len(chunk)
        return protocol.encode(Kind.STDIN, chunk) if chunk else b""

    def acknowledge(self, count: int) -> bytes:
        super().acknowledge(count)
        return self._take()

    @property
    def wake_at(self) -> float:
        times = (super().wake_at, self._silent_at, self._look_at)
        return min((at for at in times if at), default=0.0)

    @property
    def _silent_at(self) -> float:
        return self._key_at + _SILENCE if self._key_at else 0.0

    def heard(self) -> None:
        self._key_at = 0.0
        self._silent = False

    def check(self, now: float) -> bool:
        if self._key_at and now >= self._silent_at:
            self._key_at = 0.0
            self._silent = True
            self._terminal.tell(f"the machine does not answer; {ESCAPE_HELP}")
        if self._look_at and now >= self._look_at:
            self._look_at = 0.0
            self._looking = True
            return True
        return False

    def told(self, stuck: str) -> None:
        if stuck and self._looking:
            self._looking = False
            self._terminal.tell(f"{stuck.partition(chr(10))[0]}; {ESCAPE_HELP}")


def find_terminal() -> Terminal | None:
    """Return the terminal that is both our stdin and our stdout, if we may take it.

    In the background of a shell we may not: the shell's user is typing something else.
    """
    try:
        if os.isatty(0) and os.isatty(1) and os.tcgetpgrp(0) == os.getpgrp():
            return Terminal()
    except OSError:
        console.debug("the terminal is not ours to use")
    return None
