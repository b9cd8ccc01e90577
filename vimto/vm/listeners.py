"""Listening sockets on the host, made before a machine starts: who is refused learns it at once.

One with a path may lie in a directory that a guest writes to.
"""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator

from vimto import beneath
from vimto.addresses import Address
from vimto.errors import VimtoError


class Listener:
    """A socket that listens; `address` is where, with the port that was free.

    The owner closes it, which removes a socket with a path: this one, and not what may have come in
    its place meanwhile.
    """

    def __init__(self, sock: socket.socket, address: Address, directory: int = -1) -> None:
        self.socket = sock
        self.address = address
        self._directory = directory
        self._name = os.path.basename(address.path)
        self._held = beneath.hold(directory, self._name) if directory >= 0 else -1

    def close(self) -> None:
        """Close the socket and remove its path. Idempotent."""
        self.socket.close()
        if self._directory < 0:
            return
        beneath.remove(self._directory, self._name, self._held)
        os.close(self._held)
        os.close(self._directory)
        self._directory = -1


@contextlib.contextmanager
def listening(address: Address) -> Iterator[tuple[socket.socket, Address]]:
    """`listen`, until the context's end: the socket, and the address with the port that it got."""
    listener = listen(address)
    try:
        yield listener.socket, listener.address
    finally:
        listener.close()


def listen(address: Address) -> Listener:
    """Return a listener at `address`.

    Raises `VimtoError` for an address that is taken, or not ours to take.
    """
    try:
        if address.path:
            return _listen_path(address)
        return _listen_port(address)
    except OSError as exc:
        raise VimtoError(
            f"cannot listen at {address}: {(exc.strerror or str(exc)).lower()}",
            hint=_hint(address, exc),
        ) from exc


def _listen_port(address: Address) -> Listener:
    family, _, _, _, where = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(where)
        listener.listen(128)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return Listener(listener, Address(host=address.host, port=listener.getsockname()[1]))


def _hint(address: Address, exc: OSError) -> str:
    if exc.errno == errno.EADDRINUSE and address.path and not _is_socket(address.path):
        return "there is a file that is not a socket; choose another path"
    if exc.errno == errno.EADDRINUSE and address.path:
        return "another process listens there; choose another path"
    if exc.errno == errno.EADDRINUSE:
        return "another process has this port; choose another one, or port 0 for one that is free"
    if exc.errno == errno.EACCES and address.port:
        return "ports below 1024 are for root (`sysctl net.ipv4.ip_unprivileged_port_start`)"
    return ""


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return True  # it has gone meanwhile


def _listen_path(address: Address) -> Listener:
    parent, name = os.path.split(address.path)
    directory = beneath.open_directory(parent or ".")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)  # who may connect may act as the guest's user, and that is us
    try:
        path = f"/proc/self/fd/{directory}/{name}"
        try:
            listener.bind(path)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE or not _is_stale(directory, name):
                raise
            os.unlink(name, dir_fd=directory)
            listener.bind(path)
        listener.listen(128)
        listener.setblocking(False)
        return Listener(listener, address, directory)
    except BaseException:
        listener.close()
        os.close(directory)
        raise
    finally:
        os.umask(mask)


def _is_stale(directory: int, name: str) -> bool:
    """Say whether `name` is a socket, no link to one, that nobody listens at any more."""
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    if not stat.S_ISSOCK(found.st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(f"/proc/self/fd/{directory}/{name}")
        except ConnectionRefusedError:
            return True
        except OSError:
            pass
    return False
