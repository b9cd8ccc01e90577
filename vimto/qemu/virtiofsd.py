"""virtiofsd, for a kernel without 9p: which one this host has, and one server a mount tag.

Each server gets a listening socket to which QEMU's end is connected already, so nothing waits for
a path to appear and no file is left. A server ends by itself when QEMU closes that connection.
"""

import _socket
import os
from collections.abc import Sequence
from typing import NamedTuple

from vimto import console
from vimto.errors import KernelError
from vimto.process.spawn import spawn, which
from vimto.qemu.backends import Directory
from vimto.quoting import show

PLACES = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "virtiofsd")
_INSTEAD = "kernels with 9p need none: on Debian those that are not of the `cloud` flavour"
# Makes the view of the directory $0 read-only, and becomes the command that follows.
_READ_ONLY = (
    '(m=bind; mountpoint -q -- "$0" && m=remount,bind; mount -o $m,ro -- "$0" "$0") && exec "$@"'
)


class Server(NamedTuple):
    """The program `path`: the one in Rust, or the one in C that came with QEMU up to 7.2."""

    path: str
    is_rust: bool

    def argv(self, directory: Directory, listening: int) -> Sequence[str]:
        """Return the command line of a server for `directory` at the descriptor `listening`."""
        words = [self.path, f"--fd={listening}"]
        if self.is_rust:
            # Without a sandbox it runs unprivileged, like QEMU's own 9p server.
            words += [f"--shared-dir={directory.path}", "--sandbox=none"]
            return [*words, "--readonly"] if directory.readonly else words
        source = directory.path.replace("\\", "\\\\").replace(",", "\\,")  # as libfuse has it
        words += ["-f", "-o", f"source={source}", "-o", "sandbox=chroot", "-o", "log_level=err"]
        if not directory.readonly:
            return words
        # It cannot be told to only read.
        return ["unshare", "--mount", "sh", "-c", _READ_ONLY, directory.path, *words]


def find_virtiofsd() -> Server:
    """Return this host's; raises `KernelError` where there is none, or none for this user."""
    from vimto.process import proc  # not needed where a server is started: the hot path

    path = next(filter(None, map(which, PLACES)), None)
    if path is None:
        raise KernelError(
            "this kernel has virtiofs but no 9p, and virtiofsd is not installed",
            hint=f"on Debian and Ubuntu: sudo apt-get install virtiofsd; {_INSTEAD}",
        )
    server = Server(path, "--shared-dir" in proc.run([path, "--help"], check=False).text)
    if not server.is_rust and os.geteuid() != 0:
        raise KernelError(
            f"this kernel has virtiofs but no 9p, and `{path}` serves root only", hint=_INSTEAD
        )
    if not server.is_rust and proc.run(["unshare", "--mount", "true"], check=False).status:
        raise KernelError(
            f"this kernel has virtiofs but no 9p, and `{path}` may not mount anything here",
            hint=f"a container's root lacks CAP_SYS_ADMIN, as a rule; {_INSTEAD}",
        )
    return server


def start_server(server: Server, directory: Directory, listening: int, log: int) -> int:
    """Start a server for `directory` and return its pid; the caller must reap it.

    It serves at the socket `listening`, which it inherits, and speaks to the descriptor `log`.
    Raises `CommandError` when it cannot be started.
    """
    argv = server.argv(directory, listening)
    console.debug(lambda: f"$ {show(argv)}")
    return spawn(argv, log=log, keep=[listening])


def connection() -> tuple[int, int]:
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
