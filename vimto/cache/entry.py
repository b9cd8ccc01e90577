"""Entries of the cache: made aside, renamed into place, never changed, removed when unused.

    DIRECTORY/NAME             an entry, a file or a directory; its users hold a shared lock on it
    DIRECTORY/.NAME.XXXXXXXX~  what is being made or removed, under an exclusive lock on itself
    DIRECTORY/.NAME.lock       locked by the one who makes NAME, and gone when nobody does

A lock (flock(2)) says who is alive, for it ends with its process, whoever killed that one. A
process id says nothing: another namespace has its own, a container the same one every time, and a
zombie keeps one. So whoever gets the lock of something aside may remove it.
"""

import fcntl
import os
import time
from contextlib import contextmanager, suppress

from vimto import console
from vimto.errors import CacheBusyError, CacheError

TYPE_CHECKING = False  # this module is on the hot path
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import TypeVar

    P = TypeVar("P", str, Path)

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
# flock(2) has no limit of its own: it is tried again and again.
_STEP = 0.05
# Whoever waits no longer than this need not know.
_PATIENCE = 1.0
# A user meets an exclusive lock for as long as a rename, or a look whether it is in use, takes.
_HOLD_TRIES = 100


class UntrustedError(OSError):
    """An entry, or a directory of the cache, that somebody else could have written."""


