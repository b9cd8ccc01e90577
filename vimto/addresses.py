"""Where a connection is made to, or accepted: a TCP address, or the path of a unix socket."""

import os
from typing import NamedTuple

from vimto.values import Kind, whole_number

_LOOPBACK = "127.0.0.1"
# The longest path that fits struct sockaddr_un (unix(7)), with its NUL.
_LONGEST_PATH = 107


class Address(NamedTuple):
    """`path` of a unix socket, or `host` and `port`; port 0 is any that is free."""

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def network(self) -> str:
        """The network's name as Go has it."""
        return "unix" if self.path else "tcp"

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Take `PORT`, `HOST:PORT`, `[IPV6]:PORT`, or `unix:PATH`, or a path with a `/`.

    Without a host it is the loopback address. Raises `ValueError` with the rest of a sentence that
    begins with the text.
    """
    path = text.removeprefix("unix:")
    if path != text or "/" in text:
        if not path or len(path.encode("utf-8", "surrogateescape")) > _LONGEST_PATH:
            raise ValueError(f"is not the path of a socket: it has 1 to {_LONGEST_PATH} bytes")
        return Address(path=path)
    host, colon, port = text.rpartition(":")
    if colon and host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("is not an address: write an IPv6 address as `[::1]:PORT`")
    number = whole_number(port)
    if number is None or number > 65535:
        raise ValueError(
            "is not an address such as `127.0.0.1:8080`, `8080` or `/path/of/a/socket`"
        )
    return Address(host=host or _LOOPBACK, port=number)


def parse_pair(text: str) -> tuple[Address, Address]:
    """Take `FROM=TO`, or one address with a port, which stands for both. Raises `ValueError`."""
    here, equals, there = text.partition("=")
    source = parse_address(here)
    if equals:
        target = parse_address(there)
    elif source.path:
        raise ValueError("names no address in the guest: write `PATH=GUEST`")
    else:
        target = Address(host=_LOOPBACK, port=source.port)
    if not target.path and not target.port:
        raise ValueError("names no port in the guest; only the host's may be 0")
    return source, target


def place_pair(text: str, directory: str) -> str:
    """Return `text` for `parse_pair` with a relative path on the host's side made absolute.

    It is relative to `directory`. An empty text stays empty. Raises `ValueError` when the path
    cannot be written so.
    """
    here, equals, there = text.partition("=")
    path = parse_address(here).path if here else ""
    if not path or os.path.isabs(path):
        return text
    path = os.path.normpath(os.path.join(directory, path))
    if "=" in path:
        raise ValueError(f"leads to `{path}`: the path of a socket must not hold a `=`")
    parse_address(f"unix:{path}")
    return f"unix:{path}{equals}{there}"


def parse_forwards(value: object) -> tuple[str, ...]:
    """Take one text for `parse_pair`, or a list of them; an empty one stands for itself."""
    items = value if isinstance(value, list) else [value]
    for item in items:
        if not isinstance(item, str):
            raise ValueError("is not a string")
        if item:
            parse_pair(item)
    return tuple(items)


FORWARDS = Kind(parse_forwards, place=place_pair, many=True)
