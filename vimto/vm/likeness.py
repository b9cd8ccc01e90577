"""What the guest's root gets of the host's besides the mounts: names, and links in /run."""

import os

from vimto.plan.views import Link

_LOCALHOST = b"127.0.0.1 localhost\n::1 localhost\n"
# What the order may hold of it; a list of advertisers to block may be longer than any frame.
_LONGEST = 1 << 20
# There are a handful.
_MOST_LINKS = 1000


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


def find_links(run: str = "/run") -> list[Link]:
    """Return the symbolic links in `run`: the guest has one of its own.

    NixOS, for one, has the way to all programs there.
    """
    try:
        with os.scandir(run) as entries:
            paths = [entry.path for entry in entries if entry.is_symlink()]
        return [Link(path, os.readlink(path)) for path in sorted(paths)[:_MOST_LINKS]]
    except OSError:
        return []
