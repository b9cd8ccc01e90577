"""Layers to a directory tree, without trusting one byte of them.

Why nothing can be written outside the root: until `Unpacker.finish` there is no symbolic link
below it at all. Links are kept in memory, paths that lead through them are resolved there, and
the links themselves are made last, in directories that are known to be real. So a path made of
checked components cannot lead anywhere else, whatever else a layer holds.

Layers are applied lowest first, the way the OCI image specification ("Image Layer Filesystem
Changeset") words it. Owners, set-id bits, extended attributes and devices are left out: the
guest's root must not gain privileged programs from an image.
"""

import errno
import hashlib
import math
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vimto import compression
from vimto.compression import Format
from vimto.errors import ImageError
from vimto.oci.tar import Entry, Kind, TarReader

# The root of a whole distribution has 30,000 to 300,000 files.
MAX_ENTRIES = 500_000
# Far above any real tree, and low enough for the recursion of `shutil.rmtree` in Python 3.11.
_MAX_DEPTH = 128
_MAX_PATH = 2048
_MAX_LINKS = 40  # as Linux (path_resolution(7))
_PIECE = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)
_OPAQUE = ".wh..wh..opq"


class LayerStream:
    """A layer's content as `TarReader` reads it: decompressed, whatever it came as.

    `meter` is called with the number of bytes of every piece, before anything is made of them,
    and may raise. `digest()` is the sha256 of all bytes up to here, if `want_digest`. Every
    method raises `ImageError` where the compressed data is damaged.
    """

    def __init__(
        self, path: Path, what: str, *, meter: Callable[[int], None], want_digest: bool = False
    ) -> None:
        self._what = what
        self._meter = meter
        self._hash = hashlib.sha256() if want_digest else None
        self._file = open(path, "rb")  # noqa: SIM115 (closed by `close`)
        form = compression.find_format(self._file.peek(8))
        packed = form in (Format.GZIP, Format.ZSTD)  # the specification knows no others
        self._content = compression.reader(self._file, form) if form and packed else self._file

    def close(self) -> None:
        """Close the layer's file."""
        self._file.close()

    def read(self, size: int) -> bytes:
        """Return `size` bytes, or fewer at the end."""
        try:
            data = self._content.read(size)
        except compression.damage() as exc:
            reason = compression.reason(exc)
            raise ImageError(f"{self._what} cannot be decompressed: {reason}") from exc
        self._meter(len(data))
        if self._hash is not None:
            self._hash.update(data)
        return data

    def skip(self, size: int) -> int:
        """Pass over `size` bytes, or fewer at the end, and return how many those were."""
        left = size
        while left and (data := self.read(min(left, _PIECE))):
            left -= len(data)
        return size - left

    def digest(self) -> str:
        """Read to the end and return the digest of everything."""
        while self.read(_PIECE):
            pass
        assert self._hash is not None, "the stream was opened without `want_digest`"
        return f"sha256:{self._hash.hexdigest()}"


