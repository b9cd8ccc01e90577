"""How many machines share the host: who holds a lock on the directory, of any process."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from vimto.vm import claims
from vimto.vm.claims import (
    ONE_THREAD,
    THREAD_EACH,
    Claim,
    Turn,
    available_memory,
    obstacle,
    room,
    wait_turn,
)
from vimto.vm.signals import Interrupted

HOST = len(os.sched_getaffinity(0))


@pytest.fixture
def made(tmp_path: Path) -> Iterator[list[Claim]]:
    """As many machines as the host has processors."""
    with ExitStack() as stack:
        yield [stack.enter_context(closing(Claim(str(tmp_path), 1))) for _ in range(HOST)]


def test_a_processor_for_each_of_every_machine(made: list[Claim]) -> None:
    assert made[-1].threads() == THREAD_EACH


def test_one_machine_too_many(made: list[Claim], tmp_path: Path) -> None:
    late = Claim(str(tmp_path), 1)
    assert late.threads() == ONE_THREAD
    made[0].close()
    assert late.threads() == THREAD_EACH
    late.close()
    late.close()


def test_more_processors_than_the_host_has(tmp_path: Path) -> None:
    for processors, threads in ((HOST, THREAD_EACH), (HOST + 1, ONE_THREAD)):
        claim = Claim(str(tmp_path), processors)
        assert claim.threads() == threads
        claim.close()


def test_machines_of_other_processes_count(made: list[Claim], tmp_path: Path) -> None:
    made.pop().close()
    script = (
        "import sys; from vimto.vm.claims import Claim; claim = Claim(sys.argv[1], 1);"
        " print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin and other.stdout
        other.stdout.readline()
        late = Claim(str(tmp_path), 1)
        assert late.threads() == ONE_THREAD
        other.stdin.close()
        other.wait(10)
        assert late.threads() == THREAD_EACH
        late.close()


def test_no_directory_is_no_crowd(tmp_path: Path) -> None:
    claim = Claim(str(tmp_path / "none"), 1)
    assert claim.threads() == THREAD_EACH
    claim.close()


def turns(directory: Path, number: int, stack: ExitStack) -> list[Turn]:
    return [stack.enter_context(closing(Turn(str(directory)))) for _ in range(number)]


def test_turns_come_in_their_order(tmp_path: Path) -> None:
    with ExitStack() as stack:
        first, second, third = turns(tmp_path, 3, stack)
        assert [first.before(), second.before()] == [0, 1]
        second.close()
        assert third.before() == 1
        first.take()
        assert (third.before(), third.starting()) == (0, 1)
        first.close()
        assert (third.before(), third.starting()) == (0, 0)


def test_turns_and_claims_are_not_confused(tmp_path: Path) -> None:
    with closing(Claim(str(tmp_path), HOST)) as claim, closing(Turn(str(tmp_path))) as turn:
        assert claim.threads() == THREAD_EACH
        assert (turn.before(), turn.starting(), turn.running()) == (0, 0, HOST)


def test_a_turn_ends_with_its_process(tmp_path: Path) -> None:
    script = (
        "import sys; from vimto.vm.claims import Turn; turn = Turn(sys.argv[1]);"
        " print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        with closing(Turn(str(tmp_path))) as turn:
            assert turn.before() == 1
            other.kill()
            other.wait(10)
            assert turn.before() == 0


@pytest.mark.parametrize(
    ("ahead", "running", "available", "reason"),
    [
        (0, 0, 0, ""),  # alone: QEMU shall say itself what there is too little of
        (0, 2, 1200, ""),
        (0, 2, 1000, "1000 MiB of memory are free, and 1124 MiB may be needed"),
        (HOST - 1, 2, 1 << 20, ""),
        (HOST - 1, 2, 1124 * HOST - 1, "MiB may be needed"),
        (HOST, 0, 1 << 20, "other machines start first"),
    ],
)
def test_what_keeps_a_machine_from_starting(
    ahead: int, running: int, available: int, reason: str
) -> None:
    found = obstacle(ahead, running, 1024, lambda: available)
    assert reason in found and bool(found) == bool(reason)


@pytest.mark.parametrize(
    ("available", "fit"), [(0, 1), (1123, 1), (1124, 1), (2247, 1), (2248, 2), (5620, 5)]
)
def test_how_many_fit_is_by_the_same_rule(available: int, fit: int) -> None:
    assert room(1024, available) == fit
    # Those that start before the next one may take all of their memory, too.
    assert not obstacle(min(fit, HOST) - 1, 1, 1024, lambda: max(available, 1124))
    if fit < HOST:
        assert obstacle(fit, 1, 1024, lambda: available)


def test_the_memory_that_there_is() -> None:
    assert 0 < available_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20


def test_a_wait_ends_when_the_turn_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(claims, "_SAID_AFTER", 0.0)
    waits = []
    with ExitStack() as stack:
        others = turns(tmp_path, HOST, stack)
        others[0].take()

        def pause(limit: float) -> None:
            waits.append(limit)
            if len(waits) == 3:
                others[0].close()

        turn = stack.enter_context(closing(wait_turn(str(tmp_path), 128, pause)))
        assert others[1].starting() == 1
        turn.close()
        assert others[1].starting() == 0
    assert len(waits) == 3
    assert capfd.readouterr().err == "vimto: waiting: other machines start first\n"


def test_a_wait_that_is_interrupted_leaves_the_queue(tmp_path: Path) -> None:
    def pause(limit: float) -> None:
        raise Interrupted(2)

    with ExitStack() as stack:
        turns(tmp_path, HOST, stack)
        with pytest.raises(Interrupted):
            wait_turn(str(tmp_path), 128, pause)
        last = stack.enter_context(closing(Turn(str(tmp_path))))
        assert last.before() == HOST


def test_under_go_a_wait_has_a_limit(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with ExitStack() as stack:
        turns(tmp_path, HOST, stack)
        waits: list[float] = []
        stack.enter_context(closing(wait_turn(str(tmp_path), 128, waits.append, limit=0.0)))
    assert waits == []
    assert "no longer waiting, for go's own timer has started" in capfd.readouterr().err


def test_memory_that_never_comes_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(claims, "available_memory", lambda: 100)
    monkeypatch.setattr(claims, "_MEMORY_PATIENCE", 0.0)
    waits: list[float] = []
    with closing(Claim(str(tmp_path), 1)):
        wait_turn(str(tmp_path), 128, waits.append).close()
    assert len(waits) == 1
    assert "no longer waiting: 100 MiB of memory are free" in capfd.readouterr().err


def count_waits(snapshots: Path) -> int:
    """Wait for a turn, and return how often it was looked for."""
    waits: list[float] = []
    wait_turn(str(snapshots), 128, waits.append).close()
    return len(waits)


def test_one_that_was_stopped_while_it_started_holds_up_nobody_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        for turn in turns(tmp_path, HOST, stack):
            turn.take()
        monkeypatch.setattr(claims, "_START_PATIENCE", 0.05)
        assert count_waits(tmp_path) > 0
        assert count_waits(tmp_path) == 0


def test_nor_does_one_that_was_stopped_before_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "_PLACE_PATIENCE", 0.01)
    with ExitStack() as stack:
        turns(tmp_path, HOST + 3, stack)
        assert count_waits(tmp_path) > 0


def test_whoever_waits_for_memory_is_not_overtaken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of a crowd would start together once that has taken a while."""
    monkeypatch.setattr(claims, "_PLACE_PATIENCE", 1e-6)
    monkeypatch.setattr(claims, "_MEMORY_PATIENCE", 1e-6)
    monkeypatch.setattr(claims, "available_memory", lambda: 100)
    waits = []

    def pause(limit: float) -> None:
        waits.append(limit)
        if len(waits) == 20:
            raise Interrupted(2)

    with ExitStack() as stack:
        stack.enter_context(closing(Claim(str(tmp_path), 1)))
        turns(tmp_path, HOST, stack)
        with pytest.raises(Interrupted):
            wait_turn(str(tmp_path), 128, pause)
