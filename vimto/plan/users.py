"""Who the command runs as in the guest: the guest's root is the host's, and so are its users."""

import contextlib
import grp
import os
import pwd

from vimto.errors import ConfigError
from vimto.values import whole_number

# The last one, 2**32 - 1, means "leave it as it is" to setuid(2): the command would stay root.
_MOST_ID = (1 << 32) - 2


def find_user(name: str) -> pwd.struct_passwd | None:
    """Return the host's entry of a user by name or number, `None` for a number without one.

    Raises `ConfigError` for an unknown name, and for a number that nobody can have.
    """
    number = whole_number(name)
    if name.isdecimal() and (number is None or number > _MOST_ID):
        raise ConfigError(f"`{name}` is not a valid user: uids are 0 to {_MOST_ID}")
    try:
        return pwd.getpwnam(name) if number is None else pwd.getpwuid(number)
    except KeyError:
        if number is not None:
            return None
        raise ConfigError(
            f"there is no user `{name}`", hint="`user` names a user of this host, or a number"
        ) from None


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
    `ConfigError` for any other.
    """
    if not name:
        return os.getuid(), os.getgid(), os.getgroups()
    entry = find_user(name)
    if entry is None:
        return int(name), int(name), [int(name)]
    groups = {entry.pw_gid, *(g.gr_gid for g in grp.getgrall() if entry.pw_name in g.gr_mem)}
    return entry.pw_uid, entry.pw_gid, sorted(groups)
