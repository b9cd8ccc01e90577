"""QEMU's monitor, as much of it as saving and restoring a machine needs.

The monitor is one end of a socket pair made before QEMU starts, so there is nothing to poll for.
QEMU answers commands in their order, once each; what it says in between are events.
"""

import _socket
import json
import os
import select
import struct
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from vimto import console
from vimto.errors import QemuError, QemuSilentError
from vimto.qemu.devices import PORT

# What a refusal means: nothing; what the one who waits for it says; that the state is not loaded;
# or the same, if all tries are refused.
_NOTHING, _ANSWERED, _NEEDED, _TRY = range(4)
# How a QEMU that answers at all takes an open file as the state of a machine, the best way first:
# how the file is handed over, and its name then. Those from 8.2 on know `file:`. Older ones know
# `fd:`, which 11 refuses for a file ("migration to a file is not supported. Use file: instead").
_WAYS: Sequence[tuple[dict[str, Any], str]] = (
    ({"execute": "add-fd", "arguments": {"fdset-id": 0}}, "file:/dev/fdset/0"),
    ({"execute": "getfd", "arguments": {"fdname": "state"}}, "fd:state"),
)
_NO_REASON = "it gives no reason"


class _Asked(NamedTuple):
    """A command whose reply has not come, and what its refusal would mean."""

    name: str
    meaning: int


