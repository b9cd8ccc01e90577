"""What vimto says to its user: always on stderr, for stdout holds the test's bytes alone.

Colour is used on a terminal only, and never where `NO_COLOR` or `TERM=dumb` ask for plain text;
every message is understandable without it.
"""

import os
import sys
from collections.abc import Callable

from vimto.errors import VimtoError

# Two lists, not flags: `sys.stderr` may be replaced by a test at any time, so nothing about it
# is remembered; how talkative vimto is belongs to the process and is set once by `cli`.
_verbosity = [0]


def set_verbosity(level: int) -> None:
    """Take the number of `-v` flags; 1 prints commands, 2 tracebacks and the guest's console."""
    _verbosity[0] = level


def verbosity() -> int:
    """Return the number of `-v` flags in effect."""
    return _verbosity[0]


def want_colour() -> bool:
    """Say whether stderr is a terminal whose user accepts colour."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb":
        return False
    try:
        return os.isatty(2)
    except OSError:
        return False


def _paint(text: str, name: str) -> str:
    if not want_colour():
        return text
    from colorama import Fore, Style  # not on the shim's road: go gives it no terminal

    return f"{Style.BRIGHT}{getattr(Fore, name)}{text}{Style.RESET_ALL}"


def write(text: str) -> None:
    """Write `text` and a newline to stderr in one call; a closed stderr is no error."""
    data = (text + "\n").encode("utf-8", "surrogateescape")
    try:
        if sys.stderr:  # None where it was closed from the start
            sys.stderr.flush()
        while data:
            data = data[os.write(2, data) :]
    except (OSError, ValueError):
        pass


def note(text: str) -> None:
    """Tell the user of a choice or of progress."""
    write(f"vimto: {text}")


def warn(text: str) -> None:
    """Tell the user of something that is wrong but does not stop the run."""
    write(f"{_paint('warning:', 'YELLOW')} {text}")


def debug(text: str | Callable[[], str]) -> None:
    """Tell a user who asked with `-v`; a text that takes time to make is made for them alone."""
    if verbosity() >= 1:
        write(f"vimto: {text if isinstance(text, str) else text()}")


def error(exc: VimtoError) -> None:
    """Show a failure: what happened, the lines that matter, and what to do about it."""
    parts = [f"{_paint('error:', 'RED')} {exc.message}"]
    parts += [f"  | {line}" for line in exc.lines]
    if exc.hint:
        parts += ["", f"{_paint('hint:', 'CYAN')} {exc.hint}"]
    write("\n".join(parts))
