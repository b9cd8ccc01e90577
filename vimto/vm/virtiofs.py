"""The host's directories for a kernel without 9p: one virtiofsd a mount tag.

Each server gets a listening socket to which QEMU's end is connected already, so nothing waits for
a path to appear and no file is left. A server ends by itself when QEMU closes that connection.
"""

import _socket
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vimto import console
from vimto.process.spawn import spawn
from vimto.quoting import show

# The holes in a server's command line (`qemu.virtiofsd`).
_SOCKET = "\0socket\0"
_PATH = "\0path\0"
_OPTION = "\0option\0"  # the path as the value of one of libfuse's `-o` options


class Servers(NamedTuple):
    """Running servers: QEMU's descriptor for each mount tag, and the processes to reap."""

    sockets: dict[str, int]
    pids: list[int]

    def close_sockets(self) -> None:
        """Close our copies of QEMU's descriptors, so that its end is the servers' end."""
        for fd in self.sockets.values():
            os.close(fd)


def start_servers(
    words: Sequence[Sequence[str]], shares: Mapping[str, tuple[str, bool]], log: int
) -> Servers:
    """Start a server for each of `shares` (mount tag to path and whether it is read-only).

    `words` are the command lines of a writable and of a read-only server, with holes. The caller
    owns what is returned. Raises `CommandError` when a server cannot be started.
    """
    servers = Servers({}, [])
    try:
        for tag, (path, readonly) in shares.items():
            listening, connected = _connection()
            servers.sockets[tag] = connected
            values = {
                _SOCKET: str(listening),
                _PATH: path,
                _OPTION: path.replace("\\", "\\\\").replace(",", "\\,"),
            }
            line = list(words[int(readonly)])
            for hole, value in values.items():
                line = [word.replace(hole, value) for word in line]
            try:
                console.debug(lambda line=line: f"$ {show(line)}")  # type: ignore[misc]
                servers.pids.append(spawn(line, log=log, keep=[listening]))
            finally:
                os.close(listening)
    except BaseException:
        servers.close_sockets()
        raise
    return servers


def _connection() -> tuple[int, int]:
    """Return a listening socket and one that waits in its queue.

    The kernel chooses an abstract name (autobind, unix(7)); only this process knows it before the
    queue of one is taken.
    """
    listening = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    listening.bind("")
    listening.listen(1)
    connected = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    connected.connect(listening.getsockname())
    return listening.detach(), connected.detach()
