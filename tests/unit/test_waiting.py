"""A wait ends when the vimto that started it does, whatever is done meanwhile."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from vimto.vm.signals import SignalPipe
from vimto.vm.waiting import Abandoned, Waiting


@pytest.fixture
def parent() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that holds the other end of its stdout, until it is killed."""
    script = "import sys; sys.stdin.read()"
    words = [sys.executable, "-c", script]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_work_without_a_place_to_look_is_abandoned(parent: "subprocess.Popen[bytes]") -> None:
    assert parent.stdout
    # As the shim does: a description of our own.
    lifeline = os.open(f"/proc/self/fd/{parent.stdout.fileno()}", os.O_RDONLY | os.O_NONBLOCK)
    flags = os.get_blocking(lifeline)
    with SignalPipe() as signals:
        waiting = Waiting(signals, lifeline)
        with waiting.raising():
            time.sleep(0.01)
        with pytest.raises(Abandoned, match="is gone"), waiting.raising():
            parent.kill()
            time.sleep(600)
        parent.wait()
        with pytest.raises(Abandoned), waiting.raising():
            raise AssertionError("it had gone before")
        with pytest.raises(Abandoned):
            waiting.pause(600)
    assert os.get_blocking(lifeline) == flags
    os.close(lifeline)


def test_without_a_lifeline_nobody_is_waited_for() -> None:
    with SignalPipe() as signals, Waiting(signals, -1).raising():
        pass
