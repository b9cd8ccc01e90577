"""The stub's part in the conversation, with this test in QEMU's and the guest's place."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from vimto.gdb import session
from vimto.qemu.monitor import Monitor
from vimto.qemu.options import Flag
from vimto.qemu.render import arguments
from vimto.vm import protocol
from vimto.vm.conversation import Conversation, Limits
from vimto.vm.machine import Machine
from vimto.vm.observer import State
from vimto.vm.protocol import Exit, Kind
from vimto.vm.signals import SignalPipe

STUB = session.private_stub("/a,b")


def test_where_the_stub_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert arguments(STUB.options) == [
        "-chardev",
        "socket,id=gdb,path=/a,,b,server=on,wait=off",
        "-gdb",
        "chardev:gdb",
    ]
    assert not STUB.descriptors
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stub = session.public_stub(listener)
        assert stub.descriptors == [listener.fileno()]
        assert f"fd={listener.fileno()}," in arguments(stub.options)[1]


class Stage:
    """A machine whose monitor and port end here."""

    def __init__(self, signals: SignalPipe) -> None:
        monitor, self.qemu = socket.socketpair()
        port, self.guest = socket.socketpair()
        port.setblocking(False)
        limits = Limits(boot=1, accept=1, prepare=1, run=1)
        self.conversation = Conversation(port.detach(), dict, limits, signals)
        self.machine = cast(Machine, type("Fake", (), {"monitor": Monitor(monitor.detach())})())

    def close(self) -> None:
        os.close(self.machine.monitor.fd)
        os.close(self.conversation._port)
        self.qemu.close()
        self.guest.close()

    def event(self, name: str) -> None:
        self.qemu.sendall(json.dumps({"event": name}).encode() + b"\r\n")


@pytest.fixture
def stage() -> Iterator[Stage]:
    with SignalPipe() as signals:
        found = Stage(signals)
        yield found
        found.close()


def test_the_pause_is_answered_once_gdb_holds_the_machine(stage: Stage) -> None:
    stub = session.Stub(STUB)
    assert stub.pauses and stub.extra == STUB
    stub.meet(stage.machine)
    stub.join(stage.conversation)
    assert json.loads(stage.qemu.recv(1000)) == {"execute": "qmp_capabilities"}
    assert not stub.begun
    stage.conversation.state = State.PAUSED
    stage.event("RESUME")
    stub.read_monitor()
    assert not stub.attached
    stage.event("STOP")
    stage.event("RESUME")
    stage.event("STOP")
    stub.read_monitor()
    assert stub.attached and stub.stopped
    assert stage.guest.recv(100) == protocol.encode(Kind.RESUME), "once"
    stage.qemu.close()
    assert stub.read_monitor(), "the machine is gone"


def test_from_boot_the_clock_stands(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stub = session.Stub(STUB, from_boot=True)
    assert stub.extra.options == [Flag("S"), *STUB.options] and not stub.pauses
    stage.conversation._enter(State.BOOTING)
    stub.meet(stage.machine)
    stub.join(stage.conversation)
    assert stub.begun, "another machine cannot take its place"
    now[0] += 1000
    stage.conversation._check_limits()
    stage.event("RESUME")
    stub.read_monitor()
    stage.conversation._check_limits()
    now[0] += 2
    with pytest.raises(Exception, match="did not boot within 1 s"):
        stage.conversation._check_limits()


def test_time_that_gdb_holds_the_machine_does_not_count(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stub = session.Stub(STUB)
    stub.meet(stage.machine)
    stub.join(stage.conversation)
    stage.conversation._enter(State.RUNNING)
    now[0] += 0.7
    stage.event("STOP")
    stub.read_monitor()
    now[0] += 1000
    stage.conversation._check_limits()
    stage.event("RESUME")
    stub.read_monitor()
    now[0] += 0.2
    stage.conversation._check_limits()
    now[0] += 0.2
    with pytest.raises(Exception, match="still running after 1 s"):
        stage.conversation._check_limits()


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (Exit(0), "the command has ended, status 0: passed"),
        (Exit(3), "the command has ended, status 3"),
        (Exit(137, 9), "the command was ended by signal 9"),
        (Exit(127, error="no such file"), "no such file"),
    ],
)
def test_results_in_words(result: dict[str, Any], words: str) -> None:
    assert session.describe(result) == words


def test_our_streams_are_gdb_s_meanwhile(tmp_path: Path) -> None:
    output = os.open(tmp_path / "output", os.O_RDWR | os.O_CREAT)
    before = [os.fstat(fd).st_ino for fd in (0, 1, 2)]
    with session.diverted(output) as fds:
        assert [os.fstat(fd).st_ino for fd in fds] == before
        os.write(1, b"out\n")
        os.write(2, b"err\n")
        assert os.read(0, 1) == b""
    assert [os.fstat(fd).st_ino for fd in (0, 1, 2)] == before
    assert (tmp_path / "output").read_text() == "out\nerr\n"
    os.close(output)
