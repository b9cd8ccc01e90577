"""QEMU's monitor: every reply is read, and the first way that QEMU takes counts."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from vimto.errors import QemuError
from vimto.qemu.monitor import Monitor

GREETING: dict[str, Any] = {"QMP": {"version": {}, "capabilities": ["oob"]}}
NO_FILE = "unknown migration protocol: file"
NO_FD = "migration to a file is not supported. Use file: instead"
TWICE = "The incoming migration has already been started"

# From what was asked (a command, or the scheme that it names) to QEMU's reason to refuse it.
QEMU_7 = {"file": NO_FILE}
QEMU_11 = {"fd": NO_FD}
NOTHING_GOES = QEMU_7 | QEMU_11


class Qemu:
    """A QEMU that refuses what it is told to; `taken` is what it went on with, `got` its files."""

    def __init__(self, refusals: dict[str, str], *, fails: str = "", early: bool = False) -> None:
        ours, self._socket = socket.socketpair()
        self.monitor = Monitor(ours.detach())
        self.taken: list[str] = []
        self.got: list[int] = []
        self._refusals, self._fails, self._early = refusals, fails, early
        self._statuses = ["inmigrate", "running"]
        self._say(GREETING)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        os.close(self.monitor.fd)
        self._thread.join()
        self._socket.close()
        for fd in self.got:
            os.close(fd)

    def _say(self, *messages: dict[str, Any]) -> None:
        self._socket.sendall(b"".join(json.dumps(item).encode() + b"\r\n" for item in messages))

    def _serve(self) -> None:
        buffer = b""
        with suppress(OSError):  # closed while we had something to say
            while True:
                data, fds, _, _ = socket.recv_fds(self._socket, 4096, 4)
                if not data:
                    return
                self.got += fds
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    self._answer(json.loads(line))

    def _answer(self, command: dict[str, Any]) -> None:
        name = command["execute"]
        uri = command.get("arguments", {}).get("uri", "")
        if name == "query-status":
            return self._say({"return": {"status": self._statuses.pop(0)}})
        reason = self._refusals.get(name) or self._refusals.get(uri.partition(":")[0])
        if name == "migrate-incoming" and self.taken:
            reason = TWICE
        if reason:
            return self._say({"error": {"class": "GenericError", "desc": reason}})
        if name == "query-migrate":
            return self._say({"return": {"status": "failed", "error-desc": self._fails}})
        self.taken += [uri] if uri else []
        ends = ("setup", "failed" if self._fails else "completed")
        events = [{"event": "MIGRATION", "data": {"status": status}} for status in ends]
        events = events if name == "migrate" else []
        reply: list[dict[str, Any]] = [{"return": {}}]
        self._say(*(events + reply if self._early else reply + events))


@pytest.fixture
def start() -> Iterator[Callable[..., Qemu]]:
    started: list[Qemu] = []

    def start(*arguments: Any, **options: Any) -> Qemu:
        started.append(Qemu(*arguments, **options))
        return started[-1]

    yield start
    for qemu in started:
        qemu.close()


@pytest.fixture
def state() -> Iterator[int]:
    fd = os.memfd_create("state")
    yield fd
    os.close(fd)


def read_all(qemu: Qemu) -> None:
    """Read as a conversation does, until nothing is left to be answered."""
    for _ in range(500):
        qemu.monitor.read_events()
        if not qemu.monitor._asked:
            return
        time.sleep(0.01)
    pytest.fail(f"{qemu.monitor._asked} were not answered")


@pytest.mark.parametrize(
    ("refusals", "way"),
    [(QEMU_7, "fd:state"), ({}, "file:/dev/fdset/0"), (QEMU_11, "file:/dev/fdset/0")],
)
def test_a_state_is_loaded_by_the_first_way_that_qemu_takes(
    start: Callable[..., Qemu], state: int, refusals: dict[str, str], way: str
) -> None:
    qemu = start(refusals)
    qemu.monitor.load(state)
    read_all(qemu)
    assert qemu.taken == [way]
    assert [os.path.sameopenfile(fd, state) for fd in qemu.got] == [True, True]


def test_a_state_that_another_qemu_has_read_is_loaded_from_its_beginning(
    start: Callable[..., Qemu], state: int
) -> None:
    os.write(state, b"devices")
    for _ in range(2):
        qemu = start({})
        qemu.monitor.load(state)
        read_all(qemu)
        assert os.read(qemu.got[0], 100) == b"devices"


@pytest.mark.parametrize(
    ("refusals", "reason"),
    [
        (NOTHING_GOES, f"refused the snapshot: {NO_FILE}; {NO_FD}"),
        ({"migrate-set-capabilities": "no such capability"}, "snapshot: no such capability"),
    ],
)
def test_a_qemu_that_takes_no_way_is_quoted(
    start: Callable[..., Qemu], state: int, refusals: dict[str, str], reason: str
) -> None:
    qemu = start(refusals)
    qemu.monitor.load(state)
    with pytest.raises(QemuError, match=reason):
        read_all(qemu)


def test_a_state_is_waited_for(start: Callable[..., Qemu], state: int) -> None:
    qemu = start(QEMU_7)
    qemu.monitor.load(state)
    qemu.monitor.wait_loaded(10)
    assert qemu.taken == ["fd:state"]
    with pytest.raises(QemuError, match=NO_FD):
        qemu = start(NOTHING_GOES)
        qemu.monitor.load(state)
        qemu.monitor.wait_loaded(10)


def test_what_else_qemu_refuses_is_no_reason_to_give_up(
    start: Callable[..., Qemu], state: int
) -> None:
    qemu = start({"stop": "no", "getfd": "it is gone"})
    qemu.monitor.load(state)
    qemu.monitor.send("stop")
    read_all(qemu)
    assert qemu.taken == ["file:/dev/fdset/0"]


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(
    ("refusals", "way"), [(QEMU_7, "fd:state"), (QEMU_11, "file:/dev/fdset/0")]
)
def test_a_machine_is_saved_once(
    start: Callable[..., Qemu], state: int, refusals: dict[str, str], way: str, early: bool
) -> None:
    qemu = start(refusals, early=early)
    qemu.monitor.save(state, 10)
    assert qemu.taken == [way]


@pytest.mark.parametrize(
    ("refusals", "fails", "reason"),
    [
        (NOTHING_GOES, "", f"refused to save the machine: {NO_FILE}; {NO_FD}"),
        ({"migrate-set-capabilities": "no"}, "", "cannot leave RAM out of a snapshot: no"),
        ({}, "No space left on device", "failed to save the machine: No space left"),
    ],
)
def test_why_a_machine_is_not_saved_is_qemu_s_word(
    start: Callable[..., Qemu], state: int, refusals: dict[str, str], fails: str, reason: str
) -> None:
    with pytest.raises(QemuError, match=reason):
        start(refusals, fails=fails).monitor.save(state, 10)


def test_a_qemu_that_says_nothing_or_ends_is_not_waited_for(state: int) -> None:
    ours, qemu = socket.socketpair()
    monitor = Monitor(ours.detach())
    with pytest.raises(QemuError, match="did not answer in time"):
        monitor.save(state, 0.01)
    qemu.close()
    with pytest.raises(QemuError, match="QEMU ended"):
        monitor.save(state, 10)
    assert monitor.read_events() == [""]
    monitor.load(state)  # whoever reads the port learns of it
    os.close(monitor.fd)


def test_events_are_told_apart_from_replies() -> None:
    ours, qemu = socket.socketpair()
    monitor = Monitor(ours.detach())
    monitor.open()
    monitor.open()
    assert qemu.recv(1000).count(b"qmp_capabilities") == 1
    lines = [GREETING, {"return": {}}, {"event": "STOP"}, {"event": "RESUME"}]
    text = b"".join(json.dumps(line).encode() + b"\r\n" for line in lines)
    qemu.sendall(text[:-5])
    assert monitor.read_events() == ["STOP"]
    qemu.sendall(text[-5:])
    qemu.close()
    assert monitor.read_events() == ["RESUME", ""]
    os.close(monitor.fd)


def test_why_qemu_ends_and_who_listens_at_the_port_is_known() -> None:
    qemu = Qemu(QEMU_7)
    try:
        told: list[tuple[str, bool]] = []
        for event, data in (
            ("VSERPORT_CHANGE", {"id": "port", "open": True}),
            ("VSERPORT_CHANGE", {"id": "mine", "open": False}),
            ("VSERPORT_CHANGE", {"id": "port", "open": False}),
            ("SHUTDOWN", {"guest": True, "reason": "guest-reset"}),
        ):
            qemu._say({"event": event, "data": data})
            while event not in qemu.monitor.read_events():
                pass
            told.append((qemu.monitor.shutdown, qemu.monitor.port_closed))
        assert told == [("", False), ("", False), ("", True), ("guest-reset", True)]
    finally:
        qemu.close()
