"""Files that others name: whatever lies there, opening and reading them comes to an end."""

import errno
import os
import stat

TYPE_CHECKING = False  # as little as can be: the shim and `vimto exec` wait for it
if TYPE_CHECKING:
    from typing import BinaryIO

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_file(path: "str | os.PathLike[str]", limit: int) -> "BinaryIO":
    """Open the regular file `path` of at most `limit` bytes for reading.

    Raises `OSError`, with a `strerror` for people, for anything else: a FIFO would be waited for,
    a device has no end, and the hole of a sparse file takes as long to search as 100 GB.
    """
    _check(os.stat(path), path, limit)  # to open a device may do something
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _check(os.fstat(fd), path, limit)  # it may be another one by now
        return open(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


def read_file(path: "str | os.PathLike[str]", limit: int) -> bytes:
    """Return what is in the regular file `path`; raises `OSError` as `open_file` does."""
    with open_file(path, limit) as file:
        data = file.read(limit + 1)
    if len(data) > limit:  # it has grown
        raise _too_large(path, limit)
    return data


def _check(status: os.stat_result, path: "str | os.PathLike[str]", limit: int) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, "it is a directory", os.fspath(path))
    if kind != stat.S_IFREG:
        found = _KINDS.get(kind, "something else")
        raise OSError(errno.EINVAL, f"it is {found}, not a regular file", os.fspath(path))
    if status.st_size > limit:
        raise _too_large(path, limit)


def _too_large(path: "str | os.PathLike[str]", limit: int) -> OSError:
    size = f"{limit >> 30} GiB" if limit >= 1 << 30 else f"{limit >> 20} MiB"
    size = size if limit >= 1 << 20 else f"{limit >> 10} KiB"
    return OSError(errno.EFBIG, f"it is larger than {size}", os.fspath(path))
