"""The host's half of forwarded connections, with this test in the guest's place."""

import errno
import json
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vimto.addresses import Address, parse_pair
from vimto.errors import LostMachineError, VimtoError
from vimto.vm import forward as forwards
from vimto.vm import listeners, protocol
from vimto.vm.forward import Forward, Forwarding
from vimto.vm.observer import State
from vimto.vm.protocol import Kind

HERE = Address(host="127.0.0.1")
THERE = Address(host="127.0.0.1", port=80)
WINDOW = protocol.CHANNEL_WINDOW


class Guest:
    """A conversation that keeps what is sent, and polls for `Forwarding` until something holds."""

    def __init__(self, forwarding: Forwarding) -> None:
        self.frames: list[tuple[int, bytes]] = []
        self.forwarding = forwarding
        self.state = State.RUNNING
        self._sent = protocol.FrameReader()
        forwarding.join(self)  # type: ignore[arg-type]

    def send(self, frame: bytes) -> None:
        self.frames += self._sent.feed(frame)

    def turn(self, milliseconds: int = 20) -> None:
        poller = select.poll()
        for fd, events in self.forwarding.interests():
            poller.register(fd, events)
        for fd, events in poller.poll(milliseconds):
            self.forwarding.handle(fd, events)
        self.forwarding.check()

    def until(self, holds: Callable[[], object]) -> None:
        for _ in range(500):
            if holds():
                return
            self.turn()
        raise AssertionError("it does not come to that")

    def expect(self, kind: int) -> bytes:
        self.until(lambda: self.frames)
        found, payload = self.frames.pop(0)
        assert found == kind
        return payload

    def opened(self, error: str = "") -> int:
        number = int(json.loads(self.expect(Kind.OPEN))["id"])
        answer = json.dumps({"id": number, "error": error}).encode()
        self.forwarding.take_frame(Kind.OPENED, answer)
        return number

    def say(self, kind: int, number: int, data: bytes = b"") -> None:
        self.forwarding.take_frame(kind, protocol.encode_channel(kind, number, data)[5:])


@pytest.fixture
def guest() -> Iterator[Guest]:
    with Forwarding([Forward(HERE, THERE)]) as forwarding:
        yield Guest(forwarding)


def dial(guest: Guest) -> socket.socket:
    source = guest.forwarding.forwards[0].source
    return socket.create_connection((source.host, source.port), 10)


def test_both_ways_and_half_closed(guest: Guest) -> None:
    with dial(guest) as client:
        number = guest.opened()
        client.sendall(b"ping")
        assert guest.expect(Kind.DATA) == struct.pack("<I", number) + b"ping"
        client.shutdown(socket.SHUT_WR)
        assert protocol.decode_channel(guest.expect(Kind.CLOSE)) == (number, b"")
        guest.say(Kind.DATA, number, b"pong")
        assert protocol.decode_channel_ack(guest.expect(Kind.DATA_ACK)) == (number, 4)
        guest.say(Kind.CLOSE, number)
        assert client.recv(10) == b"pong"
        assert client.recv(10) == b""
        assert not guest.forwarding.pending


def test_the_guest_may_end_its_half_first(guest: Guest) -> None:
    with dial(guest) as client:
        client.settimeout(10)
        number = guest.opened()
        guest.say(Kind.DATA, number, b"bye")
        guest.say(Kind.CLOSE, number)
        assert client.recv(10) == b"bye"
        assert client.recv(10) == b""
        assert protocol.decode_channel_ack(guest.expect(Kind.DATA_ACK)) == (number, 3)
        client.sendall(b"more")
        assert guest.expect(Kind.DATA)[4:] == b"more"


def test_the_order_names_the_target(guest: Guest) -> None:
    with dial(guest):
        order = json.loads(guest.expect(Kind.OPEN))
        assert order == {"id": 1, "network": "tcp", "address": "127.0.0.1:80"}


def test_a_window_is_kept(guest: Guest) -> None:
    with dial(guest) as client:
        number = guest.opened()
        client.setblocking(False)
        got = 0
        data = bytes(WINDOW)
        while got < WINDOW:
            try:
                client.send(data)
            except BlockingIOError:
                pass
            guest.turn(1)
            while guest.frames:
                got += len(guest.expect(Kind.DATA)) - 4
        for _ in range(3):
            guest.turn(1)
        assert got == WINDOW
        assert not guest.frames
        guest.forwarding.take_frame(Kind.DATA_ACK, protocol.encode_channel_ack(number, 10)[5:])
        assert len(guest.expect(Kind.DATA)) - 4 == 10