class Unpacker:
    """Build the tree `root`, which must be an empty directory that is nobody else's.

    State: `_links` maps a directory to the symbolic links in it, name to target; `_own` holds
    the paths that the present layer made, which its whiteouts leave alone. All paths are
    relative to `root`, without a leading slash; the root itself is "".
    """

    def __init__(self, root: Path, *, limit: int, max_entries: int = MAX_ENTRIES) -> None:
        self._root = os.fspath(root)
        self._limit = limit
        self._max_entries = max_entries
        self._links: dict[str, dict[str, str]] = {}
        self._own: set[str] = set()
        self._real = {"": ""}
        self._entries = 0
        self._what = "the image"
        self.size = 0
        self.left_out: list[str] = []

    def add_layer(self, path: Path, what: str, *, diff_id: str = "") -> None:
        """Apply the layer in the file `path`, called `what` in errors.

        With `diff_id` the decompressed layer must have that digest.
        """
        self._what = what
        self._own = set()
        stream = LayerStream(path, what, meter=self._count, want_digest=bool(diff_id))
        try:
            reader = TarReader(stream, what)
            for entry in reader:
                self._add(entry, reader)
            if diff_id and stream.digest() != diff_id:
                raise ImageError(f"{what} is damaged: its content is not {diff_id}")
        finally:
            stream.close()

    def finish(self) -> None:
        """Make the symbolic links. Nothing may be added afterwards."""
        for directory, names in self._links.items():
            for name, target in names.items():
                self._call(os.symlink, target, self._at(_join(directory, name)))

    def _count(self, size: int) -> None:
        # Counted before it is interpreted: headers and skipped data cost time and memory too.
        self.size += size
        if self.size > self._limit:
            raise ImageError(
                f"the image unpacks to more than {self._limit >> 20} MiB",
                hint="raise the limit with `-image-limit` if you trust it",
            )

    def _add(self, entry: Entry, reader: TarReader) -> None:
        self._entries += 1
        if self._entries > self._max_entries:
            raise ImageError(f"the image has more than {self._max_entries} files")
        parts = self._split(entry.name)
        if not parts:  # the root itself
            return
        directory, name = self._resolve(parts[:-1]), parts[-1]
        if name.startswith(".wh."):
            self._whiteout(directory, name)
            return
        path = _join(directory, name)
        if entry.kind is Kind.OTHER:
            self.left_out.append(path)
            return
        self._check_length(path)
        self._make_directory(directory)
        if entry.kind is Kind.DIRECTORY:
            self._make_directory(path, mode=entry.mode)
            self._keep(path)
            return
        if entry.kind is Kind.HARDLINK:
            self._hardlink(entry, path)
        elif entry.kind is Kind.SYMLINK:
            self._remove(path)
            self._symlink(path, entry.target)
        else:
            self._file(entry, reader, path)
        self._keep(path)

    def _split(self, name: str) -> list[str]:
        """Return the components; an absolute name starts at the image's root, as with tar(1)."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise ImageError(f"{self._what} has the path `{name[:200]}`, which leads out of it")
        return parts

    def _check_length(self, path: str) -> None:
        if len(os.fsencode(path)) > _MAX_PATH or path.count("/") >= _MAX_DEPTH:
            raise ImageError(f"{self._what} has a path that is too long: `{path[:60]}…`")

    def _resolve(self, parts: list[str]) -> str:
        """Return the directory that `parts` lead to, following links inside the root."""
        key = "/".join(parts)
        known = self._real.get(key)
        if known is not None:
            return known
        todo, done, hops = parts[::-1], list[str](), 0
        while todo:
            part = todo.pop()
            if part == "..":  # of a link's target; above the root is the root
                done = done[:-1]
                continue
            target = self._links.get("/".join(done), {}).get(part)
            if target is None:
                done.append(part)
                continue
            hops += 1
            if hops > _MAX_LINKS:
                raise ImageError(f"{self._what} has a loop of symbolic links at `{key[:200]}`")
            if target.startswith("/"):
                done = []
            todo += [p for p in reversed(target.split("/")) if p not in ("", ".")]
        result = "/".join(done)
        self._check_length(result)
        self._real[key] = result
        return result

    def _keep(self, path: str) -> None:
        """Note that this layer made `path`, and thereby its parents."""
        while path and path not in self._own:
            self._own.add(path)
            path = path.rpartition("/")[0]

    def _make_directory(self, path: str, *, mode: int | None = None) -> None:
        """Make `path` a directory, replacing what is there, and its parents likewise."""
        if not path:
            return
        parent, _, name = path.rpartition("/")
        if name in self._links.get(parent, {}):
            self._remove(path)
        full = self._at(path)
        try:
            found = os.lstat(full)
        except OSError:  # not there, or below something that is not a directory
            self._make_directory(parent)
            self._call(os.mkdir, full, 0o755)
        else:
            if not stat.S_ISDIR(found.st_mode):
                self._remove(path)
                self._call(os.mkdir, full, 0o755)
        if mode is not None:
            self._call(os.chmod, full, (mode & 0o1777) | 0o700)

    def _symlink(self, path: str, target: str) -> None:
        directory, _, name = path.rpartition("/")
        if not target or len(os.fsencode(target)) > 4095:
            raise ImageError(f"{self._what} has a malformed symbolic link `{path[:200]}`")
        self._links.setdefault(directory, {})[name] = target
        self._real = {"": ""}

    def _hardlink(self, entry: Entry, path: str) -> None:
        parts = self._split(entry.target)
        if not parts:
            raise ImageError(f"{self._what} has a hard link `{path[:200]}` to nothing")
        directory, name = self._resolve(parts[:-1]), parts[-1]
        source = _join(directory, name)
        if source == path:
            return
        target = self._links.get(directory, {}).get(name)
        if target is not None:
            self._remove(path)
            self._symlink(path, target)
            return
        full = self._at(source)
        try:
            regular = stat.S_ISREG(os.lstat(full).st_mode)
        except OSError:
            regular = False
        if not regular:
            raise ImageError(
                f"{self._what} has a hard link `{path[:200]}` to `{source[:200]}`, "
                "which is not a file of the image"
            )
        self._remove(path)
        self._call(os.link, full, self._at(path))

    def _file(self, entry: Entry, reader: TarReader, path: str) -> None:
        if entry.parts is not None:  # holes cost nothing here, but whoever copies the tree
            self._count(entry.size - sum(length for _, length in entry.parts))
        directory, _, name = path.rpartition("/")
        if name in self._links.get(directory, {}):
            self._remove(path)
        full = self._at(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(full, flags, 0o600)
        except FileExistsError:
            self._remove(path)
            fd = self._call(os.open, full, flags, 0o600)
        except OSError as exc:
            raise self._failed(exc) from exc
        try:
            _write(fd, entry, reader)
            # Without set-id bits, and always readable by its owner, or QEMU could not serve it.
            os.fchmod(fd, (entry.mode & 0o777) | 0o400)
            moment = int(entry.mtime * 1e9) if math.isfinite(entry.mtime) else 0
            moment = max(0, min(moment, 1 << 62))
            os.utime(fd, ns=(moment, moment))
        except OSError as exc:
            raise self._failed(exc) from exc
        finally:
            os.close(fd)

    def _whiteout(self, directory: str, name: str) -> None:
        if name == _OPAQUE:
            self._clear(directory)
            return
        if name.startswith(".wh..wh."):  # aufs' own records
            return
        hidden = name.removeprefix(".wh.")
        if not hidden or hidden in (".", ".."):
            raise ImageError(f"{self._what} has a malformed whiteout in `{directory[:200]}`")
        path = _join(directory, hidden)
        if path in self._own:
            self._clear(path)
        else:
            self._remove(path)

    def _clear(self, directory: str) -> None:
        """Remove from `directory` what lower layers put there, at any depth."""
        names = set(self._links.get(directory, {}))
        full = self._at(directory)
        if os.path.isdir(full):
            names.update(os.listdir(full))
        for name in names:
            path = _join(directory, name)
            if path in self._own:
                self._clear(path)
            else:
                self._remove(path)

    def _remove(self, path: str) -> None:
        """Remove whatever is at `path`, if anything."""
        directory, _, name = path.rpartition("/")
        if self._links.get(directory, {}).pop(name, None) is not None:
            self._real = {"": ""}
        full = self._at(path)
        try:
            found = os.lstat(full)
        except OSError:
            return
        if not stat.S_ISDIR(found.st_mode):
            self._call(os.unlink, full)
            return
        for below, _, _ in os.walk(full):
            self._links.pop(below[len(self._root) + 1 :], None)
        self._real = {"": ""}
        shutil.rmtree(full)

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _call(self, function: Callable[..., Any], *arguments: object) -> Any:
        try:
            return function(*arguments)
        except OSError as exc:
            raise self._failed(exc) from exc

    def _failed(self, exc: OSError) -> ImageError:
        name = os.fsdecode(exc.filename or "").removeprefix(self._root + "/")
        where = f" `{name[:200]}`" if name else ""
        hint = "free some space, or choose another `-cache-dir`" if exc.errno in _FULL else ""
        return ImageError(f"{self._what} cannot be unpacked: {exc.strerror}{where}", hint=hint)


def _write(fd: int, entry: Entry, reader: TarReader) -> None:
    if entry.parts is None:
        for data in reader.chunks():
            _write_all(fd, data)
        return
    os.ftruncate(fd, entry.size)
    parts = [part for part in entry.parts if part[1]]
    chunks, data = reader.chunks(), b""
    for offset, length in parts:
        os.lseek(fd, offset, os.SEEK_SET)
        while length:
            data = data or next(chunks)
            _write_all(fd, data[:length])
            length, data = length - min(length, len(data)), data[length:]


def _write_all(fd: int, data: bytes) -> None:
    while (done := os.write(fd, data)) < len(data):
        data = data[done:]


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name
