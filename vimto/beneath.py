"""Files in a directory that somebody else writes to as well, such as a share: no link is followed.

A guest can put a symbolic link, a pipe or another directory in the place of any name below a share,
at any moment. So such a directory is opened once, each name is looked up from its descriptor, and
what is written is new.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator

_PIECE = 1 << 20


def open_directory(path: str | os.PathLike[str]) -> int:
    """Return a descriptor of a directory whose own path nobody else can change."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def open_file(directory: int, name: str) -> int:
    """Return a descriptor for reading the regular file `name`, a relative path, in `directory`.

    Raises `OSError`; for a link anywhere in `name`, and for what is not a regular file, too.
    """
    with _parent(directory, name) as (here, last):
        # Not to wait for the writer of a pipe.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(last, flags, dir_fd=here)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", name)
    return fd


def give(directory: int, name: str, uid: int, gid: int) -> None:
    """Make `uid` and `gid` the owners of `name`, a relative path, in `directory`.

    Raises `OSError`; for a link on the way to it, too.
    """
    with _parent(directory, name) as (here, last):
        os.chown(last, uid, gid, dir_fd=here, follow_symlinks=False)


@contextlib.contextmanager
def _parent(directory: int, name: str) -> Iterator[tuple[int, str]]:
    """Yield a descriptor of the directory that the last part of `name` is in, and that part."""
    *parents, last = name.split("/")
    if ".." in (*parents, last):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name)
    here = os.dup(directory)
    try:
        for part in parents:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            below = os.open(part or ".", flags, dir_fd=here)
            os.close(here)
            here = below
        yield here, last
    finally:
        os.close(here)


def read_file(directory: int, name: str, limit: int) -> bytes:
    """Return the content of the regular file `name` in `directory`.

    Raises `OSError` as `open_file` does, and for more than `limit` bytes.
    """
    with open(open_file(directory, name), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), name)
    return data


def create(directory: int, name: str, mode: int = 0o666) -> int:
    """Return a descriptor for writing the new file `name`, one word, in `directory`.

    Raises `FileExistsError` for whatever has that name already, a link to nowhere included.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, mode, dir_fd=directory)


def copy(source: int, directory: int, name: str, mode: int = 0o777) -> None:
    """Copy what is left to read of `source` into the new file `name` in `directory`.

    Raises `OSError` as `create` does; a copy that fails leaves nothing.
    """
    target = create(directory, name, mode)
    try:
        with open(target, "wb") as file:
            while data := os.read(source, _PIECE):
                file.write(data)
    except BaseException:
        os.unlink(name, dir_fd=directory)
        raise


def hold(directory: int, name: str) -> int:
    """Return a descriptor of whatever `name` in `directory` is, for `remove` to know it again.

    While it is open no other file has the same number.
    """
    return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)


def remove(directory: int, name: str, held: int) -> None:
    """Remove `name` if it is still what is `held`, and nothing that took its place."""
    made = os.fstat(held)
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if (made.st_dev, made.st_ino) == (found.st_dev, found.st_ino):
            os.unlink(name, dir_fd=directory)
    except OSError:
        pass  # gone already, or in a directory that is


@contextlib.contextmanager
def passing(path: str) -> Iterator[Callable[[str], None]]:
    """Yield what copies a program to `path`, where it stays while the context lasts.

    Raises `OSError` when the directory cannot be opened; what is yielded raises `FileExistsError`
    for whatever is at `path` already. At the end only the copy itself is removed.
    """
    parent, name = os.path.split(path)
    directory = open_directory(parent)
    made: list[int] = []

    def place(program: str) -> None:
        source = os.open(program, os.O_RDONLY | os.O_CLOEXEC)
        try:
            copy(source, directory, name)
        finally:
            os.close(source)
        made.append(hold(directory, name))

    try:
        yield place
    finally:
        for held in made:
            remove(directory, name, held)
            os.close(held)
        os.close(directory)
