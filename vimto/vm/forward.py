"""Connections from the host into the guest: listeners here, channels of the wire, dialled there.

    accept ──open──> DIALLED ──opened──> OPEN ──close (either side, then the other)──> gone
                        └── opened with an error, reset ──────────────────────────────> gone

Each direction of a channel has its own window, so that a connection whose end does not read holds
up no other, nor the command's own streams.
"""

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import NamedTuple

from vimto import console
from vimto.addresses import Address
from vimto.errors import LostMachineError, VimtoError
from vimto.vm import protocol
from vimto.vm.listeners import Listener, listen
from vimto.vm.observer import Line, Observer, State
from vimto.vm.protocol import Kind

_CHUNK = 64 << 10
_MOST_CHANNELS = 256
# Between attempts to reach a server in the guest that does not listen yet.
_RETRY = 0.1
# How long none of our clients may take any of the data that is left once the command has ended.
_FLUSH_LIMIT = 5.0
# The client has gone, and wants no more.
_GONE = (errno.EPIPE, errno.ECONNRESET)
_DIAL_LIMIT = 10.0
# In the machine every port is free; this one stands for that of a socket with a path.
_ANY_PORT = 2345
# A client meets the guest's reset as one: close(2) with this sends RST (socket(7)).
_ABORT = struct.pack("ii", 1, 0)


class Forward(NamedTuple):
    """Connections to `source` on the host go to `target` in the guest.

    For `patience` seconds after a client came, a target that refuses is tried again. With
    `private` only our own user's processes may connect over the loopback interface. With `dials`
    there is one connection, and we make it: `source` is where somebody waits for it.
    """

    source: Address
    target: Address
    patience: float = 0.0
    private: bool = False
    dials: bool = False


