import os
from collections.abc import Iterator

import pytest

from vimto.qemu.process import Qemu
from vimto.vm import log
from vimto.vm.log import Log


@pytest.fixture
def fd() -> Iterator[int]:
    with Qemu("") as qemu:
        yield qemu.console


def write(fd: int, text: str, times: int = 1) -> None:
    data = text.encode() * times
    while data:
        data = data[os.write(fd, data) :]


def check_now(found: Log) -> None:
    found.wake_at = 0.0
    found.check()


def test_a_short_log_is_whole(fd: int) -> None:
    found = Log(fd)
    write(fd, "first\r\n\n \nsecond \xff")
    check_now(found)
    assert found.lines() == ["first", "second \xff"]


def test_of_a_long_one_the_beginning_and_the_end_are_kept(fd: int) -> None:
    found = Log(fd)
    write(fd, "first\n")
    for _ in range(3):
        write(fd, "x" * 99 + "\n", log.LIMIT // 100 + 1)
        check_now(found)
        assert os.fstat(fd).st_size <= log.HEAD
    write(fd, "last\n")
    lines = found.lines()
    assert lines[0] == "first" and lines[-1] == "last"
    assert len("\n".join(lines)) < log.HEAD + log.TAIL + 100
    dropped = 3 * (log.LIMIT // 100 + 1) * 100 + 6 - log.HEAD - log.TAIL
    assert f"({dropped} bytes left out)" in lines


def test_nothing_is_looked_at_before_it_is_due(fd: int) -> None:
    found = Log(fd)
    write(fd, "x", log.LIMIT + 1)
    found.check()
    assert os.fstat(fd).st_size == log.LIMIT + 1


def test_zeros_without_an_end_of_line(fd: int) -> None:
    found = Log(fd)
    write(fd, "\0", log.LIMIT + 1)
    check_now(found)
    write(fd, "\nKernel panic\n")
    assert found.lines()[-1] == "Kernel panic"


def test_news_are_told_once_and_lines_whole(fd: int) -> None:
    found = Log(fd)
    assert found.news() == b""
    write(fd, "reboot: Sys")
    assert found.news() == b"reboot: Sys"
    assert found.news() == b""
    write(fd, "tem halted\n")
    assert b"reboot: System halted\n" in found.news()
    write(fd, "x", 1 << 20)
    assert len(found.news()) == 64 << 10
    os.ftruncate(fd, 3)
    assert found.news() == b"reb"
