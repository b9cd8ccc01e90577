"""Digests of contents, which name the cache's entries, and a table that remembers those of files.

    CACHE/local/HOST/digests   a line per file: device, inode, size, two times, digest

A file's identity (fstat(2)) changes whenever its content does, so no run reads a file twice. An
identity means something on one host alone: `local` does not travel with a cache.
"""

import errno
import os

try:  # `hashlib` loads all of OpenSSL first, which takes every run 4 ms
    from _blake2 import blake2b
except ImportError:
    from hashlib import blake2b

TYPE_CHECKING = False  # this module is on the hot path
if TYPE_CHECKING:
    from collections.abc import Iterator

# A piece that is all zeros is left out, so the size of pieces is a part of the definition.
_PIECE = 1 << 16
_ZEROS = bytes(_PIECE)
# `stat` would be one more module to load.
_TYPE, _REGULAR = 0o170000, 0o100000
# The kernel stamps files with the time of its last tick (10 ms where HZ is 100): a file that was
# changed since may still have the times of the content that was read.
_TICK = 20_000_000
# The table is written anew, a line for each file, when it has grown this large.
_TABLE_LIMIT = 1 << 16


def digest(data: bytes) -> str:
    """Return a digest of `data`, 32 hex digits: what an entry made from `data` is called."""
    return blake2b(data, digest_size=16).hexdigest()


def digest_file(fd: int) -> str:
    """Return a digest (32 hex digits) of the content of an open file, which may be sparse.

    Holes and zeros are the same, and neither costs much: a guest's RAM is mostly zeros, and an
    archive does not always keep the holes. Raises `OSError`.
    """
    size = os.fstat(fd).st_size
    found = blake2b(b"%d" % size, digest_size=16)
    for offset in _pieces(fd, size):
        data = os.pread(fd, _PIECE, offset)
        if data != _ZEROS[: len(data)]:
            found.update(b"\0%d\0" % offset)
            found.update(data)
    return found.hexdigest()


def _pieces(fd: int, size: int) -> "Iterator[int]":
    """Yield where the pieces begin that hold data; the rest of the file reads as zeros."""
    offset = 0
    while offset < size:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # nothing but a hole is left
                return
            start, end = offset, size  # a file system that cannot say
        offset = max(offset, start - start % _PIECE)
        while offset < end:
            yield offset
            offset += _PIECE


def host_identity() -> str:
    """Return what distinguishes this host, or this boot of it, from others: 16 hex digits."""
    for path in ("/etc/machine-id", "/proc/sys/kernel/random/boot_id"):
        try:
            with open(path, "rb") as file:
                text = file.read(64).strip()
        except OSError:
            continue
        if text:
            return digest(text)[:16]
    return "unknown"


def local_directory(cache: "str | os.PathLike[str]") -> str:
    """Return the directory of what is true on this host alone; it may not exist."""
    return os.path.join(cache, "local", host_identity())


def identity(status: os.stat_result) -> str:
    """Return the identity of a file: it changes when its content does.

    The change time (ctime) cannot be set back by a program.
    """
    return (
        f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
        f" {status.st_ctime_ns}"
    )


def signature(paths: "list[str]") -> str:
    """Return a digest (32 hex digits) of the files' names and identities, a stat(2) for each.

    For what lies below `local_directory` alone. Raises `OSError` when a file is not there.
    """
    lines = (os.fsencode(path) + b"\0" + identity(os.stat(path)).encode() for path in paths)
    return digest(b"\n".join(lines))


class Table:
    """The remembered digests of files. A table that cannot be read or written is empty.

    `cache` is the cache directory. Many processes may use the same table at once.
    """

    def __init__(self, cache: "str | os.PathLike[str]") -> None:
        self._path = os.path.join(local_directory(cache), "digests")
        self._data: bytes | None = None

    def digest(self, path: "str | os.PathLike[str]") -> str:
        """Return the digest of the file `path`, reading it only if it is not known.

        Raises `OSError` when it cannot be read.
        """
        known = self.find(os.stat(path))
        if known:
            return known
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            before = os.fstat(fd)
            settled = _settle(before)
            if before.st_mode & _TYPE != _REGULAR:
                raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
            found = digest_file(fd)
            if settled and identity(os.fstat(fd)) == identity(before):
                self.remember(before, found)
            return found
        finally:
            os.close(fd)

    def find(self, status: os.stat_result) -> str:
        """Return the digest of the file with the identity of `status`, or ""."""
        data = self._read()
        key = b"\n%s " % identity(status).encode()
        start = data.rfind(key) + len(key)
        if start < len(key):
            return ""
        end = data.find(b"\n", start)
        return data[start:end].decode("ascii", "replace") if end == start + 32 else ""

    def remember(self, status: os.stat_result, found: str) -> None:
        """Note the digest `found` of the file with the identity of `status`."""
        line = f"\n{identity(status)} {found}\n".encode()
        try:
            os.makedirs(os.path.dirname(self._path), mode=0o755, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            fd = os.open(self._path, flags, 0o644)
        except OSError:
            return  # the next run reads the file again
        try:
            os.write(fd, line)  # one write, so that lines of several processes do not mix
            if os.fstat(fd).st_size > _TABLE_LIMIT:
                self._compact()
        except OSError:
            pass
        finally:
            os.close(fd)
        if self._data is not None:
            self._data += line

    def _read(self) -> bytes:
        if self._data is None:
            try:
                with open(self._path, "rb") as file:
                    self._data = file.read()
            except OSError:
                self._data = b""
        return self._data

    def _compact(self) -> None:
        """Keep the last line of each inode, of the younger half; what is lost is read again."""
        self._data = None
        last: dict[bytes, bytes] = {}
        for line in self._read().split(b"\n"):
            fields = line.split(b" ")
            if len(fields) == 6:
                last.pop(b" ".join(fields[:2]), None)
                last[b" ".join(fields[:2])] = line
        lines = list(last.values())
        while sum(map(len, lines)) > _TABLE_LIMIT // 2:
            lines = lines[len(lines) // 2 :]
        self._data = b"".join(b"\n%s\n" % line for line in lines)
        directory, name = os.path.split(self._path)
        aside = f"{directory}/.{name}.{os.urandom(4).hex()}~"
        with open(aside, "wb") as file:
            file.write(self._data)
        os.rename(aside, self._path)


def _settle(status: os.stat_result) -> bool:
    """Wait until a change of the file must change its times; say whether it must."""
    import time

    age = time.time_ns() - status.st_ctime_ns
    if 0 <= age <= _TICK:
        time.sleep((_TICK - age) / 1e9)
    return age >= 0  # a clock that was set back says nothing