class Forwarding(Observer):
    """All forwarded connections of one run; a context manager that owns their sockets.

    Inside it `forwards` have the ports that were free.

    Everything is made before the machine starts: a port that is taken ends vimto at once.
    """

    def __init__(self, forwards: Sequence[Forward]) -> None:
        self.forwards = list(forwards)
        self._listeners: dict[int, tuple[Listener, Forward]] = {}
        self._waiting: list[tuple[socket.socket, Forward]] = []
        self._by_fd: dict[int, _Channel] = {}
        self._by_number: dict[int, _Channel] = {}
        self._next = 1
        self._flush_until = 0.0
        self._lost: dict[Address, int] = {}
        self._said: set[tuple[str, str]] = set()
        self._line: Line

    def __enter__(self) -> "Forwarding":
        try:
            for index, forward in enumerate(self.forwards):
                if forward.dials:
                    self._waiting.append((_dial(forward.source), forward))
                else:
                    self.forwards[index] = self._start(forward)
        except BaseException:
            self.close()
            raise
        return self

    def _start(self, forward: Forward) -> Forward:
        """Listen, and return `forward` with the ports that it got."""
        listener = listen(forward.source)
        source = listener.address
        target = forward.target
        told = console.debug if forward.source == source else console.note
        if not target.path and not target.port:
            # It is to have the port that is free here, and its server will say so itself.
            target = Address(host=target.host, port=source.port or _ANY_PORT)
            told = console.note if source.path else console.debug
        told(f"connections to {source} go to {target} in the machine")
        forward = forward._replace(source=source, target=target)
        self._listeners[listener.socket.fileno()] = listener, forward
        return forward

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all sockets and remove those that have a path. Idempotent."""
        for listener, _ in self._listeners.values():
            listener.close()
        for connection, _ in self._waiting:
            connection.close()
        for channel in self._by_fd.values():
            channel.connection.close()
        self._listeners, self._waiting, self._by_fd, self._by_number = {}, [], {}, {}

    # -- its part in the conversation

    def join(self, line: Line) -> None:
        self._line = line

    def interests(self) -> list[tuple[int, int]]:
        # Clients are accepted only while the command runs.
        wanted = [(fd, channel.events) for fd, channel in self._by_fd.items() if channel.events]
        if self._line.state == State.RUNNING:
            for connection, forward in self._waiting:
                self._add(connection, forward)
            self._waiting = []
            if len(self._by_fd) < _MOST_CHANNELS:
                wanted += [(fd, select.POLLIN) for fd in self._listeners]
        return wanted

    @property
    def pending(self) -> bool:
        return any(channel.queue for channel in self._by_fd.values())

    def handle(self, fd: int, events: int) -> None:
        if fd in self._listeners:
            listener, forward = self._listeners[fd]
            return self._accept(listener.socket, forward)
        channel = self._by_fd.get(fd)
        if channel is None:
            return
        if events & select.POLLOUT:
            self._write(channel)
        if events & ~select.POLLOUT and channel.events & select.POLLIN:
            self._read(channel)

    def take_frame(self, kind: Kind, payload: bytes) -> bool:
        if kind in protocol.CHANNEL_KINDS:
            self._take_frame(kind, payload)
            return True
        return False

    def _take_frame(self, kind: Kind, payload: bytes) -> None:
        """Take a frame about a channel; one that is gone may still be spoken of."""
        if kind == Kind.OPENED:
            number, error = protocol.decode_opened(payload)
            channel = self._by_number.get(number)
            if channel:
                self._opened(channel, error)
            return
        if kind == Kind.DATA_ACK:
            number, count = protocol.decode_channel_ack(payload)
        else:
            number, data = protocol.decode_channel(payload)
        channel = self._by_number.get(number)
        if channel is None:
            return
        if kind == Kind.DATA_ACK:
            channel.acknowledge(count)
        elif kind == Kind.RESET:
            reason = data.decode("utf-8", "replace")
            console.debug(f"a connection to {channel.forward.target} was reset: {reason}")
            self._drop(channel, abort=True)
        else:
            channel.put(data, ended=kind == Kind.CLOSE)
            self._write(channel)

    def check(self) -> None:
        # What was refused is dialled again; after the exit clients are waited for only so long.
        now = time.monotonic()
        if self._line.state == State.EXITED:
            self._flush_until = self._flush_until or now + _FLUSH_LIMIT
            if now >= self._flush_until:
                for channel in list(self._by_fd.values()):
                    self._lose(channel)
                    self._drop(channel, abort=True)
            self.wake_at = self._flush_until if self._by_fd else 0.0
            return
        for channel in list(self._by_fd.values()):
            if channel.retry_at and now >= channel.retry_at:
                self._open(channel)
        self.wake_at = min((c.retry_at for c in self._by_fd.values() if c.retry_at), default=0.0)

    def finish(self, result: protocol.Exit) -> None:
        # Bytes that the command sent may be lost with its machine.
        if self._lost:
            source, count = next(iter(self._lost.items()))
            raise VimtoError(
                f"the command had ended, and {count} bytes that it sent were not read at {source}",
                hint=f"a client that takes nothing for {_FLUSH_LIMIT:g} s is not waited for",
            )

    # -- what happens

    def _lose(self, channel: "_Channel") -> None:
        if channel.queue:
            source = channel.forward.source
            self._lost[source] = self._lost.get(source, 0) + len(channel.queue)

    def _tell(self, channel: "_Channel", what: str, reason: str) -> None:
        """Warn of a connection that did not work, once of many that fail alike."""
        text = f"a connection to {channel.forward.target} in the machine {what}: {reason}"
        once = (str(channel.forward.target), reason)
        (console.debug if once in self._said else console.warn)(text)
        self._said.add(once)

    def _accept(self, listener: socket.socket, forward: Forward) -> None:
        try:
            connection, peer = listener.accept()
        except OSError:
            return
        if forward.private and not _is_ours(connection, peer):
            console.warn(f"a process of another user was refused at {forward.source}")
            connection.close()
            return
        self._add(connection, forward)

    def _add(self, connection: socket.socket, forward: Forward) -> None:
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        channel = _Channel(connection, forward)
        self._by_fd[connection.fileno()] = channel
        self._open(channel)

    def _open(self, channel: "_Channel") -> None:
        self._by_number.pop(channel.number, None)
        channel.number, self._next = self._next, self._next + 1
        channel.retry_at = 0.0
        self._by_number[channel.number] = channel
        target = channel.forward.target
        order = {
            "id": channel.number,
            "network": target.network,
            "address": protocol.wire_text(str(target)),
        }
        self._line.send(protocol.encode_json(Kind.OPEN, order))

    def _opened(self, channel: "_Channel", error: str) -> None:
        if not error:
            channel.is_open = True
            return
        now = time.monotonic()
        if now + _RETRY < channel.patient_until:
            channel.retry_at = now + _RETRY
        else:
            self._tell(channel, "failed", error)
            self._drop(channel, abort=True)

    def _read(self, channel: "_Channel") -> None:
        try:
            data = channel.connection.recv(min(channel.credit, _CHUNK))
        except BlockingIOError:
            return
        except OSError as exc:
            self._break(channel, exc.errno or errno.EIO)
            return
        channel.credit -= len(data)
        if data:
            self._line.send(protocol.encode_channel(Kind.DATA, channel.number, data))
            return
        channel.client_ended = True
        self._line.send(protocol.encode_channel(Kind.CLOSE, channel.number))
        self._close_if_done(channel)

    def _write(self, channel: "_Channel") -> None:
        try:
            count = channel.write_some()
        except OSError as exc:
            self._break(channel, exc.errno or errno.EIO)
            return
        if count and self._flush_until:
            self._flush_until = time.monotonic() + _FLUSH_LIMIT
        if count:
            self._line.send(protocol.encode_channel_ack(channel.number, count))
        self._close_if_done(channel)

    def _break(self, channel: "_Channel", number: int) -> None:
        """The client cannot be reached any more: the command meets a reset, as on the host."""
        reason = os.strerror(number)
        if number not in _GONE:
            self._tell(channel, "broke off", reason.lower())
        self._line.send(protocol.encode_channel(Kind.RESET, channel.number, reason.encode()))
        self._drop(channel)

    def _close_if_done(self, channel: "_Channel") -> None:
        if channel.client_ended and channel.guest_ended and not channel.queue:
            self._drop(channel)

    def _drop(self, channel: "_Channel", *, abort: bool = False) -> None:
        self._by_fd.pop(channel.connection.fileno(), None)
        self._by_number.pop(channel.number, None)
        if abort and channel.connection.family != socket.AF_UNIX:
            channel.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        channel.connection.close()


class _Channel:
    """One client's connection and what is under way on it."""

    def __init__(self, connection: socket.socket, forward: Forward) -> None:
        self.connection = connection
        self.forward = forward
        self.number = 0
        self.is_open = False
        self.credit = protocol.CHANNEL_WINDOW
        self.queue = bytearray()
        self.client_ended = False
        self.guest_ended = False
        self.patient_until = time.monotonic() + forward.patience
        self.retry_at = 0.0

    @property
    def events(self) -> int:
        """What poll(2) is to wait for."""
        reading = self.is_open and self.credit > 0 and not self.client_ended
        return (select.POLLIN if reading else 0) | (select.POLLOUT if self.queue else 0)

    def acknowledge(self, count: int) -> None:
        """Take credit back; raises `LostMachineError` for bytes that were never sent."""
        self.credit += count
        if self.credit > protocol.CHANNEL_WINDOW:
            raise LostMachineError("the guest acknowledged what was never sent")

    def put(self, data: bytes, *, ended: bool) -> None:
        """Queue what the guest sent; raises `LostMachineError` beyond the window."""
        if len(self.queue) + len(data) > protocol.CHANNEL_WINDOW:
            raise LostMachineError("the guest sent more on a connection than its window allows")
        self.queue += data
        self.guest_ended = self.guest_ended or ended

    def write_some(self) -> int:
        """Write what the client takes now and return the number of bytes; pass on the end."""
        count = 0
        try:
            while self.queue:
                written = self.connection.send(self.queue[:_CHUNK])
                del self.queue[:written]
                count += written
        except BlockingIOError:
            return count
        if self.guest_ended:
            try:
                self.connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the client is gone; reading says so
        return count