class Monitor:
    """A QMP connection on the descriptor `fd`, which stays its owner's.

    `shutdown` is why QEMU ends, in its own word, once it has said so; with `port_closed` nobody in
    the guest has its port open any more, which somebody had. Both are as of the last event read.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._buffer = b""
        self._asked: list[_Asked] = []
        self._refusals: list[str] = []
        self._loading = False
        self._migration = ""
        self._open = False
        self.shutdown = ""
        self.port_closed = False

    def open(self) -> None:
        """Let QEMU send events. Idempotent, and done by whatever sends a command."""
        if not self._open:
            self._open = True
            self._send({"execute": "qmp_capabilities"})

    def send(self, command: str) -> None:
        """Send a command without arguments, and do not wait for its reply.

        A QEMU that has ended is not an error here: whoever reads its port or an event learns of it.
        """
        self.open()
        self._send({"execute": command})

    def load(self, state: int) -> None:
        """Let QEMU go on as the machine whose devices are in the open file `state`.

        All commands are sent at once, each way that some QEMU knows among them: the first that it
        takes counts, and then it refuses the others. `read_events` raises where it takes none.
        QEMU reads on from the file's offset, which it shares with us: it is put back to 0.
        """
        os.lseek(state, 0, os.SEEK_SET)
        self.open()
        self._send(_capabilities("x-ignore-shared"), _NEEDED)
        for hand_over, uri in _WAYS:
            self._send_file(state, hand_over)
            self._send({"execute": "migrate-incoming", "arguments": {"uri": uri}}, _TRY)

    def wait_loaded(self, limit: float) -> None:
        """Wait until the state is loaded; raises `QemuError` as `save` does.

        For whoever has no guest that would answer.
        """
        deadline = time.monotonic() + limit
        while self._ask({"execute": "query-status"}, deadline).data.get("status") == "inmigrate":
            time.sleep(0.01)

    def save(self, state: int, limit: float) -> None:
        """Write the machine's devices into the open file `state`; its RAM is in a file already.

        Raises `QemuError`, with QEMU's own reason, when QEMU refuses or fails, takes over `limit`
        seconds, or ends.
        """
        deadline = time.monotonic() + limit
        self.open()
        reason = self._ask(_capabilities("x-ignore-shared", "events"), deadline).refusal
        if reason:
            raise QemuError(f"QEMU cannot leave RAM out of a snapshot: {reason}")
        reasons = []
        for hand_over, uri in _WAYS:
            self._send_file(state, hand_over)
            command = {"execute": "migrate", "arguments": {"uri": uri}}
            if not (reason := self._ask(command, deadline).refusal):
                return self._wait_saved(deadline)
            reasons.append(reason)
        raise QemuError(f"QEMU refused to save the machine: {_join(reasons)}")

    def read_events(self) -> list[str]:
        """Return the names of the events that have come, as far as they are whole; never waits.

        At the connection's end the last name is empty. Raises `QemuError`, with QEMU's own reason,
        when it refused to load a state.
        """
        events: list[str] = []
        while select.select([self.fd], [], [], 0)[0]:
            open_still = self._receive()
            while b"\n" in self._buffer:
                events.append(self._take_message().event)
            if not open_still:
                return [*filter(None, events), ""]
        return [*filter(None, events)]

    # -- what comes

    def _ask(self, command: dict[str, Any], deadline: float) -> "_Message":
        self._send(command, _ANSWERED)
        while self._asked:
            message = self._wait_message(deadline)
        return message

    def _wait_saved(self, deadline: float) -> None:
        while self._migration not in ("completed", "failed"):
            self._wait_message(deadline)
        if self._migration == "failed":
            answer = self._ask({"execute": "query-migrate"}, deadline).data
            reason = answer.get("error-desc", _NO_REASON)
            raise QemuError(f"QEMU failed to save the machine: {reason}")

    def _wait_message(self, deadline: float) -> "_Message":
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                raise QemuSilentError("QEMU's monitor did not answer in time")
            if not self._receive():
                raise QemuSilentError("QEMU ended before its monitor answered")
        return self._take_message()

    def _receive(self) -> bool:
        """Read once; say whether the connection is still open."""
        try:
            data = os.read(self.fd, 65536)
        except ConnectionResetError:
            data = b""
        self._buffer += data
        return bool(data)

    def _take_message(self) -> "_Message":
        """Take a line from the buffer, and see to it if it is the reply to a command."""
        line, _, self._buffer = self._buffer.partition(b"\n")
        value = json.loads(line)
        if "event" in value:
            self._hear(value["event"], value.get("data", {}))
            return _Message(event=value["event"])
        if "QMP" in value or not self._asked:
            return _Message()
        asked = self._asked.pop(0)
        if "error" in value:
            refusal = str(value["error"].get("desc", _NO_REASON))
            self._refuse(asked, refusal)
            return _Message(refusal=refusal)
        self._loading = self._loading or asked.meaning == _TRY
        data = value.get("return")
        return _Message(data=data if isinstance(data, dict) else {})

    def _hear(self, event: str, data: dict[str, Any]) -> None:
        if event == "MIGRATION":
            self._migration = data["status"]  # which may come before the reply
        elif event == "SHUTDOWN":
            self.shutdown = str(data.get("reason", ""))
        elif event == "VSERPORT_CHANGE" and data.get("id") == PORT:  # a user may have others
            self.port_closed = not data["open"]

    def _refuse(self, asked: _Asked, reason: str) -> None:
        if asked.meaning == _NOTHING:
            console.debug(f"QEMU refused `{asked.name}`: {reason}")
        elif asked.meaning != _ANSWERED and not self._loading:
            self._refusals.append(reason)
            if asked.meaning == _NEEDED or all(other.meaning != _TRY for other in self._asked):
                raise QemuError(f"QEMU refused the snapshot: {_join(self._refusals)}")

    # -- what is sent

    def _send(self, command: dict[str, Any], meaning: int = _NOTHING) -> None:
        self._asked.append(_Asked(command["execute"], meaning))
        self._write(json.dumps(command).encode() + b"\n")

    def _send_file(self, fd: int, command: dict[str, Any]) -> None:
        """Send a command with the open file `fd`."""
        self._asked.append(_Asked(command["execute"], _NOTHING))
        data = json.dumps(command).encode() + b"\n"
        connection = _socket.socket(fileno=self.fd)
        try:
            rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", fd))
            data = data[connection.sendmsg([data], [rights]) :]
        except (BrokenPipeError, ConnectionResetError):
            return
        finally:
            connection.detach()
        self._write(data)

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self.fd, data) :]
        except (BrokenPipeError, ConnectionResetError):
            pass


class _Message(NamedTuple):
    """The name of an event, or a reply: QEMU's reason to refuse, or what it returned."""

    event: str = ""
    refusal: str = ""
    data: dict[str, Any] = {}  # noqa: RUF012 (nobody writes into it)


def _join(reasons: list[str]) -> str:
    return "; ".join(dict.fromkeys(reasons))


def _capabilities(*names: str) -> dict[str, Any]:
    capabilities = [{"capability": name, "state": True} for name in names]
    return {"execute": "migrate-set-capabilities", "arguments": {"capabilities": capabilities}}
