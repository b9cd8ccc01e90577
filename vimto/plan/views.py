"""What a machine shows of the host below the directories that the guest has for itself.

There the root is not the host's, so what a command needs is named one by one. It looks as in the
rest of the root: the host's file or directory, under a layer of the machine's own.
"""

import os
from collections.abc import Iterable
from typing import NamedTuple

from vimto.places import EMPTY, follow, is_below, is_communal, is_in
from vimto.plan.shares import Command, Share

# Directories that a program finds by its environment, and reads; GOPATH may be a list of them.
_SHOWN_VARIABLES = ("HOME", "GOROOT", "GOPATH", "GOMODCACHE", "GOCACHE")


class Link(NamedTuple):
    """A symbolic link at `path` that leads to `target`."""

    path: str
    target: str


class View(NamedTuple):
    """A file or directory of the host at the same path; `source` is its real path.

    They differ where a directory that the guest has for itself is a link on the host.
    """

    path: str
    source: str


def find_views(
    command: Command, named: Iterable[str], shares: Iterable[Share]
) -> tuple[list[View], list[Link]]:
    """Return what is shown to a command besides `shares`, which are collapsed.

    That is its working directory, its binary, what its environment names, and the paths `named`,
    absolute; with each the links on the way to it. What does not exist is left out, and links that
    a share or a view has.
    """
    paths: set[str] = set()
    links: dict[str, str] = {}
    for path in (*_wanted(command), *named):
        real, passed = follow(path)
        links.update(passed)
        if is_in(real, EMPTY) and (real not in EMPTY or real == command.cwd):
            paths.add(real)
    seen = [share.path for share in shares]
    views = []
    for path in sorted(paths):
        if not is_in(path, seen) and os.path.exists(path):
            seen.append(path)
            views.append(View(path, os.path.realpath(path)))
    return views, [Link(path, links[path]) for path in sorted(links) if not is_in(path, seen)]


def _wanted(command: Command) -> list[str]:
    environment = command.environment
    paths = [command.cwd]
    # Of a directory's two names go and the shell believe this one.
    named = environment.get("PWD", "")
    if os.path.isabs(named) and os.path.realpath(named) == command.cwd:
        paths.append(named)
    if os.sep in command.argv[0]:
        paths.append(os.path.join(command.cwd, command.argv[0]))
    for variable in _SHOWN_VARIABLES:
        paths += environment.get(variable, "").split(os.pathsep)
    for path in environment.get("PATH", "").split(os.pathsep):
        paths += [path, _prefix(path)]
    return [path for path in paths if os.path.isabs(path)]


def _prefix(path: str) -> str:
    """Return where the programs in `path` have been installed, "" unless it looks like that.

    go looks there for its tools, and Python for its modules.
    """
    prefix, name = os.path.split(os.path.normpath(path))
    return prefix if name == "bin" and prefix not in EMPTY else ""


def is_ephemeral(command: Command, shares: Iterable[Share]) -> bool:
    """Say whether what a command writes into its directory goes with the machine.

    So it is in a communal one that nobody shares. (Where the guest has all for itself, as in
    /proc, that is no news.)
    """
    cwd = command.cwd
    shared = any(is_below(cwd, share.path) for share in shares)
    return not shared and is_communal(cwd, command.homes) and cwd not in ("/", "/dev")
