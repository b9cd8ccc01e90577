"""Who the command runs as in the guest: the guest's root is the host's, and so are its users."""

import contextlib
import grp
import os
import pwd

from vimto.errors import ConfigError


def find_homes() -> list[str]:
    """Return the real paths of our home directory and of that of whoever called sudo."""
    homes = {os.environ.get("HOME", "")}
    for uid in (str(os.getuid()), os.environ.get("SUDO_UID", "")):
        with contextlib.suppress(KeyError, ValueError, OverflowError):
            homes.add(pwd.getpwuid(int(uid)).pw_dir)
    # A user without a home has the root directory as one, or nothing at all.
    return sorted({os.path.realpath(home) for home in homes if os.path.isabs(home)} - {"/"})


def resolve_user(name: str) -> tuple[int, int, list[int]]:
    """Return (uid, gid, supplementary gids) of `name`, or of ourselves when it is empty.

    `name` is a user's name or number; a number need not be known to the host. Raises
    `ConfigError` for an unknown name.
    """
    if not name:
        return os.getuid(), os.getgid(), os.getgroups()
    try:
        entry = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except KeyError:
        if name.isdigit():
            return int(name), int(name), [int(name)]
        raise ConfigError(
            f"there is no user `{name}`", hint="`user` names a user of this host, or a number"
        ) from None
    groups = {entry.pw_gid, *(g.gr_gid for g in grp.getgrall() if entry.pw_name in g.gr_mem)}
    return entry.pw_uid, entry.pw_gid, sorted(groups)