def test_a_guest_beyond_its_window_is_lost(guest: Guest) -> None:
    with dial(guest):
        number = guest.opened()
        with pytest.raises(LostMachineError, match="more on a connection than its window"):
            for _ in range(100):  # the sockets' own buffers take some
                guest.say(Kind.DATA, number, bytes(WINDOW - 4))


def test_a_client_that_does_not_read_holds_up_no_other(guest: Guest) -> None:
    with dial(guest) as lazy, dial(guest) as eager:
        first = guest.opened()
        second = guest.opened()
        for _ in range(40):  # more than the sockets' buffers
            if guest.forwarding.pending:
                break
            guest.say(Kind.DATA, first, bytes(64 << 10))
        guest.frames.clear()
        guest.say(Kind.DATA, second, b"here")
        assert eager.recv(10) == b"here"
        assert lazy.recv(1) == b"\0"


def test_resets_pass_in_both_directions(guest: Guest) -> None:
    with dial(guest) as client:
        guest.say(Kind.RESET, guest.opened(), b"why")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    client = dial(guest)
    number = guest.opened()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert protocol.decode_channel(guest.expect(Kind.RESET))[0] == number
    guest.say(Kind.DATA, number, b"late")  # it crossed our reset


def test_a_refused_target_resets_the_client_and_is_told_once(
    guest: Guest, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        with dial(guest) as client:
            guest.opened("connection refused")
            with pytest.raises(ConnectionResetError):
                client.recv(1)
    said = capfd.readouterr().err.splitlines()[-1:]
    told = "warning: a connection to 127.0.0.1:80 in the machine failed: connection refused"
    assert said == [told]


@pytest.mark.parametrize(("number", "told"), [(errno.ETIMEDOUT, True), (errno.EPIPE, False)])
def test_a_client_that_cannot_be_reached_is_no_reader_that_went_away(
    guest: Guest,
    number: int,
    told: bool,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail(_channel: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(forwards._Channel, "write_some", fail)
    with dial(guest):
        channel = guest.opened()
        guest.say(Kind.DATA, channel, b"x")
        reason = os.strerror(number)
        assert guest.expect(Kind.RESET)[4:] == reason.encode()
    warning = f"a connection to 127.0.0.1:80 in the machine broke off: {reason.lower()}\n"
    assert (warning in capfd.readouterr().err) == told


def test_patience() -> None:
    with Forwarding([Forward(HERE, THERE, patience=60)]) as forwarding:
        guest = Guest(forwarding)
        with dial(guest) as client:
            first = guest.opened("connection refused")
            forwarding.check()
            assert forwarding.wake_at > 0
            second = guest.opened()
            assert second != first
            guest.say(Kind.DATA, second, b"at last")
            assert client.recv(10) == b"at last"


def test_the_rest_is_written_after_the_exit(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    with dial(guest) as client:
        number = guest.opened()
        while not guest.forwarding.pending:
            guest.say(Kind.DATA, number, bytes(64 << 10))
        guest.state = State.EXITED
        guest.forwarding.check()
        assert guest.forwarding.pending
        assert guest.forwarding.wake_at
        assert [events for _, events in guest.forwarding.interests()] == [
            select.POLLIN | select.POLLOUT
        ]
        now = [1e12]
        monkeypatch.setattr(forwards.time, "monotonic", lambda: now[0])
        monkeypatch.setattr(forwards._Channel, "write_some", lambda _channel: 1)
        (fd,) = (fd for fd, _ in guest.forwarding.interests())
        guest.forwarding.handle(fd, select.POLLOUT)
        guest.forwarding.check()
        assert guest.forwarding.pending, "some of it was taken, however late"
        guest.forwarding.finish(protocol.Exit(0))
        now[0] += 6
        guest.forwarding.check()
        assert not guest.forwarding.pending
        with pytest.raises(VimtoError, match=r"the command had ended, and \d+ bytes that it sent"):
            guest.forwarding.finish(protocol.Exit(0))
        client.close()


def test_a_taken_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = Address(host="127.0.0.1", port=other.getsockname()[1])
        with pytest.raises(VimtoError, match="address already in use") as caught:
            Forwarding([Forward(HERE, THERE), Forward(taken, THERE)]).__enter__()
    assert "port 0" in caught.value.hint


def test_a_socket_with_a_path(tmp_path: Path) -> None:
    path = tmp_path / "here.sock"
    with Forwarding([Forward(*parse_pair(f"{path}=/there.sock"))]) as forwarding:
        assert path.stat().st_mode & 0o777 == 0o600
        guest = Guest(forwarding)
        with pytest.raises(VimtoError, match="address already in use"):
            Forwarding([Forward(*parse_pair(f"{path}=80"))]).__enter__()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            order = json.loads(guest.expect(Kind.OPEN))
            assert (order["network"], order["address"]) == ("unix", "/there.sock")
    assert not path.exists()


def test_a_socket_in_a_directory_that_others_write_to(tmp_path: Path) -> None:
    share, outside = tmp_path / "share", tmp_path / "outside"
    share.mkdir()
    outside.mkdir()
    path, victim = share / "here.sock", outside / "here.sock"
    with Forwarding([Forward(*parse_pair(f"{path}=80"))]):
        victim.write_text("a file")
        share.rename(tmp_path / "moved")
        share.symlink_to(outside)
    assert victim.read_text() == "a file"
    assert not (tmp_path / "moved/here.sock").exists()
    with Forwarding([Forward(*parse_pair(f"{tmp_path}/moved/here.sock=80"))]):
        (tmp_path / "moved/here.sock").unlink()
        (tmp_path / "moved/here.sock").write_text("another's")
    assert (tmp_path / "moved/here.sock").read_text() == "another's"


def test_a_link_to_a_stale_socket_is_not_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "left"))
    path = tmp_path / "here.sock"
    path.symlink_to("left")
    with pytest.raises(VimtoError), Forwarding([Forward(*parse_pair(f"{path}=80"))]):
        pass
    assert path.is_symlink() and (tmp_path / "left").exists()


def test_a_socket_that_a_killed_vimto_left(tmp_path: Path) -> None:
    path = tmp_path / "here.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with Forwarding([Forward(*parse_pair(f"{path}=80"))]):
        assert path.exists()
    path.write_text("a file")
    with pytest.raises(VimtoError), Forwarding([Forward(*parse_pair(f"{path}=80"))]):
        pass
    assert path.read_text() == "a file"


def test_a_target_without_a_port_gets_the_free_one() -> None:
    with Forwarding([Forward(HERE, Address(host="127.0.0.1"))]) as forwarding:
        found = forwarding.forwards[0]
        assert found.source.port == found.target.port > 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize("uid", [0, 65534])
def test_other_users_are_refused(
    uid: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(forwards.os, "getuid", lambda: 1000)
    with Forwarding([Forward(HERE, THERE, private=True)]) as forwarding:
        guest = Guest(forwarding)
        client = socket.socket()
        os.fchown(client.fileno(), uid, uid)  # proc(5) shows a socket's owner as its inode has it
        source = forwarding.forwards[0].source
        client.connect((source.host, source.port))
        if uid == 0:
            guest.opened()
        else:
            guest.until(lambda: client in select.select([client], [], [], 0)[0])
            assert client.recv(1) == b""
            assert "another user was refused" in capfd.readouterr().err
        client.close()


def test_one_that_calls() -> None:
    with socket.create_server(("127.0.0.1", 0)) as waiting:
        source = Address(host="127.0.0.1", port=waiting.getsockname()[1])
        with Forwarding([Forward(source, THERE, dials=True)]) as forwarding:
            guest = Guest(forwarding)
            client, _ = waiting.accept()
            guest.turn()
            number = guest.opened()
            guest.say(Kind.DATA, number, b"hello")
            assert client.recv(10) == b"hello"
            client.close()
    with pytest.raises(VimtoError, match="cannot connect to"):
        Forwarding([Forward(source, THERE, dials=True)]).__enter__()


@pytest.mark.parametrize(("kind", "hint"), [("file", "not a socket"), ("socket", "listens there")])
def test_what_is_in_a_socket_s_place_is_told(tmp_path: Path, kind: str, hint: str) -> None:
    path = tmp_path / "place"
    with socket.socket(socket.AF_UNIX) as other:
        if kind == "file":
            path.write_text("mine")
        else:
            other.bind(str(path))
            other.listen()
        with pytest.raises(VimtoError) as caught:
            listeners.listen(Address(path=str(path)))
    assert hint in caught.value.hint and path.exists()
