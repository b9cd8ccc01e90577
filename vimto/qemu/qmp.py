"""QEMU's monitor, as much of it as saving and restoring a machine needs.

The monitor is one end of a socket pair made before QEMU starts, so there is nothing to poll for.
"""

import _socket
import json
import os
import select
import struct
import time
from typing import Any

from vimto.errors import QemuError


class Monitor:
    """A QMP connection on the descriptor `fd`, which it owns."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffer = b""

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def send(self, *commands: dict[str, Any]) -> None:
        """Send commands without waiting for the answers: QEMU runs them in order.

        A QEMU that has ended is no error here: whoever reads its port or an answer learns of it.
        """
        self._write(b"".join(json.dumps(command).encode() + b"\n" for command in commands))

    def send_file(self, fd: int, name: str) -> None:
        """Let QEMU have the open file `fd`, which it then knows as `fd:NAME`."""
        command = json.dumps({"execute": "getfd", "arguments": {"fdname": name}}).encode() + b"\n"
        connection = _socket.socket(fileno=self._fd)
        try:
            rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", fd))
            command = command[connection.sendmsg([command], [rights]) :]
        except (BrokenPipeError, ConnectionResetError):
            return
        finally:
            connection.detach()
        self._write(command)

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except (BrokenPipeError, ConnectionResetError):
            pass

    @property
    def fd(self) -> int:
        """The descriptor, for poll(2): `read_events` has something to read when it does."""
        return self._fd

    def read_events(self) -> list[str]:
        """Return the names of the events that have come, as far as they are whole; never waits.

        QEMU sends them once it got `qmp_capabilities`. Answers are dropped. At the connection's
        end the one name is empty.
        """
        events: list[str] = []
        while select.select([self._fd], [], [], 0)[0]:
            try:
                data = os.read(self._fd, 65536)
            except ConnectionResetError:
                data = b""
            if not data:
                return [*events, ""]
            self._buffer += data
            *lines, self._buffer = self._buffer.split(b"\n")
            events += [str(json.loads(line).get("event", "")) for line in lines]
            events = [name for name in events if name]
        return events

    def wait_migration(self, limit: float) -> None:
        """Wait until the migration that was sent for is complete.

        Needs the capability `events`. Raises `QemuError` when a command was refused, or the
        migration failed or took over `limit` seconds, or QEMU ended.
        """
        deadline = time.monotonic() + limit
        while True:
            message = json.loads(self._read_line(deadline))
            if "error" in message:
                raise QemuError(f"QEMU refused to migrate: {message['error'].get('desc', '')}")
            if message.get("event") == "MIGRATION":
                status = message["data"]["status"]
                if status == "completed":
                    return
                if status == "failed":
                    raise QemuError("QEMU failed to migrate the machine")

    def _read_line(self, deadline: float) -> bytes:
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._fd], [], [], left)[0]:
                raise QemuError("QEMU's monitor did not answer in time")
            try:
                data = os.read(self._fd, 65536)
            except ConnectionResetError:
                data = b""
            if not data:
                raise QemuError("QEMU ended before its monitor answered")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line
