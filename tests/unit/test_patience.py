"""Time that a machine could not use does not count against it."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from vimto.vm import patience
from vimto.vm.patience import Patience, Threads, lost_time, read_threads


@pytest.mark.parametrize(
    ("before", "after", "elapsed", "lost"),
    [
        # Ran, or had nothing to do, all the time.
        (Threads("SS", {"1": 3.0}), Threads("SR", {"1": 3.0}), 0.5, 0.0),
        # One of its threads waited for a processor, the longest of them counts.
        (Threads("S", {"1": 3.0, "2": 1.0}), Threads("S", {"1": 3.1, "2": 1.4}), 0.5, 0.4),
        # All the time; the clocks of threads run a little ahead of ours.
        (Threads("R", {"1": 3.0}), Threads("R", {"1": 3.6}), 0.5, 0.5),
        # A thread that is new since.
        (Threads("S", {}), Threads("SR", {"7": 0.25}), 0.5, 0.25),
        # Stopped, traced, or waiting for a disk.
        (Threads("S", {"1": 3.0}), Threads("T", {"1": 3.0}), 0.5, 0.5),
        (Threads("S", {"1": 3.0}), Threads("SD", {"1": 3.0}), 0.5, 0.5),
        # We came late ourselves: the host slept, or we did not run either.
        (Threads("S", {"1": 3.0}), Threads("S", {"1": 3.0}), 26.0, 25.0),
        (Threads("S", {"1": 3.0}), Threads("S", {"1": 16.0}), 26.0, 25.5),
        # It has ended, or /proc shows nothing: then all time counts.
        (Threads("S", {"1": 3.0}), Threads("", {}), 0.5, 0.0),
    ],
)
def test_lost_time(before: Threads, after: Threads, elapsed: float, lost: float) -> None:
    assert lost_time(before, after, elapsed) == pytest.approx(lost)


@pytest.fixture
def sleeper() -> Iterator[int]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process.pid
        process.kill()


def test_what_proc_says(sleeper: int) -> None:
    threads = read_threads(sleeper)
    assert len(threads.states) == len(threads.waited) == 1
    os.kill(sleeper, signal.SIGSTOP)
    while "T" not in read_threads(sleeper).states:
        time.sleep(0.001)
    os.kill(sleeper, signal.SIGKILL)
    assert read_threads(1 << 30) == Threads("", {})


def test_a_stopped_process_loses_all_its_time(
    sleeper: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(patience, "_SAID_AFTER", 0.1)
    os.kill(sleeper, signal.SIGSTOP)
    watch = Patience(sleeper)
    assert watch.lost() == 0.0  # it is not time yet
    lost, begun = 0.0, time.monotonic()
    for _ in range(2):
        time.sleep(max(0.0, watch.wake_at - time.monotonic()))
        lost += watch.lost()
    assert lost >= 1.0
    assert lost == pytest.approx(time.monotonic() - begun, abs=0.1)
    said = capfd.readouterr().err
    assert said.count("vimto: waiting: ") == 1
    assert f"(process {sleeper})" in said and "run for 0 s" in said
