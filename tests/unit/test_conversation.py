"""The conversation with a guest, with this test in the guest's place."""

import json
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from vimto.errors import BootError, LostMachineError, QemuError
from vimto.vm import conversation, delivery, protocol
from vimto.vm.conversation import Conversation, Limits
from vimto.vm.observer import Line, Observer, State
from vimto.vm.protocol import Kind
from vimto.vm.signals import Interrupted, SignalPipe
from vimto.vm.streams import Input, Output
from vimto.vm.waiting import Abandoned, Lifeline

LIMITS = Limits(boot=20, accept=20, prepare=20, run=0)
READY = protocol.encode_json(
    Kind.READY,
    {
        "protocol": protocol.VERSION,
        "agent": "a",
        "release": "6.1",
        "cpus": 1,
        "boot_ms": 9,
        "filesystems": ["9p"],
    },
)
ACCEPTED = protocol.encode_json(Kind.ACCEPTED, {})
STARTED = protocol.encode_json(Kind.STARTED, {"pid": 1, "mount_ms": 9})
EXIT = protocol.encode_json(Kind.EXIT, protocol.Exit(3)._asdict())


class Guest:
    """The other end of the port, and the frames that came there."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self.reader = protocol.FrameReader()
        self.frames: list[tuple[int, bytes]] = []

    def expect(self, kind: int) -> bytes:
        while not self.frames:
            data = self.end.recv(1 << 20)
            assert data, "the host hung up"
            self.frames += self.reader.feed(data)
        found, payload = self.frames.pop(0)
        assert found == kind
        return payload


class Talk:
    """A conversation and its guest; `play` runs a guest's part beside it."""

    def __init__(self, signals: SignalPipe, limits: Limits = LIMITS, *observers: Observer) -> None:
        here, there = socket.socketpair()
        here.setblocking(False)
        self.here = here
        self.guest = Guest(there)
        self.conversation = Conversation(
            here.fileno(), lambda: {"argv": ["x"]}, limits, signals, observers
        )

    def play(self, part: Callable[[Guest], None]) -> protocol.Exit:
        failure: list[BaseException] = []

        def run() -> None:
            try:
                part(self.guest)
            except BaseException as exc:
                failure.append(exc)
                self.guest.end.close()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            return self.conversation.run()
        finally:
            self.here.close()
            thread.join()
            self.guest.end.close()
            if failure:
                raise failure[0]


class Notices(Observer):
    def __init__(self, found: list[tuple[str, str]]) -> None:
        self.found = found

    def noticed(self, notice: protocol.Notice) -> None:
        self.found.append(notice)


class Watcher(Observer):
    """Calls a function when a descriptor can be read."""

    def __init__(self, fd: int, call: Callable[[], object]) -> None:
        self.fd = fd
        self.call = call

    def interests(self) -> list[tuple[int, int]]:
        return [(self.fd, select.POLLIN)]

    def handle(self, fd: int, events: int) -> None:
        assert (fd, events) == (self.fd, select.POLLIN)
        self.call()


@pytest.fixture
def signals() -> Iterator[SignalPipe]:
    with SignalPipe() as pipe:
        yield pipe


def start(guest: Guest) -> None:
    guest.end.sendall(READY)
    assert json.loads(guest.expect(Kind.RUN)) == {"argv": ["x"]}
    guest.end.sendall(ACCEPTED + protocol.encode(Kind.CLOCK))
    assert len(guest.expect(Kind.CLOCK)) == 8
    guest.end.sendall(STARTED + protocol.encode(Kind.STDERR, b"x"))
    assert guest.expect(Kind.ACK)  # so the host has seen what came before


def test_from_ready_to_exit(signals: SignalPipe) -> None:
    notices: list[tuple[str, str]] = []
    talk = Talk(signals, LIMITS, Notices(notices))

    def part(guest: Guest) -> None:
        start(guest)
        guest.end.sendall(protocol.encode_json(Kind.NOTICE, {"level": "info", "text": "t"}) + EXIT)

    assert talk.play(part) == protocol.Exit(3)
    assert notices == [("info", "t")]


