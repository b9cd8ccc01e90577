"""Listening sockets on the host, made before a machine starts: who is refused learns it at once."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator

from vimto.addresses import Address
from vimto.errors import VimtoError


@contextlib.contextmanager
def listening(address: Address) -> Iterator[tuple[socket.socket, Address]]:
    """`listen`, until the context's end."""
    listener, got = listen(address)
    try:
        yield listener, got
    finally:
        listener.close()
        if got.path:
            unlink(got.path)


def listen(address: Address) -> tuple[socket.socket, Address]:
    """Return a listener at `address`, and the address with the port that it got.

    The caller closes the listener and removes the path, if it has one. Raises `VimtoError` for an
    address that is taken, or not ours to take.
    """
    try:
        if address.path:
            return _listen_path(address.path), address
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
        return listener, Address(host=address.host, port=listener.getsockname()[1])
    except OSError as exc:
        raise VimtoError(
            f"cannot listen at {address}: {(exc.strerror or str(exc)).lower()}",
            hint=_listen_hint(address, exc),
        ) from exc


def _listen_hint(address: Address, exc: OSError) -> str:
    if exc.errno == errno.EADDRINUSE and address.path:
        return "another process listens there; choose another path"
    if exc.errno == errno.EADDRINUSE:
        return "another process has this port; choose another one, or port 0 for one that is free"
    if exc.errno == errno.EACCES and address.port:
        return "ports below 1024 are for root (`sysctl net.ipv4.ip_unprivileged_port_start`)"
    return ""


def _listen_path(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)  # who may connect may act as the guest's user, and that is us
    try:
        try:
            listener.bind(path)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE or not _is_stale(path):
                raise
            os.unlink(path)
            listener.bind(path)
        listener.listen(128)
        listener.setblocking(False)
        return listener
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(mask)


def _is_stale(path: str) -> bool:
    """Say whether `path` is a socket that nobody listens at any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            import stat

            return stat.S_ISSOCK(os.stat(path).st_mode)
        except OSError:
            pass
    return False


def unlink(path: str) -> None:
    """Remove the path of a listener, if it is still there."""
    try:
        os.unlink(path)
    except OSError:
        pass
