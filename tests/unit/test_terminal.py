"""Our terminal, raw and back."""

import os
import termios
import time
from collections.abc import Iterator

import pytest

from vimto.vm import protocol, terminal
from vimto.vm.protocol import FrameReader
from vimto.vm.signals import Interrupted
from vimto.vm.terminal import Escape, Terminal


@pytest.fixture
def slave() -> Iterator[int]:
    master, slave = os.openpty()
    yield slave
    os.close(master)
    os.close(slave)


def test_raw_and_back(slave: int) -> None:
    before = termios.tcgetattr(slave)
    terminal = Terminal(slave)
    with terminal:
        assert not terminal.is_raw
        terminal.enter()
        terminal.enter()  # after a stop: the first modes are the ones to come back to
        raw = termios.tcgetattr(slave)
        assert not raw[3] & (termios.ECHO | termios.ICANON | termios.ISIG)
        assert not raw[1] & termios.OPOST
    assert termios.tcgetattr(slave) == before


def test_an_error_gives_the_terminal_back(slave: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    before = termios.tcgetattr(slave)
    with pytest.raises(RuntimeError), Terminal(slave) as terminal:
        terminal.enter()
        raise RuntimeError
    assert termios.tcgetattr(slave) == before


def test_a_terminal_without_a_size(slave: int) -> None:
    assert Terminal(slave).size() == {"rows": 24, "cols": 80}
    termios.tcsetwinsize(slave, (5, 6))
    assert Terminal(slave).size() == {"rows": 5, "cols": 6}


def test_a_terminal_that_hung_up() -> None:
    master, slave = os.openpty()
    os.close(master)
    with Terminal(slave) as terminal:
        terminal.enter()
    os.close(slave)


def test_the_last_output_can_be_interrupted(slave: int) -> None:
    before = termios.tcgetattr(slave)
    with Terminal(slave) as terminal:
        terminal.enter()
        terminal.ended()
        assert termios.tcgetattr(slave)[3] & termios.ISIG
        assert not termios.tcgetattr(slave)[1] & termios.OPOST
    assert termios.tcgetattr(slave) == before


@pytest.mark.parametrize(
    ("typed", "passed", "orders"),
    [
        ("~.", "", "."),
        ("ls\r~.", "ls\r", "."),
        ("ls\r~?x", "ls\rx", "?"),
        ("cd ~.\r", "cd ~.\r", ""),  # not at the beginning of a line
        ("~~.", "~.", ""),  # for an ssh inside
        ("~/bin\r", "~/bin\r", ""),
        ("\r~\r~.", "\r~\r", "."),
        ("\x03~.", "\x03~.", ""),
    ],
)
def test_the_escape(typed: str, passed: str, orders: str) -> None:
    assert Escape().filter(typed.encode()) == (passed.encode(), orders.encode())
    escape = Escape()
    parts = [escape.filter(bytes((key,))) for key in typed.encode()]
    assert b"".join(part[0] for part in parts) == passed.encode()
    assert b"".join(part[1] for part in parts) == orders.encode()


@pytest.fixture
def person() -> Iterator[tuple[int, terminal.Keys]]:
    """A person's end of a terminal, and what reads the other one."""
    master, slave = os.openpty()
    with Terminal(slave) as found:
        found.enter()
        yield master, found.keys()
    os.close(slave)


def text_of(frames: bytes) -> bytes:
    return b"".join(payload for _, payload in FrameReader().feed(frames))


def test_the_escape_needs_no_credit(person: tuple[int, terminal.Keys]) -> None:
    master, keys = person
    sent = 0
    while sent < protocol.STDIN_WINDOW + 2000:
        assert keys.wanted
        os.write(master, bytes(1000))
        sent += 1000
        keys.read_some()
    assert len(text_of(keys.acknowledge(500))) == 500
    os.write(master, b"\r~.")
    with pytest.raises(Interrupted, match=r"`~\.`") as caught:
        keys.read_some()
    assert caught.value.status == 130
    os.close(master)


def test_a_silent_machine_is_said_to_be_so_once(
    person: tuple[int, terminal.Keys], capfd: pytest.CaptureFixture[str]
) -> None:
    master, keys = person
    os.write(master, b"x")
    assert text_of(keys.read_some()) == b"x"
    assert keys.wake_at
    assert not keys.check(keys.wake_at - 1)
    assert capfd.readouterr().err == ""
    assert not keys.check(keys.wake_at)
    assert "the machine does not answer; `~.` at the beginning" in capfd.readouterr().err
    os.write(master, b"x")
    keys.read_some()
    assert not keys.wake_at
    keys.heard()
    os.write(master, b"x")
    keys.read_some()
    assert keys.wake_at
    keys.heard()
    assert not keys.wake_at
    os.close(master)


def test_after_ctrl_c_the_guest_is_asked_what_is_stuck(
    person: tuple[int, terminal.Keys], capfd: pytest.CaptureFixture[str]
) -> None:
    master, keys = person
    os.write(master, b"\x03")
    assert text_of(keys.read_some()) == b"\x03"
    keys.heard()  # the echo
    keys.told("`dd` sleeps")  # somebody else's question
    assert keys.check(time.monotonic() + 60)
    assert not keys.check(time.monotonic() + 60)
    keys.told("`dd` sleeps\nwhere")
    keys.told("`dd` sleeps\nwhere")
    shown = capfd.readouterr().err
    assert shown.count("`dd` sleeps; `~.`") == 1 and "where" not in shown
    os.close(master)


def test_a_closed_terminal_is_noticed(person: tuple[int, terminal.Keys]) -> None:
    master, keys = person
    os.close(master)
    assert text_of(keys.read_some()) == b""
    assert keys.ended and keys.hung_up
