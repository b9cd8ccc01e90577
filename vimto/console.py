"""What vimto says to its user: on stderr, for stdout holds the test's bytes alone.

Where there is no test (`vimto config`, help), `show` writes what was asked for to stdout.

Colour is used on a terminal only, and never where `NO_COLOR` or `TERM=dumb` ask for plain text;
every message is understandable without it.

Much of what is shown is foreign: the guest's console, its reasons, names from registries and
archives, other programs' words. So no control character leaves this module but our own colours, and
no line but the first of a message begins where a message of ours begins.
"""

import os
import sys
from collections.abc import Callable

from vimto.descriptors import write_all
from vimto.errors import VIMTO_FAILED, StreamError, VimtoError, scarcity
from vimto.quoting import visible

# Lists, not flags: `sys.stderr` may be replaced by a test at any time, so nothing about it is
# remembered; how talkative vimto is belongs to the process and is set once by `cli`.
_verbosity = [0]
# The terminal is raw: a newline alone does not return the carriage.
_raw = [False]
# Whether we were asked to end, where that raises nothing by itself.
_hurried: list[Callable[[], bool]] = [lambda: False]
_LOOK_AGAIN = 0.2
_PIECE = 4096  # what poll(2) promises for a pipe it calls writable

_TAB = "\t"


def set_verbosity(level: int) -> None:
    """Take the number of `-v` flags; 1 prints commands, 2 tracebacks and the guest's console."""
    _verbosity[0] = level


def verbosity() -> int:
    """Return the number of `-v` flags in effect."""
    return _verbosity[0]


def set_raw(raw: bool) -> None:
    """Take it that our terminal, if stderr is one, is raw now, or not any more."""
    _raw[0] = raw


def set_hurried(hurried: Callable[[], bool]) -> None:
    """Take what says whether to drop a message that nobody reads, for we were asked to end."""
    _hurried[0] = hurried


def is_coloured() -> bool:
    """Say whether stderr is a terminal whose user accepts colour."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb":
        return False
    try:
        return os.isatty(2)
    except OSError:
        return False


def _paint(text: str, name: str) -> str:
    if not is_coloured():
        return text
    from colorama import Fore, Style  # not on the shim's road: go gives it no terminal

    return f"{Style.BRIGHT}{getattr(Fore, name)}{text}{Style.RESET_ALL}"


def write(text: str) -> None:
    """Write `text`, escaped, and a newline to stderr; a closed stderr is not an error."""
    _put(visible(text))


def _put(text: str) -> None:
    try:
        if sys.stderr:  # None where it was closed from the start
            sys.stderr.flush()
        lines = text + "\n"
        if _raw[0] and os.isatty(2):
            lines = lines.replace("\n", "\r\n")
        data = _encode(lines)
        for at in range(0, len(data), _PIECE):
            if not _wait_for_reader():
                return
            write_all(2, data[at : at + _PIECE])
    except (OSError, ValueError, StreamError):
        pass


def _wait_for_reader() -> bool:
    """Wait until stderr takes more; says whether it does, as it may never."""
    import select

    while not select.select([], [2], [], _LOOK_AGAIN)[1]:
        if _hurried[0]():
            return False
    return True


def _message(text: str) -> str:
    """Return `text` escaped, with its further lines indented."""
    first, *more = visible(text).split("\n")
    return "\n".join([first, *(f"  {line}" if line[:1].strip() else line for line in more)])


def show(text: str) -> None:
    """Write `text` to stdout, where it is what the user asked for.

    Raises `StreamError` when it cannot all be written, `BrokenPipeError` when nobody reads it.
    """
    write_all(1, _encode(text))


def _encode(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")  # names of files, as they are
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")


def note(text: str) -> None:
    """Tell the user of a choice or of progress."""
    _put(f"vimto: {_message(text)}")


def warn(text: str) -> None:
    """Tell the user of something that is wrong but does not stop the run."""
    _put(f"{_paint('warning:', 'YELLOW')} {_message(text)}")


def debug(text: str | Callable[[], str]) -> None:
    """Tell a user who asked with `-v`; a text that takes time to make is made for them alone."""
    if verbosity() >= 1:
        note(text if isinstance(text, str) else text())


def error(exc: VimtoError) -> None:
    """Show a failure: what happened, the lines that matter, and what to do about it."""
    parts = [f"{_paint('error:', 'RED')} {_message(exc.message)}"]
    parts += [f"  | {visible(line, keep=_TAB)}" for line in exc.lines]
    if exc.hint:
        parts += ["", f"{_paint('hint:', 'CYAN')} {_message(exc.hint)}"]
    _put("\n".join(parts))


def fault() -> None:
    """Show the exception that is being handled, with its traceback."""
    import traceback  # a fault of ours, or somebody who asked for it

    write(traceback.format_exc().rstrip("\n"))


def unexpected(exc: Exception) -> int:
    """Tell of an exception that nobody foresaw, while it is handled, and return our own status.

    Python's own end would be the status 1, as of a test that failed.
    """
    if scarce := scarcity(exc):
        error(scarce)
    else:
        fault()
    return VIMTO_FAILED