def test_output_is_written_and_acknowledged(signals: SignalPipe) -> None:
    read, write = os.pipe()
    talk = Talk(signals)
    talk.conversation.attach(None, {1: Output(1, write)})

    def part(guest: Guest) -> None:
        start(guest)
        guest.end.sendall(protocol.encode(Kind.STDOUT, b"abc"))
        assert protocol.decode_ack(guest.expect(Kind.ACK)) == (1, 3)
        guest.end.sendall(EXIT)

    talk.play(part)
    assert os.read(read, 10) == b"abc"
    os.close(read)
    os.close(write)


def test_a_reader_that_is_gone_is_reported(signals: SignalPipe) -> None:
    read, write = os.pipe()
    os.close(read)
    talk = Talk(signals)
    talk.conversation.attach(None, {1: Output(1, write)})

    def part(guest: Guest) -> None:
        start(guest)
        guest.end.sendall(protocol.encode(Kind.STDOUT, b"abc"))
        assert protocol.decode_ack(guest.expect(Kind.ACK)) == (1, protocol.READER_GONE)
        guest.end.sendall(EXIT)

    assert talk.play(part).status == 3
    os.close(write)


def test_a_pipe_that_is_never_read_does_not_hold_up_stderr(signals: SignalPipe) -> None:
    full_read, full_write = os.pipe()
    read, write = os.pipe()
    talk = Talk(signals)
    talk.conversation.attach(None, {1: Output(1, full_write), 2: Output(2, write)})

    def part(guest: Guest) -> None:
        start(guest)
        block = protocol.encode(Kind.STDOUT, bytes(protocol.MAX_STREAM))
        guest.end.sendall(block * 4 + protocol.encode(Kind.STDERR, b"err") + EXIT)
        got = b""
        while not got.endswith(b"err"):
            got += os.read(read, 10)
        left = protocol.MAX_STREAM * 4
        while left:  # only now somebody reads
            left -= len(os.read(full_read, 1 << 20))

    talk.play(part)
    for fd in (full_read, full_write, read, write):
        os.close(fd)


def test_stdin_waits_for_credit(signals: SignalPipe) -> None:
    read, write = os.pipe()
    talk = Talk(signals)
    talk.conversation.attach(Input(read), {})
    feeder = threading.Thread(
        target=lambda: (os.write(write, bytes(protocol.STDIN_WINDOW + 5)), os.close(write))
    )

    def part(guest: Guest) -> None:
        start(guest)
        feeder.start()
        got = 0
        while got < protocol.STDIN_WINDOW:
            got += len(guest.expect(Kind.STDIN))
        assert got == protocol.STDIN_WINDOW
        guest.end.setblocking(False)
        with pytest.raises(BlockingIOError):
            guest.end.recv(1)
        guest.end.setblocking(True)
        guest.end.sendall(protocol.encode_ack(0, 100))
        assert len(guest.expect(Kind.STDIN)) == 5
        assert guest.expect(Kind.STDIN) == b""
        guest.end.sendall(EXIT)

    talk.play(part)
    feeder.join()
    os.close(read)


def test_a_signal_is_forwarded(signals: SignalPipe) -> None:
    talk = Talk(signals)

    def part(guest: Guest) -> None:
        start(guest)
        os.kill(os.getpid(), 15)
        assert guest.expect(Kind.SIGNAL) == b"\x0f"
        guest.end.sendall(EXIT)

    talk.play(part)


def test_a_signal_before_the_start_ends_us(signals: SignalPipe) -> None:
    def part(guest: Guest) -> None:
        guest.end.sendall(READY)
        guest.expect(Kind.RUN)
        os.kill(os.getpid(), 2)

    with pytest.raises(Interrupted) as caught:
        Talk(signals).play(part)
    assert caught.value.status == 130


def test_a_command_that_ignores_three_requests_is_ended(signals: SignalPipe) -> None:
    def part(guest: Guest) -> None:
        start(guest)
        for _ in range(2):
            os.kill(os.getpid(), 15)
            assert guest.expect(Kind.SIGNAL) == b"\x0f"
        os.kill(os.getpid(), 15)

    with pytest.raises(Interrupted) as caught:
        Talk(signals).play(part)
    assert caught.value.status == 143


def answer(stuck: str = "") -> bytes:
    return protocol.encode_json(Kind.SIGNALLED, {"signal": 15, "stuck": stuck})


