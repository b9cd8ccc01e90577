"""A test that runs too long is asked to end, killed, and given up with its machine."""

import errno
import signal
import time
from collections.abc import Iterator

import pytest

from tests.unit.test_conversation import EXIT, Guest, Talk, start
from tests.unit.test_conversation import LIMITS as TALK_LIMITS
from vimto.errors import LostMachineError, StreamError
from vimto.plan.plan import GoTimeout
from vimto.vm import overtime, protocol, run
from vimto.vm.observer import State
from vimto.vm.overtime import Overtime
from vimto.vm.protocol import Kind
from vimto.vm.signals import SignalPipe

LIMITS = GoTimeout(value="1s", places=1, total="1m1s", kill=0.05, grace=0.05)


@pytest.fixture
def talk() -> Iterator[Talk]:
    with SignalPipe() as pipe:
        yield Talk(pipe, TALK_LIMITS, Overtime(LIMITS))


def ended_by(number: int) -> bytes:
    return protocol.encode_json(Kind.EXIT, protocol.Exit(128 + number, number)._asdict())


def report(talk: Talk, result: protocol.Exit, capfd: pytest.CaptureFixture[str]) -> str:
    for observer in talk.conversation.observers:
        observer.finish(result)
    return capfd.readouterr().out


def test_a_test_that_heeds_the_first_signal(talk: Talk, capfd: pytest.CaptureFixture[str]) -> None:
    def part(guest: Guest) -> None:
        start(guest)
        assert guest.expect(Kind.SIGNAL) == b"\3"
        guest.end.sendall(EXIT)

    result = talk.play(part)
    assert result.status == 3
    assert report(talk, result, capfd) == "*** Test killed with quit: ran too long (1m1s).\n"


def test_what_comes_after_the_test_is_not_ended(
    talk: Talk, capfd: pytest.CaptureFixture[str]
) -> None:
    notice = protocol.encode_json(Kind.NOTICE, {"level": "stage", "text": "teardown"})

    def part(guest: Guest) -> None:
        start(guest)
        guest.end.sendall(notice)
        time.sleep(0.3)
        guest.end.sendall(EXIT)

    result = talk.play(part)
    assert report(talk, result, capfd) == ""


def test_a_long_end_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(run.console, "note", told.append)
    monkeypatch.setattr(run, "_ENDING_SAID_AFTER", 0.0)
    ending = run._Ending()
    ending.check()
    assert not told
    ending.noticed(protocol.Notice("stage", "teardown"))
    ending.check()
    ending.check()
    assert told == ["the command has ended; waiting: a `teardown` command is still running"]
    ending.noticed(protocol.Notice("stage", "flush"))
    ending.ended()
    ending.check()
    assert len(told) == 1 and {*run._ENDINGS} == {*protocol.STAGES}


def test_what_cannot_be_said_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_fd: int, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(overtime, "write_all", refuse)
    observer = overtime.Overtime(LIMITS)
    observer._sent = [signal.SIGQUIT]
    with pytest.raises(StreamError):
        observer.finish(protocol.Exit(status=2))


def test_a_test_that_must_be_killed(talk: Talk, capfd: pytest.CaptureFixture[str]) -> None:
    def part(guest: Guest) -> None:
        start(guest)
        assert guest.expect(Kind.SIGNAL) == b"\3"
        assert guest.expect(Kind.SIGNAL) == b"\x09"
        guest.end.sendall(ended_by(9))

    said = report(talk, talk.play(part), capfd)
    assert said == "*** Test killed with quit: ran too long (1m1s).\nsignal: killed\n"


def test_a_guest_that_does_not_report_the_end(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overtime, "_LOST_AFTER", 0.05)

    def part(guest: Guest) -> None:
        start(guest)
        guest.expect(Kind.SIGNAL)
        guest.expect(Kind.SIGNAL)
        assert guest.end.recv(1) == b""

    with pytest.raises(LostMachineError, match=r"ran too long \(1m1s\)"):
        talk.play(part)


def test_a_test_in_time_is_let_alone(capfd: pytest.CaptureFixture[str]) -> None:
    with SignalPipe() as pipe:
        talk = Talk(pipe, TALK_LIMITS, Overtime(LIMITS._replace(kill=1000.0)))

        def part(guest: Guest) -> None:
            start(guest)
            guest.end.sendall(EXIT)

        assert report(talk, talk.play(part), capfd) == ""


def test_after_the_end_nothing_is_due(talk: Talk) -> None:
    """A reader that is slow to take the output would else be waited for at full speed."""
    (late,) = talk.conversation.observers
    late.started()
    talk.conversation._enter(State.RUNNING)
    assert talk.conversation._poll_limit() is not None
    talk.conversation._enter(State.EXITED)
    late.ended()
    assert talk.conversation._poll_limit() is None
    talk.here.close()
    talk.guest.end.close()


def test_the_binary_is_told_in_go_s_place_alone() -> None:
    none = "-test.timeout=0s"
    words = [none, "-test.v", none, "x", none]
    assert LIMITS._replace(places=2).told(words) == [
        "-test.timeout=1s",
        "-test.v",
        "-test.timeout=1s",
        "x",
        none,
    ]
