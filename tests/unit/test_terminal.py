"""Our terminal, raw and back."""

import os
import termios
from collections.abc import Iterator

import pytest

from vimto.vm.terminal import Terminal


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
        assert terminal.show("a\nb") == "a\r\nb\r"
    assert termios.tcgetattr(slave) == before
    assert terminal.show("a\nb") == "a\nb"


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