def test_a_guest_that_does_not_acknowledge_a_signal_is_ended(signals: SignalPipe) -> None:
    def part(guest: Guest) -> None:
        start(guest)
        os.kill(os.getpid(), 15)
        assert guest.expect(Kind.SIGNAL) == b"\x0f"

    with pytest.raises(Interrupted, match="does not answer any more") as caught:
        Talk(signals, LIMITS._replace(stop=0.05)).play(part)
    assert caught.value.status == 143


def test_an_unkillable_process_ends_the_machine(signals: SignalPipe) -> None:
    def part(guest: Guest) -> None:
        start(guest)
        os.kill(os.getpid(), 15)
        assert guest.expect(Kind.SIGNAL) == b"\x0f"
        guest.end.sendall(answer("`dd` sleeps"))
        while True:
            try:
                assert guest.expect(Kind.SIGNAL) == b"\0"
                guest.end.sendall(answer("`dd` sleeps"))
            except (AssertionError, OSError):
                return

    with pytest.raises(Interrupted, match="`dd` sleeps"):
        Talk(signals, LIMITS._replace(stop=0.2)).play(part)


def test_no_grace_period_runs_while_a_debugger_holds_the_machine(signals: SignalPipe) -> None:
    read, write = os.pipe()

    def hold() -> None:
        os.read(read, 1)
        talk.conversation.hold_clock()

    talk = Talk(signals, LIMITS._replace(stop=0.05), Watcher(read, hold))

    def part(guest: Guest) -> None:
        start(guest)
        os.write(write, b"x")
        os.kill(os.getpid(), 15)
        assert guest.expect(Kind.SIGNAL) == b"\x0f"
        time.sleep(0.3)
        guest.end.sendall(answer() + EXIT)

    assert talk.play(part).status == 3
    os.close(read)
    os.close(write)


