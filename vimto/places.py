"""Directories of the host that mean something by themselves, and which path lies in which."""

import os
from collections.abc import Container, Iterable

# The guest has these for itself, and empty: what the host has there, a machine sees only where it
# is shared or shown.
EMPTY = ("/tmp", "/run", "/dev/shm")
# Everybody's: a file there says nothing about what lies beside it.
TEMPORARY = (*EMPTY, "/var/tmp")
# And where homes lie.
_HOMES = ("/home", "/var/home")
# Programs of the host: nothing that one of them writes belongs beside it.
SYSTEM = ("/bin", "/sbin", "/lib", "/usr", "/opt", "/nix")


def is_below(path: str, parent: str) -> bool:
    """Say whether `path` is `parent` or lies in it; both absolute and normalised."""
    return path == parent or path.startswith(parent.rstrip("/") + "/")


def is_in(path: str, parents: Iterable[str]) -> bool:
    """Say whether `path` is one of `parents` or lies in one."""
    return any(is_below(path, parent) for parent in parents)


def is_communal(directory: str, homes: Container[str]) -> bool:
    """Say whether `directory` is one of `homes` or everybody's, or holds such places.

    It is never shared for the sake of one file in it. Real paths, as `homes` are.
    """
    return directory in homes or any(is_below(place, directory) for place in (*TEMPORARY, *_HOMES))


def follow(path: str) -> tuple[str, list[tuple[str, str]]]:
    """Return where an absolute path leads, and the symbolic links on the way that a guest lacks.

    Those are (path, target) pairs of links below `EMPTY`, which is itself taken as it is: the
    guest has its own there. What does not exist, or goes round in circles, leads to itself.
    """
    links: list[tuple[str, str]] = []
    done, names, hops = "/", _names(path), 0
    while names:
        name = names.pop()
        if name == "..":
            done = os.path.dirname(done)
            continue
        here = os.path.join(done, name)
        target = "" if here in EMPTY else _read_link(here)
        if not target:
            done = here
            continue
        hops += 1
        if hops > 40:  # as many as Linux follows
            return os.path.normpath(path), []
        if is_in(here, EMPTY):
            links.append((here, target))
        done = "/" if target.startswith("/") else done
        names += _names(target)
    return done, links


def _names(path: str) -> list[str]:
    """Return the parts of `path`, the last one first."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _read_link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
