"""A reader of tar streams that a stranger wrote.

The standard library's reader keeps every header in memory, reads an extended header of any size
into memory, and recurses once per extended header. This one does none of that, and hands out
entries and bytes without ever touching a file system. It reads ustar, GNU and pax archives, and
the sparse files of GNU tar (the old format and pax 0.0, 0.1 and 1.0).

Source: POSIX.1-2017 pax(1), GNU tar's manual ("Basic Tar Format", "Storing Sparse Files").
"""

import enum
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from vimto.errors import ImageError

BLOCK = 512
# A name has at most 4,096 bytes, an extended header is seldom longer than a few hundred.
_EXTENDED_LIMIT = 1 << 20
_EXTENDED_RUN = 16
_SPARSE_PARTS = 1 << 16
CHUNK = 1 << 20


class Kind(enum.Enum):
    """What an entry makes; devices and fifos are `OTHER`."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"
    OTHER = "other"


class Entry(NamedTuple):
    """One member: `size` is the file's, holes included; `name` and `target` are as written.

    `parts` are the (offset, length) of a sparse file's data, None for an ordinary file.
    """

    name: str
    kind: Kind
    mode: int
    mtime: float
    size: int
    target: str
    parts: tuple[tuple[int, int], ...] | None


class Stream(Protocol):
    """Where the bytes come from.

    `read` and `skip` return fewer than asked for, or how many they skipped, only at the end.
    """

    def read(self, size: int, /) -> bytes: ...
    def skip(self, size: int, /) -> int: ...


@dataclass
class _Extended:
    """What extended headers said about the entry that follows them."""

    name: bytes | None = None
    target: bytes | None = None
    size: int | None = None
    mtime: float | None = None
    sparse: dict[str, str] = field(default_factory=dict)
    offsets: list[tuple[int, int]] = field(default_factory=list)


class TarReader:
    """Iterate over a stream's entries; between two of them `chunks` yields the entry's bytes.

    State: `_left` bytes of the present entry are unread, `_pad` bytes of padding follow them.
    Raises `ImageError` for every malformed archive.
    """

    def __init__(self, stream: Stream, what: str) -> None:
        self._stream = stream
        self._what = what
        self._left = 0
        self._pad = 0
        self.position = 0

    def __iter__(self) -> Iterator[Entry]:
        while (entry := self._next()) is not None:
            yield entry

    def chunks(self) -> Iterator[bytes]:
        """Yield the present entry's data, without holes, in pieces of at most 1 MiB."""
        while self._left:
            data = self._stream.read(min(self._left, CHUNK))
            if not data:
                raise self._broken("ends in the middle of a file")
            self._left -= len(data)
            self.position += len(data)
            yield data

    def _broken(self, reason: str) -> ImageError:
        return ImageError(f"{self._what} is not a sound tar archive: it {reason}")

    def _next(self) -> Entry | None:
        extended = _Extended()
        for _ in range(_EXTENDED_RUN):
            self._skip()
            header = self._read(BLOCK, end=True)
            if not header or header.count(0) == BLOCK:
                return None
            _check_sum(header, self._broken)
            kind = header[156:157]
            size = self._number(header[124:136])
            if kind in b"xgLK" and kind:
                if size > _EXTENDED_LIMIT:
                    raise self._broken(f"has an extended header of {size} bytes")
                self._begin(size)
                data = b"".join(self.chunks())
                self._extend(extended, kind, data)
                continue
            return self._entry(header, kind, size, extended)
        raise self._broken(f"has {_EXTENDED_RUN} extended headers in a row")

    def _begin(self, size: int) -> None:
        self._left = size
        self._pad = -size % BLOCK

    def _skip(self) -> None:
        if self._left:
            skipped = self._stream.skip(self._left)
            self.position += skipped
            if skipped < self._left:
                raise self._broken("ends in the middle of a file")
            self._left = 0
        if self._pad:
            self._read(self._pad, end=True)
            self._pad = 0

    def _read(self, size: int, *, end: bool = False) -> bytes:
        data = self._stream.read(size)
        self.position += len(data)
        if len(data) < size and not (end and not data):
            raise self._broken("is cut off")
        return data

    def _number(self, text: bytes) -> int:
        if text[0] & 0x80:  # GNU's base 256, for what octal digits cannot hold
            value = int.from_bytes(text, "big", signed=False) & ((1 << (8 * len(text) - 1)) - 1)
            if text[0] & 0x40 or value >> 62:
                raise self._broken("has a number out of range")
            return value
        try:
            value = int(text.strip(b" \0") or b"0", 8)
        except ValueError:
            raise self._broken("has a malformed number") from None
        if value < 0:
            raise self._broken("has a negative number")
        return value

    def _decimal(self, text: str | bytes) -> int:
        if not (text.isascii() and text.isdigit()) or len(text) > 18:
            raise self._broken("has a malformed number")
        return int(text)

    def _extend(self, extended: _Extended, kind: bytes, data: bytes) -> None:
        if kind == b"L":
            extended.name = data.rstrip(b"\0")
        elif kind == b"K":
            extended.target = data.rstrip(b"\0")
        elif kind == b"x":  # "g" holds defaults for the whole archive: comments, in practice
            for key, value in self._records(data):
                self._record(extended, key, value)

    def _records(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        at = 0
        while at < len(data):
            space = data.find(b" ", at, at + 10)
            if space < 0:
                raise self._broken("has a malformed extended header")
            end = at + self._decimal(data[at:space])
            if end > len(data) or end <= space + 2 or data[end - 1] != 0x0A:
                raise self._broken("has a malformed extended header")
            key, equals, value = data[space + 1 : end - 1].partition(b"=")
            if not equals:
                raise self._broken("has a malformed extended header")
            yield key.decode("utf-8", "replace"), value
            at = end

    def _record(self, extended: _Extended, key: str, value: bytes) -> None:
        if key == "path":
            extended.name = value
        elif key == "linkpath":
            extended.target = value
        elif key == "size":
            extended.size = self._decimal(value)
        elif key == "mtime":
            try:
                extended.mtime = float(value)
            except ValueError:
                raise self._broken("has a malformed time") from None
        elif key == "GNU.sparse.offset":
            extended.offsets.append((self._decimal(value), 0))
        elif key == "GNU.sparse.numbytes" and extended.offsets:
            extended.offsets[-1] = (extended.offsets[-1][0], self._decimal(value))
        elif key.startswith("GNU.sparse."):
            extended.sparse[key.removeprefix("GNU.sparse.")] = os.fsdecode(value)

    def _entry(self, header: bytes, code: bytes, size: int, extended: _Extended) -> Entry:
        name = _cut(header[0:100])
        if header[257:263] == b"ustar\0" and header[345]:
            name = _cut(header[345:500]) + b"/" + name
        if extended.name is not None:
            name = extended.name
        if extended.size is not None:
            size = extended.size
        mtime = self._number(header[136:148]) if not header[136] & 0x80 else 0
        kind = _KINDS.get(code, Kind.OTHER)
        if code in b"\0" and name.endswith(b"/"):  # how tars before POSIX wrote directories
            kind = Kind.DIRECTORY
        # Links, devices and directories have no data, whatever their size field says.
        self._begin(size if kind is Kind.FILE or code not in b"123456" else 0)
        target = _cut(header[157:257]) if extended.target is None else extended.target
        parts: tuple[tuple[int, int], ...] | None = None
        if code == b"S":
            size, parts = self._old_sparse(header)
        elif kind is Kind.FILE and (extended.sparse or extended.offsets):
            name = os.fsencode(extended.sparse.get("name", "")) or name
            size, parts = self._pax_sparse(extended)
        if parts is not None:
            self._check_parts(size, parts)
        if b"\0" in name or b"\0" in target:
            raise self._broken("has a name with a NUL byte")
        return Entry(
            name=os.fsdecode(name),
            kind=kind,
            mode=self._number(header[100:108]) & 0o7777,
            mtime=mtime if extended.mtime is None else extended.mtime,
            size=size if kind is Kind.FILE else 0,
            target=os.fsdecode(target),
            parts=parts,
        )

    def _old_sparse(self, header: bytes) -> tuple[int, tuple[tuple[int, int], ...]]:
        size = self._number(header[483:495])
        parts = self._old_parts(header[386:482])
        more = header[482]
        while more:
            block = self._read(BLOCK)
            parts += self._old_parts(block[:504])
            more = block[504]
            if len(parts) > _SPARSE_PARTS:
                raise self._broken("has a sparse file of too many parts")
        return size, tuple(parts)

    def _old_parts(self, data: bytes) -> list[tuple[int, int]]:
        slots = [data[at : at + 24] for at in range(0, len(data), 24)]
        return [(self._number(s[:12]), self._number(s[12:])) for s in slots if s[0]]

    def _pax_sparse(self, extended: _Extended) -> tuple[int, tuple[tuple[int, int], ...]]:
        sparse = extended.sparse
        size = self._decimal(sparse.get("realsize") or sparse.get("size") or "")
        if sparse.get("major") == "1":
            return size, self._data_map()
        if "map" in sparse:
            numbers = [self._decimal(text) for text in sparse["map"].split(",") if text]
            if len(numbers) % 2:
                raise self._broken("has a sparse file with half a part")
            return size, tuple(zip(numbers[::2], numbers[1::2], strict=True))
        return size, tuple(extended.offsets)

    def _data_map(self) -> tuple[tuple[int, int], ...]:
        """Read the map that pax 1.0 puts, padded to blocks, before the file's data."""
        data, numbers = b"", list[int]()
        need = 1
        while len(numbers) < need:
            line, newline, rest = data.partition(b"\n")
            if not newline:
                if self._left < BLOCK or len(data) > BLOCK:
                    raise self._broken("has a malformed sparse map")
                data += self._read(BLOCK)
                self._left -= BLOCK
                continue
            data = rest
            numbers.append(self._decimal(line))
            if len(numbers) == 1:
                if numbers[0] > _SPARSE_PARTS:
                    raise self._broken("has a sparse file of too many parts")
                need = 1 + 2 * numbers[0]
        return tuple(zip(numbers[1::2], numbers[2::2], strict=True))

    def _check_parts(self, size: int, parts: tuple[tuple[int, int], ...]) -> None:
        end = 0
        for offset, length in parts:
            if offset < end or offset + length > size:
                raise self._broken("has a sparse file with parts out of order")
            end = offset + length
        if sum(length for _, length in parts) != self._left:
            raise self._broken("has a sparse file whose parts are not its data")


_KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"S": Kind.FILE,
    b"1": Kind.HARDLINK,
    b"2": Kind.SYMLINK,
    b"5": Kind.DIRECTORY,
}


def _cut(text: bytes) -> bytes:
    return text.partition(b"\0")[0]


def _check_sum(header: bytes, broken: Callable[[str], ImageError]) -> None:
    text = header[148:156].strip(b" \0")
    try:
        want = int(text, 8)
    except ValueError:
        want = -1
    # The sum counts its own field as eight spaces.
    if want != sum(header) - sum(header[148:156]) + 256:
        raise broken("has a header with a wrong checksum")