def test_after_a_closed_terminal_the_command_is_killed(
    signals: SignalPipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_terminal = [True]
    monkeypatch.setattr(conversation, "is_on_terminal", lambda: open_terminal[0])
    monkeypatch.setattr(delivery, "_HANG_UP_GRACE", 0.1)

    def part(guest: Guest) -> None:
        start(guest)
        open_terminal[0] = False
        os.kill(os.getpid(), signal.SIGHUP)
        number = -1
        seen = []
        while number != signal.SIGKILL:
            number = guest.expect(Kind.SIGNAL)[0]
            seen.append(number)
            guest.end.sendall(answer())
        assert seen[0] == signal.SIGHUP and set(seen[1:-1]) <= {0}
        guest.end.sendall(protocol.encode_json(Kind.EXIT, protocol.Exit(137, 9)._asdict()))

    with pytest.raises(Interrupted, match="when the terminal was closed") as caught:
        Talk(signals).play(part)
    assert caught.value.status == 129


@pytest.mark.parametrize("started", [False, True])
def test_the_end_of_the_machine_is_no_status(signals: SignalPipe, started: bool) -> None:
    def part(guest: Guest) -> None:
        if started:
            start(guest)
        guest.end.close()

    with pytest.raises(
        LostMachineError if started else BootError, match="the machine ended before"
    ):
        Talk(signals).play(part)


def test_silence_has_a_limit_in_every_state(signals: SignalPipe) -> None:
    quick = Limits(boot=0.05, accept=0.05, prepare=0.05, run=0.05)
    with pytest.raises(BootError, match="did not boot within"):
        Talk(signals, quick).play(lambda _guest: None)
    with pytest.raises(BootError, match="did not answer within"):
        Talk(signals, quick).play(lambda guest: guest.end.sendall(READY))
    with pytest.raises(LostMachineError, match="not prepared within"):
        Talk(signals, quick).play(lambda guest: guest.end.sendall(READY + ACCEPTED))
    with pytest.raises(LostMachineError, match="still running after"):
        Talk(signals, quick).play(lambda guest: guest.end.sendall(READY + ACCEPTED + STARTED))


@pytest.mark.parametrize(
    ("stage", "said"),
    [("teardown", "a `teardown` command was still running"), ("flush", "was still written back")],
)
def test_a_limit_that_ends_what_comes_after_the_command(
    signals: SignalPipe, stage: str, said: str
) -> None:
    notices: list[tuple[str, str]] = []
    talk = Talk(signals, LIMITS._replace(run=0.05), Notices(notices))
    notice = protocol.encode_json(Kind.NOTICE, {"level": "stage", "text": stage})

    with pytest.raises(LostMachineError, match=f"the command had ended, but .*{said} after 0.05 s"):
        talk.play(lambda guest: guest.end.sendall(READY + ACCEPTED + STARTED + notice))
    assert notices == [("stage", stage)]


def test_a_lifeline_that_hangs_up_ends_the_run(signals: SignalPipe) -> None:
    read, write = os.pipe()
    talk = Talk(signals, LIMITS, Lifeline(read))

    def part(guest: Guest) -> None:
        start(guest)
        os.close(write)

    with pytest.raises(Abandoned, match="is gone"):
        talk.play(part)
    os.close(read)


def test_another_protocol_is_refused(signals: SignalPipe) -> None:
    frame = protocol.encode_json(Kind.READY, {"protocol": 99})
    with pytest.raises(BootError, match="version 99"):
        Talk(signals).play(lambda guest: guest.end.sendall(frame))


@pytest.mark.parametrize(
    "data",
    [
        STARTED,
        protocol.encode(Kind.READY, b"[]"),
        protocol.encode(Kind.ACK, b"xx"),
        protocol.encode_json(Kind.SIGNALLED, {"signal": 15, "stuck": ""}),
        b"\xff\xff\xff\xff\x06",
        bytes(4) + b"\x63",
        protocol.encode_json(Kind.NOTICE, {"level": "stage", "text": "x"}),
    ],
)
def test_garbage_loses_the_machine(signals: SignalPipe, data: bytes) -> None:
    with pytest.raises(LostMachineError):
        Talk(signals).play(lambda guest: guest.end.sendall(data))


class Debugger(Observer):
    pauses = True

    def __init__(self) -> None:
        self.seen: list[State] = []
        self.line: Line

    def join(self, line: Line) -> None:
        self.line = line

    def paused(self) -> None:
        self.seen.append(self.line.state)
        self.line.resume()


def test_a_paused_guest_waits_for_whoever_asked(signals: SignalPipe) -> None:
    debugger = Debugger()
    talk = Talk(signals, LIMITS, Observer(), debugger)

    def part(guest: Guest) -> None:
        guest.end.sendall(READY)
        guest.expect(Kind.RUN)
        guest.end.sendall(ACCEPTED + protocol.encode_json(Kind.PAUSED, {}))
        assert guest.expect(Kind.RESUME) == b""
        guest.end.sendall(STARTED + EXIT)

    assert talk.play(part) == protocol.Exit(3)
    assert debugger.seen == [State.PAUSED]


def test_a_pause_that_nobody_asked_for_is_no_part_of_the_protocol(signals: SignalPipe) -> None:
    paused = protocol.encode_json(Kind.PAUSED, {})
    with pytest.raises(LostMachineError, match="unexpected `paused` frame"):
        Talk(signals, LIMITS, Observer()).play(
            lambda guest: guest.end.sendall(READY + ACCEPTED + paused)
        )


def test_an_observer_is_asked_before_the_port(signals: SignalPipe) -> None:
    """QEMU's monitor says why it ends; that it has ended is not a reason."""
    read, write = os.pipe()
    os.write(write, b"x")

    def refuse() -> None:
        raise QemuError("QEMU refused the snapshot")

    talk = Talk(signals, LIMITS, Watcher(read, refuse))
    talk.guest.end.close()
    with pytest.raises(QemuError, match="refused"):
        talk.conversation.run()
    talk.here.close()
    os.close(read)
    os.close(write)


def test_observers_descriptors_are_watched(signals: SignalPipe) -> None:
    read, write = os.pipe()
    seen: list[bytes] = []
    talk = Talk(signals, LIMITS, Watcher(read, lambda: seen.append(os.read(read, 10))))

    def part(guest: Guest) -> None:
        start(guest)
        os.write(write, b"watched")
        os.kill(os.getpid(), signal.SIGUSR1)
        assert guest.expect(Kind.SIGNAL) == bytes((signal.SIGUSR1,))
        while not seen:
            time.sleep(0.001)
        guest.end.sendall(EXIT)

    talk.play(part)
    assert seen == [b"watched"]
    os.close(read)
    os.close(write)