def make_directory(path: "P") -> "P":
    """Make `path` and its parents, and return it; raises `CacheError` where that is impossible."""
    try:
        os.makedirs(path, mode=0o755, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as exc:
        raise _unusable(path, exc) from exc
    return path


def _unusable(path: "str | Path", exc: OSError) -> CacheError:
    return CacheError(
        f"the cache directory `{path}` cannot be written: {exc.strerror}",
        hint="`cache_dir` or `VIMTO_CACHE_DIR` names another place",
    )


@contextmanager
def locked(
    path: "str | Path",
    *,
    waiting: str,
    limit: float = 3600.0,
    say: "Callable[[str], None]" = console.note,
    pause: "Callable[[float], None]" = time.sleep,
) -> "Iterator[None]":
    """Be the only one who makes the entry `path` meanwhile.

    Waits for another one, at most `limit` seconds; after the first second `say` is told what for,
    which `waiting` names ("another vimto builds X"). `pause` sleeps, or raises where told to end.
    Raises `CacheBusyError` when it takes too long, `CacheError` where the cache cannot be written.
    """
    directory, name = os.path.split(path)
    make_directory(directory)
    lock = os.path.join(directory, f".{name}.lock")
    started = time.monotonic()
    said = False
    while (fd := _try_lock_file(lock)) < 0:
        waited = time.monotonic() - started
        if waited > limit:
            raise CacheBusyError(
                f"given up after {limit:g} s: {waiting}",
                hint=f"`fuser {lock}` shows the process that holds it up",
            )
        if waited > _PATIENCE and not said:
            said = True
            say(f"waiting: {waiting}")
        pause(_STEP)
    try:
        yield
    finally:
        # Those who wait notice that it is gone, and take a new one.
        with suppress(OSError):
            os.unlink(lock)
        os.close(fd)


def _try_lock_file(lock: str) -> int:
    """Return the descriptor of the lock file, which is ours now, or -1; raises `CacheError`."""
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as exc:
        raise _unusable(os.path.dirname(lock), exc) from exc
    return _ours(fd, lock)


def _lock_new(place: str) -> int:
    """Return the descriptor of a directory, which is ours now, or -1; raises `CacheError`."""
    return _ours(os.open(place, _READ), place)


def _ours(fd: int, path: str) -> int:
    """Return `fd` if we have locked what `path` names, else close it and return -1."""
    mine = False
    try:
        mine = _seize(fd, path)
        return fd if mine else -1
    finally:
        if not mine:
            os.close(fd)


def _seize(fd: int, path: str) -> bool:
    """Lock `fd` for us alone, and say whether that worked and it is still what `path` names.

    Raises `CacheError` where nothing can be locked, for nobody could ever make anything there.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as exc:
        raise CacheError(
            f"`{os.path.dirname(path)}` is on a file system without locks: {exc.strerror}",
            hint="`cache_dir` or `VIMTO_CACHE_DIR` names a place on another",
        ) from exc
    return _is_there(fd, path)


def _open_alone(path: "str | Path") -> int:
    """Open `path` for an exclusive lock, which NFS grants to whoever can write alone."""
    try:
        return os.open(path, _READ | os.O_RDWR)
    except (IsADirectoryError, PermissionError):
        return os.open(path, _READ)


def _is_there(fd: int, path: "str | Path") -> bool:
    """Say whether the open file is still what `path` names."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except OSError:
        return False


def make_once(path: "P", make: "Callable[[], object]", *, waiting: str) -> "P":
    """Return the entry `path`, which `make` makes if it is not here; `waiting` as for `locked`.

    However many ask at once, one makes it. One that somebody else could have written goes first.
    """
    if not is_here(path):
        with locked(path, waiting=waiting):
            if not is_here(path):
                sweep(os.path.dirname(path))
                if os.path.lexists(path) and not remove(path):
                    raise untrusted(path)
                make()
    return path


def untrusted(path: "str | Path") -> CacheError:
    """Return the error about an entry that must not be used and cannot be removed."""
    return CacheError(
        f"`{path}` could have been written by somebody else",
        hint="remove it, or name another cache with `VIMTO_CACHE_DIR`",
    )


def is_here(path: "str | Path") -> bool:
    """Say whether there is an entry `path`, and only this user and root can have written it."""
    try:
        return is_trusted(os.stat(path))  # a link in a directory of ours is ours
    except OSError:
        return False


@contextmanager
def aside(path: "str | Path") -> "Iterator[str]":
    """Make a directory beside `path`, locked, which is gone afterwards with all that is in it."""
    directory, name = os.path.split(path)
    make_directory(directory)
    while True:
        place = os.path.join(directory, f".{name}.{os.urandom(4).hex()}~")
        try:
            os.mkdir(place)
        except OSError as exc:
            raise _unusable(directory, exc) from exc
        # Somebody who sweeps may be quicker.
        with suppress(FileNotFoundError):
            os.chmod(place, 0o755)  # whatever the umask is
            fd = _lock_new(place)
            if fd >= 0:
                break
    try:
        yield place
    finally:
        delete(place)
        os.close(fd)


@contextmanager
def workplace(path: "P") -> "Iterator[P]":
    """Make the directory `path`, locked, which is gone afterwards with all that is in it.

    What a killed process left in it is still there, to go on with. The caller sees to it that
    nobody else asks for the same one meanwhile. Its name ends as that of what is aside.
    """
    name = os.fspath(path)
    while True:
        make_directory(name)
        with suppress(FileNotFoundError):
            fd = _lock_new(name)
            if fd >= 0:
                break
            time.sleep(_STEP)  # somebody who sweeps removes it
    try:
        yield path
    finally:
        delete(name)
        os.close(fd)


@contextmanager
def new_file(path: "P", *, mode: int = 0o644) -> "Iterator[P]":
    """Give a name to write a file under, which becomes `path` unless the body raises."""
    with aside(path) as place:
        made = os.path.join(place, os.path.basename(path))
        yield type(path)(made)
        fd = os.open(made, _READ)
        try:
            os.fchmod(fd, mode)
            os.fdatasync(fd)  # after a crash of the host it must not be empty
        finally:
            os.close(fd)
        os.rename(made, path)


@contextmanager
def new_directory(path: "P") -> "Iterator[P]":
    """Give a directory to fill, which becomes `path` unless the body raises.

    `path` must not exist, unless as an empty directory.
    """
    with aside(path) as place:
        made = os.path.join(place, os.path.basename(path))
        os.mkdir(made)
        os.chmod(made, 0o755)
        yield type(path)(made)
        os.chmod(made, 0o755)
        os.rename(made, path)


def hold(path: "str | Path") -> int:
    """Keep the entry `path` from being removed until the returned descriptor is closed.

    Raises `FileNotFoundError` when there is none (any more), `UntrustedError` when somebody else
    could have made it, `BlockingIOError` when it is locked for long.
    """
    fd = os.open(path, _READ)
    try:
        for attempt in range(_HOLD_TRIES):
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == _HOLD_TRIES - 1 or not _is_there(fd, path):
                    raise
                time.sleep(0.01)
        if not _is_there(fd, path):
            raise FileNotFoundError(2, "it was removed", os.fspath(path))
        if not is_trusted(os.fstat(fd)):
            raise UntrustedError(1, "somebody else could have written it", os.fspath(path))
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_held(path: "str | Path") -> bool:
    """Say whether anybody uses the entry `path`."""
    try:
        fd = _open_alone(path)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        return isinstance(exc, BlockingIOError)
    finally:
        os.close(fd)
    return False


def is_locked(path: "str | Path") -> bool:
    """Say whether anybody makes the entry `path`."""
    directory, name = os.path.split(path)
    return is_held(os.path.join(directory, f".{name}.lock"))


def remove(path: "str | Path") -> bool:
    """Remove the entry `path` unless somebody uses it; say whether it is gone."""
    path = os.fspath(path)
    try:
        fd = _open_alone(path)
    except OSError:
        return not os.path.lexists(path)
    try:
        if not _seize(fd, path):
            return not os.path.lexists(path)
        directory, name = os.path.split(path)
        place = os.path.join(directory, f".{name}.{os.urandom(4).hex()}~")
        os.rename(path, place)  # at once, so that nobody finds half of it
        delete(place)
        return True
    except (OSError, CacheError):
        return False
    finally:
        os.close(fd)


def sweep(directory: "str | Path") -> None:
    """Remove what killed makers and removers left in `directory`, and nothing else."""
    with suppress(OSError):
        for name in os.listdir(directory):
            path = os.path.join(directory, name)
            if name.startswith(".") and name.endswith("~"):
                _sweep(path, delete)
            elif name.startswith(".") and name.endswith(".lock"):
                _sweep(path, os.unlink)


def _sweep(path: str, action: "Callable[[str], None]") -> None:
    with suppress(OSError, CacheError):
        fd = _open_alone(path)
        try:
            if _seize(fd, path):
                action(path)
        finally:
            os.close(fd)


def entries(directory: "str | Path") -> list[str]:
    """Return the names of the entries in `directory`, sorted."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return sorted(n for n in names if not n.startswith(".") and not n.endswith(".lock"))


def delete(path: str) -> None:
    """Remove a file or a tree as far as that is possible; links are not followed."""
    try:
        os.unlink(path)
        return
    except IsADirectoryError:
        pass
    except OSError:
        return
    with suppress(OSError):
        names = _list_whatever(path)
        for name in names:
            delete(os.path.join(path, name))
        os.rmdir(path)


def _list_whatever(path: str) -> list[str]:
    """Return what is in a directory that may have lost its permissions; it gets them back."""
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        os.chmod(path, 0o700)
    return os.listdir(path)


def disk_usage(path: str) -> int:
    """Return the bytes on disk of a file or a tree, as far as it can be read."""
    total = 0
    with suppress(OSError):
        status = os.lstat(path)
        total += status.st_blocks * 512
        if status.st_mode & 0o170000 == 0o040000:
            with os.scandir(path) as found:
                total += sum(disk_usage(item.path) for item in found)
    return total


def is_trusted(status: os.stat_result) -> bool:
    """Say whether only this user and root can write what `status` describes.

    A directory in which others may make entries, but remove none of ours (`/tmp`), is trusted.
    """
    if status.st_uid not in (0, os.geteuid()):
        return False
    if status.st_mode & 0o1000 and status.st_mode & 0o170000 == 0o040000:
        return True
    if status.st_mode & 0o002:
        return False
    return not status.st_mode & 0o020 or _is_private(status.st_gid)


def _is_private(gid: int) -> bool:
    """Say whether a group has no other member than this user, as where each user has their own."""
    if gid == 0:
        return True
    import grp
    import pwd

    try:
        own, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    same = own.pw_gid == gid and group.gr_name == own.pw_name
    return same and set(group.gr_mem) <= {own.pw_name}
