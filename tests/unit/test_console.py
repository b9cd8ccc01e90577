"""What vimto says: on stderr, plain unless a terminal wants colour."""

import os

import pytest

from vimto import console
from vimto.errors import KernelError, VimtoError


def test_an_error_shows_lines_and_hint(capfd: pytest.CaptureFixture[str]) -> None:
    console.error(KernelError("it is broken", hint="mend it", lines=("one", "two")))
    console.error(VimtoError("only this"))
    console.note("a note")
    console.warn("a warning")
    out, err = capfd.readouterr()
    assert out == ""
    assert err == (
        "error: it is broken\n  | one\n  | two\n\nhint: mend it\n"
        "error: only this\nvimto: a note\nwarning: a warning\n"
    )


def test_debug_is_for_those_who_ask(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_verbosity", [0])
    made = []
    console.debug("hidden")
    console.debug(lambda: made.append("hidden") or "hidden")
    assert made == []
    console.set_verbosity(1)
    console.debug("shown")
    console.debug(lambda: "made")
    assert capfd.readouterr().err == "vimto: shown\nvimto: made\n"
    assert console.verbosity() == 1


def test_colour(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "isatty", lambda _fd: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert console.want_colour()
    console.warn("careful")
    assert capfd.readouterr().err == "\x1b[1m\x1b[33mwarning:\x1b[0m careful\n"
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as context:
            context.setenv(name, value)
            assert not console.want_colour()
    monkeypatch.setattr(os, "isatty", lambda _fd: False)
    assert not console.want_colour()


FORGED = "a\x1b]0;t\x07\x9b2J\r\u202eb\nerror: c\x7f"


def test_foreign_text_is_shown_escaped(capfd: pytest.CaptureFixture[str]) -> None:
    console.error(KernelError(FORGED, hint=FORGED, lines=(FORGED,)))
    console.note(FORGED)
    console.warn(FORGED)
    console.write(FORGED)
    shown = "a\\x1b]0;t\\x07\\x9b2J\\r\\u202eb"
    assert capfd.readouterr().err == (
        f"error: {shown}\n  error: c\\x7f\n"
        f"  | {shown}\\nerror: c\\x7f\n"
        f"\nhint: {shown}\n  error: c\\x7f\n"
        f"vimto: {shown}\n  error: c\\x7f\n"
        f"warning: {shown}\n  error: c\\x7f\n"
        f"{shown}\nerror: c\\x7f\n"
    )


def test_a_traceback_is_shown_escaped(capfd: pytest.CaptureFixture[str]) -> None:
    try:
        raise RuntimeError("\x1b[2J")
    except RuntimeError:
        console.fault()
    assert capfd.readouterr().err.endswith("RuntimeError: \\x1b[2J\n")


def test_bytes_that_are_no_text_are_shown(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    console.note(os.fsdecode(b"\xff\x9b"))
    assert capfdbinary.readouterr().err == b"vimto: \\xff\\x9b\n"


def test_a_closed_stderr_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_fd: int, _data: bytes) -> int:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(os, "write", fail)
    console.note("nobody hears it")
