"""Our terminal while the guest's command has one of its own.

    COOKED ──enter──> RAW ──leave──> COOKED

In RAW every key goes to the guest, whose terminal gives it its meaning: Ctrl-C interrupts the
command there, not vimto here. Until the command has started, and after it, the terminal is the
user's: Ctrl-C during the boot ends vimto.
"""

import os
import termios
from typing import TYPE_CHECKING

from vimto import console

if TYPE_CHECKING:
    from vimto.vm.exchange import Exchange

# Undoes what a program that died with its machine may have asked for: bracketed paste, mouse
# reports, application keys, a hidden cursor, colours (xterm's control sequences).
_RESET = b"\x1b[?2004l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1l\x1b>\x1b[?25h\x1b[0m\r\n"
_INPUT, _OUTPUT, _CONTROL, _LOCAL, _, _, _CHARACTERS = range(7)


class Terminal:
    """The terminal that our stdin and stdout are; a context manager that leaves it as it was."""

    def __init__(self, fd: int = 0) -> None:
        self._fd = fd
        self._before: list[object] | None = None

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

    def join(self, exchange: "Exchange") -> None:
        """Let the terminal be the guest's from the command's start on."""
        tell = exchange.on_notice
        exchange.on_notice = lambda level, text: tell(level, self.show(text))

        def begin() -> None:
            self.enter()
            exchange.send_size()  # it may have changed since the order

        exchange.on_start = exchange.on_continue = begin

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
        self._set(_raw(self._before))

    def leave(self) -> None:
        """Give the terminal its own modes back. Idempotent."""
        before, self._before = self._before, None
        if before is not None:
            self._set(before)

    def _set(self, modes: list[object]) -> None:
        try:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, modes)  # type: ignore[arg-type]
        except termios.error:
            pass

    def show(self, text: str) -> str:
        """Return `text` for this terminal: in RAW a newline alone does not return the carriage."""
        return text.replace("\n", "\r\n") + "\r" if self.is_raw else text


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


def _raw(modes: list[object]) -> list[object]:
    """Return `modes` as cfmakeraw(3) changes them."""
    raw = list(modes)

    def clear(index: int, bits: int) -> None:
        value = raw[index]
        assert isinstance(value, int)
        raw[index] = value & ~bits

    clear(
        _INPUT,
        termios.IGNBRK
        | termios.BRKINT
        | termios.PARMRK
        | termios.ISTRIP
        | termios.INLCR
        | termios.IGNCR
        | termios.ICRNL
        | termios.IXON,
    )
    clear(_OUTPUT, termios.OPOST)
    clear(_LOCAL, termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    clear(_CONTROL, termios.CSIZE | termios.PARENB)
    control = raw[_CONTROL]
    characters = raw[_CHARACTERS]
    assert isinstance(control, int) and isinstance(characters, list)
    raw[_CONTROL] = control | termios.CS8
    raw[_CHARACTERS] = [*characters]
    raw[_CHARACTERS][termios.VMIN] = 1  # type: ignore[index]
    raw[_CHARACTERS][termios.VTIME] = 0  # type: ignore[index]
    return raw
