"""What the guest's root gets of the host's besides the mounts: names, and links in /run."""

import os
from typing import NamedTuple

_LOCALHOST = b"127.0.0.1 localhost\n::1 localhost\n"
# What the order may hold of it; a list of advertisers to block may be longer than any frame.
_LONGEST = 1 << 20
# Of a directory in PATH; it is there for a handful of programs.
_MOST_LINKS = 1000


class Link(NamedTuple):
    """A symbolic link at `path` that leads to `target`."""

    path: str
    target: str


def describe_hosts(hostname: str, path: str = "/etc/hosts") -> bytes:
    """Return the host's table of names with a line for `hostname`, as Debian writes it."""
    try:
        with open(path, "rb") as file:
            text = file.read(_LONGEST)
    except OSError:
        text = _LOCALHOST
    if len(text) == _LONGEST:
        text = text[: text.rfind(b"\n") + 1]
    newline = b"" if text.endswith(b"\n") or not text else b"\n"
    return text + newline + f"127.0.1.1 {hostname}\n".encode()


def find_links(search: str, run: str = "/run") -> list[Link]:
    """Return the symbolic links in `run`, and those further down that the entries of `search` need.

    The guest has a `run` of its own, and NixOS, for one, has the way to all programs there. Of a
    directory in `search` that lies in `run` itself, the links it holds are returned as well.
    """
    found = dict.fromkeys(_links_in(run))
    for entry in search.split(":"):
        if entry.startswith(f"{run}/"):
            found |= dict.fromkeys(_links_along(entry, run))
    return list(found)


def _links_in(directory: str) -> list[Link]:
    try:
        with os.scandir(directory) as entries:
            paths = [entry.path for entry in entries if entry.is_symlink()]
        return [Link(path, os.readlink(path)) for path in sorted(paths)[:_MOST_LINKS]]
    except OSError:
        return []


def _links_along(path: str, run: str) -> list[Link]:
    """Return the links that stand on the way from `run` to `path`, each step of it followed."""
    found: list[Link] = []
    place = path
    for _ in range(40):  # as many as Linux follows, path_resolution(7)
        link = _first_link(place, run)
        if link is None:
            return [*found, *_links_in(place)]
        found.append(link)
        rest = os.path.relpath(place, link.path)
        place = os.path.normpath(os.path.join(os.path.dirname(link.path), link.target, rest))
        if not place.startswith(f"{run}/"):
            break
    return found


def _first_link(path: str, run: str) -> Link | None:
    place = run
    for part in path.removeprefix(run).split("/"):
        place = os.path.join(place, part) if part else place
        try:
            return Link(place, os.readlink(place))
        except OSError:
            continue
    return None
