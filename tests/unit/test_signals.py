"""Signals that come while no machine runs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import is_running
from vimto.vm import snapshot
from vimto.vm.signals import Interrupted, SignalPipe
from vimto.vm.waiting import Waiting

# A stand-in for a download: something to clean up, and a helper that must not outlive us.
PROGRAM = """
import sys, vimto.cli, vimto.process.proc
from vimto.vm.signals import end_by_exception

def dispatch(argv):
    try:
        vimto.process.proc.run(["sh", "-c", "echo $$ >&3; exec sleep 1000 3>&-"])
    finally:
        print("cleaned", flush=True)  # the end is os._exit
    return 0

vimto.cli._dispatch = dispatch
vimto.process.proc.mortal = lambda argv, plain=vimto.process.proc.mortal: plain(
    ["sh", "-c", 'exec "$@" 3>"$0"', sys.argv[1], *argv])
vimto.cli.main()
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGQUIT"])
def test_a_signal_outside_of_a_machine_ends_cleanly(name: str, tmp_path: Path) -> None:

    pid_file = tmp_path / "pid"
    os.mkfifo(pid_file)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(pid_file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    child = int(pid_file.read_text())
    process.send_signal(signal.Signals[name])
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (128 + signal.Signals[name], b"cleaned\n"), stderr
    assert f"interrupted by {name}" in stderr.decode()
    deadline = time.monotonic() + 30
    while is_running(child):
        assert time.monotonic() < deadline, "the helper outlives us"
        time.sleep(0.01)


def test_work_without_a_place_to_look_is_interrupted() -> None:
    with SignalPipe() as signals:
        with signals.raising():
            os.kill(os.getpid(), signal.SIGUSR1)  # the command's, if there is one
        with pytest.raises(Interrupted) as caught, signals.raising():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1000)
        assert caught.value.status == 143
        signals.read()
        os.kill(os.getpid(), signal.SIGHUP)  # between two such works
        with pytest.raises(Interrupted), signals.raising():
            time.sleep(1000)
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.read() == [signal.SIGINT]


def test_a_snapshot_that_is_being_looked_for_or_made_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def look(*_place: object, **_how: object) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1000)
        return False

    monkeypatch.setattr(snapshot, "are_off", look)
    place: Any = SimpleNamespace(snapshots="snapshots", key="key")
    with SignalPipe() as signals, pytest.raises(Interrupted):
        waiting = Waiting(signals, -1)
        snapshot.acquire_snapshot(place, place, waiting)
