"""What vimto says: on stderr, plain unless a terminal wants colour."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vimto import console
from vimto.errors import KernelError, StreamError, VimtoError


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
    assert console.is_coloured()
    console.warn("careful")
    assert capfd.readouterr().err == "\x1b[1m\x1b[33mwarning:\x1b[0m careful\n"
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as context:
            context.setenv(name, value)
            assert not console.is_coloured()
    monkeypatch.setattr(os, "isatty", lambda _fd: False)
    assert not console.is_coloured()


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


def test_what_was_asked_for_goes_to_stdout_whole_or_fails(
    capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    console.show(os.fsdecode(b"\xff") + "\n")
    console.show("\ud800\n")  # from a file of somebody else's
    assert capfdbinary.readouterr().out == b"\xff\n\\ud800\n"
    written: list[bytes] = []

    def write(_fd: int, data: memoryview) -> int:
        if written:
            raise OSError(28, "No space left on device")
        written.append(bytes(data[:2]))
        return 2

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(StreamError, match="write to stdout: no space left on device, after 2 byt"):
        console.show("abc")


def run_vimto(*words: str, stdout: int) -> tuple[int, str]:
    argv = [sys.executable, "-m", "vimto", *words]
    done = subprocess.run(argv, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("words", ["help", "version", "config", "config -markdown", "kernel help"])
def test_a_full_disk_is_no_success(words: str) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    status, errors = run_vimto(*words.split(), stdout=full)
    os.close(full)
    assert (status, errors) == (
        125,
        "error: cannot write to stdout: no space left on device, after 0 bytes\n",
    )


def test_a_reader_that_has_gone_is_as_for_other_programs() -> None:
    read, write = os.pipe()
    os.close(read)
    assert run_vimto("config", stdout=write) == (141, "")
    os.close(write)


def test_a_stream_that_does_not_block_loses_nothing() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    argv = [sys.executable, "-m", "vimto", "config", "-markdown"]
    process = subprocess.Popen(argv, stdout=write)
    os.close(write)
    with open(read, "rb") as file:
        text = file.read()
    assert process.wait() == 0
    assert text.decode().endswith("\n") and len(text) > 5000


def test_nothing_but_the_console_writes_to_stdout() -> None:
    package = Path(console.__file__).parent
    for path in package.rglob("*.py"):
        assert "sys.stdout.write" not in path.read_text(), path


def test_lines_on_a_raw_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import os, tty\nfrom vimto import console\ntty.setraw(2)\nconsole.set_raw(True)\n"
        "console.warn('a\\nb\\r')\nconsole.set_raw(False)\nconsole.note('c')"
    )
    master, slave = os.openpty()
    subprocess.run([sys.executable, "-c", program], stderr=slave, check=True)
    assert os.read(master, 1000).endswith(b" a\r\n  b\\r\r\nvimto: c\n")
    os.close(slave)
    os.close(master)


def test_a_message_that_nobody_reads_does_not_keep_us_from_ending() -> None:
    program = (
        "import os, signal\nfrom vimto import console\n"
        "from vimto.vm.signals import SignalPipe\n"
        "with SignalPipe() as signals:\n"
        "    print('up', flush=True)\n"
        "    console.note('x' * (1 << 20))\n"
        "    print(signals.read(), flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(15)
        assert process.stdout.readline() == b"[15]\n"
        process.stdout.close()
