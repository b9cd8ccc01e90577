"""A machine that its command has ended, or halted, or given to another kernel."""

from types import SimpleNamespace
from typing import Any

import pytest

from vimto.errors import LostMachineError
from vimto.vm import fate
from vimto.vm.fate import HaltWatch, MonitorWatch
from vimto.vm.observer import State


class Line:
    """A conversation in which the command runs, and what was sent in it."""

    def __init__(self) -> None:
        self.state = State.RUNNING
        self.sent: list[int] = []

    def pass_on(self, number: int) -> None:
        self.sent.append(number)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in a list."""
    clock = [100.0]
    monkeypatch.setattr(fate, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    return clock


def watched(news: list[bytes]) -> tuple[HaltWatch, Line]:
    machine: Any = SimpleNamespace(log=SimpleNamespace(news=lambda: news.pop(0) if news else b""))
    watch, line = HaltWatch(machine), Line()
    watch.join(line)  # type: ignore[arg-type]
    watch.started()
    return watch, line


def test_a_halted_machine_does_not_answer(now: list[float]) -> None:
    watch, line = watched([b"x", b"[   9.1] reboot: System halted\n"])
    for _ in range(3):
        now[0] = watch.wake_at
        watch.check()
    assert line.sent == [0]
    with pytest.raises(LostMachineError, match="does not answer any more"):
        for _ in range(10):
            now[0] = watch.wake_at
            watch.check()


def test_whoever_only_says_so_goes_on(now: list[float]) -> None:
    watch, line = watched([b"reboot: System halted"])
    for _ in range(20):
        now[0] = watch.wake_at
        watch.check()
        watch.answered()
    assert line.sent == [0]
    watch.ended()
    assert not watch.wake_at


@pytest.mark.parametrize("state", [State.RUNNING, State.EXITED])
def test_a_port_that_is_closed_is_given_a_moment(now: list[float], state: State) -> None:
    monitor = SimpleNamespace(fd=3, port_closed=False, read_events=lambda: ["VSERPORT_CHANGE"])
    heard: list[str] = []
    machine: Any = SimpleNamespace(monitor=monitor)
    companion: Any = SimpleNamespace(hear=heard.append)
    watch, line = MonitorWatch(machine, companion), Line()
    line.state = state
    watch.join(line)  # type: ignore[arg-type]
    watch.handle(3, 0)
    assert heard == ["VSERPORT_CHANGE"] and not watch.wake_at
    monitor.port_closed = True
    watch.handle(3, 0)
    watch.check()
    assert watch.wake_at == now[0] + fate._CLOSED_LIMIT
    now[0] = watch.wake_at
    if state == State.EXITED:
        watch.check()
    else:
        with pytest.raises(LostMachineError, match="cut off"):
            watch.check()
