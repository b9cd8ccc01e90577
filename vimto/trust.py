"""What a repository's own file may ask for, and what only its user may.

Whoever clones a repository runs its tests in a machine, and its `.vimto.toml` comes along. What
that shapes is the machine; what happens on the host is the user's to say. The answer for each
setting, and its reason, is a column of the table in `vimto.settings`.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from vimto.addresses import parse_pair
from vimto.diskimage import WRITTEN, read_image
from vimto.disks import parse_disk


class Place(NamedTuple):
    """Where a file speaks: the root of its repository."""

    root: str

    def holds(self, path: str) -> bool:
        """Say whether the absolute `path` lies in the repository, links followed.

        What is not there yet lies where it would be made.
        """
        root = os.path.realpath(self.root).rstrip("/")
        real = os.path.realpath(path)
        return real == root or real.startswith(root + "/")


class Trust(NamedTuple):
    """Whether a repository's file may set a key.

    `words` say so in the reference, with the reason. `refuse` takes a value (one item, of a list)
    with its paths absolute, and says what is wrong with it, or "" if the file may have it.
    """

    words: str
    refuse: Callable[[Any, Place], str]


def full(why: str) -> Trust:
    """Return the trust in a setting that cannot reach the host, and why it cannot."""
    return Trust(words=f"may set it: {why}", refuse=lambda _value, _place: "")


def none(why: str) -> Trust:
    """Return the trust in a setting that is the user's alone, and why it is."""
    return Trust(words=f"may not set it: {why}", refuse=lambda _value, _place: why)


def directories() -> Trust:
    """Return the trust in directories that the guest is shown: those of the repository."""
    return Trust(
        words="may only name directories inside of the repository, symbolic links followed: the "
        "guest could write to others, or see what the host has in `/tmp` and `/run`",
        refuse=_refuse_directory,
    )


def _refuse_directory(value: str, place: Place) -> str:
    if not value or place.holds(value.removesuffix(":ro")):
        return ""
    return f"`{value}` lies outside of the repository `{place.root}`"


def images() -> Trust:
    """Return the trust in disks: empty ones, and images that lie in the repository as a whole."""
    return Trust(
        words="may only ask for empty disks, and name images inside of the repository, "
        "symbolic links followed, which must refer to no other file and cannot be written to: the "
        "guest could change what the host runs, as git's configuration, or name files of the host",
        refuse=_refuse_image,
    )


def _refuse_image(value: str, place: Place) -> str:
    disk = parse_disk(value) if value else None
    if disk is None or not disk.path:
        return ""
    if not place.holds(disk.path):
        return f"`{disk.path}` lies outside of the repository `{place.root}`"
    try:
        image = read_image(disk.path)
    except OSError:
        return ""  # whoever opens it says what is wrong
    if image.refers:
        return f"`{disk.path}` does not stand alone: {image.refers}"
    if disk.mode == WRITTEN:
        return f"`{disk.path}` may be written to only where you say so yourself"
    return ""


def listeners() -> Trust:
    """Return the trust in addresses on the host that lead into the guest."""
    return Trust(
        words="may only have loopback addresses, and sockets inside of the repository, on the "
        "host's side: others would let the network, or other users, into the guest",
        refuse=_refuse_listener,
    )


def _refuse_listener(value: str, place: Place) -> str:
    if not value:
        return ""
    source, _ = parse_pair(value)
    if source.path:
        inside = place.holds(source.path)
        return "" if inside else f"`{source}` lies outside of the repository `{place.root}`"
    return "" if _is_loopback(source.host) else f"`{source}` is not a loopback address"


def _is_loopback(host: str) -> bool:
    import ipaddress  # 10 ms that only such a setting costs

    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name leads anywhere