def _dial(address: Address) -> socket.socket:
    """Return a connection to `address` on the host."""
    try:
        if not address.path:
            return socket.create_connection((address.host, address.port), _DIAL_LIMIT)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(address.path)
        except BaseException:
            connection.close()
            raise
        return connection
    except OSError as exc:
        raise VimtoError(
            f"cannot connect to {address}: {(exc.strerror or str(exc)).lower()}",
            hint="the client that shall be called must be waiting there",
        ) from exc


def _is_ours(connection: socket.socket, peer: object) -> bool:
    """Say whether the client of a loopback connection is a process of our user, or root's.

    Delve's own check (`--only-same-user`) sees the guest's processes only. proc(5) lists the
    sockets of this host with their owners.
    """
    if connection.family == socket.AF_UNIX or not isinstance(peer, tuple):
        return True
    packed = socket.inet_pton(connection.family, peer[0])
    is_local = packed[0] == 127 if len(packed) == 4 else packed == bytes(15) + b"\1"
    if not is_local:
        return True
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    local = "".join(f"{word:08X}" for word in words) + f":{peer[1]:04X}"
    table = "/proc/net/tcp" if connection.family == socket.AF_INET else "/proc/net/tcp6"
    with open(table, encoding="ascii") as file:
        for line in file:
            fields = line.split()
            if len(fields) > 7 and fields[1] == local:
                return int(fields[7]) in (0, os.getuid())
    return False
