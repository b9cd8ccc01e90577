"""How many machines share the host: who holds a lock on the directory, of any process."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from vimto.vm.crowd import ALONE, CROWDED, Seat

HOST = len(os.sched_getaffinity(0))


@pytest.fixture
def seats(tmp_path: Path) -> Iterator[list[Seat]]:
    """As many machines as the host has processors."""
    with ExitStack() as stack:
        yield [stack.enter_context(closing(Seat(str(tmp_path), 1))) for _ in range(HOST)]


def test_a_processor_for_each_of_every_machine(seats: list[Seat]) -> None:
    assert seats[-1].threads() == ALONE


def test_one_machine_too_many(seats: list[Seat], tmp_path: Path) -> None:
    late = Seat(str(tmp_path), 1)
    assert late.threads() == CROWDED
    seats[0].close()
    assert late.threads() == ALONE
    late.close()
    late.close()


def test_more_processors_than_the_host_has(tmp_path: Path) -> None:
    for processors, threads in ((HOST, ALONE), (HOST + 1, CROWDED)):
        seat = Seat(str(tmp_path), processors)
        assert seat.threads() == threads
        seat.close()


def test_machines_of_other_processes_count(seats: list[Seat], tmp_path: Path) -> None:
    seats.pop().close()
    script = (
        "import sys; from vimto.vm.crowd import Seat; seat = Seat(sys.argv[1], 1);"
        " print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin and other.stdout
        other.stdout.readline()
        late = Seat(str(tmp_path), 1)
        assert late.threads() == CROWDED
        other.stdin.close()
        other.wait(10)
        assert late.threads() == ALONE
        late.close()


def test_no_directory_is_no_crowd(tmp_path: Path) -> None:
    seat = Seat(str(tmp_path / "none"), 1)
    assert seat.threads() == ALONE
    seat.close()
