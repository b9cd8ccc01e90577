"""Which vimto this is: its version, and the commit that it was made from.

What is built has the commit in a module of its own, `vimto._commit`, which `hack/build_hook.py`
writes with the help of this file (so nothing but the standard library is imported at first); in a
checkout git is asked. Neither is for a run's way: whoever tells the user calls `describe`.
"""

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

# What vimto consists of; whoever changes a page or a test has not changed the program.
_PARTS = ("vimto", "guest", "pyproject.toml")
_DIGITS = 12


class Commit(NamedTuple):
    """A commit's abbreviated digest, and whether files of the program differ from it."""

    digest: str
    modified: bool


def describe() -> str:
    """Return the version and, where it is known, the commit: `0.1.0 (commit 0123456789ab)`.

    In the parentheses `, modified` follows if the program differs from that commit.
    """
    from vimto import __version__

    commit = find_commit()
    if commit is None:
        return __version__
    return f"{__version__} (commit {commit.digest}{', modified' if commit.modified else ''})"


def find_commit() -> Commit | None:
    """Return what vimto was made from; None where it is neither built from git nor a checkout."""
    import importlib

    try:
        built = importlib.import_module("vimto._commit")
    except ImportError:
        return read_commit(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), _run)
    return Commit(built.DIGEST, built.MODIFIED)


def read_commit(root: str, run: Callable[[Sequence[str]], str | None]) -> Commit | None:
    """Return the commit of the checkout in `root`; None where that is not one, or git fails.

    `run` starts a command and returns what it prints, None if that fails. A checkout is one that
    begins in `root`: a virtual environment may lie in somebody else's.
    """
    if not os.path.exists(os.path.join(root, ".git")):
        return None
    # git tells hooks and aliases by variables which repository they are about: not ours.
    git = ["env", *(f"--unset={name}" for name in os.environ if name.startswith("GIT_"))]
    git += ["git", "-C", root, f"--git-dir={root}/.git", f"--work-tree={root}"]
    git += ["--no-optional-locks"]
    digest = run([*git, "rev-parse", "--verify", f"--short={_DIGITS}", "HEAD"])
    changes = run([*git, "status", "--porcelain", "--", *_PARTS])
    if digest is None or changes is None:
        return None
    return Commit(digest.strip(), bool(changes.strip()))


def _run(argv: Sequence[str]) -> str | None:
    from vimto.errors import CommandError
    from vimto.process import proc

    try:
        return proc.run(argv).text
    except CommandError:
        return None
