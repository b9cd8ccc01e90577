"""ELF files: what vimto reads of kernels, modules and debug information, and writes for gdb.

elf(5). Only 64-bit little-endian files, which all of vimto's machines are. gdb's own Python imports
this file by its path (`gdb.inside.load_beside`) and has none of vimto's modules.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, Literal, NamedTuple, Protocol

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_NOTE = struct.Struct("<III")

_MAGIC = b"\x7fELF\x02\x01"
_PT_LOAD, _PT_NOTE = 1, 4
_SHT_SYMTAB, _SHT_STRTAB, _SHT_NOTE, _SHT_NOBITS = 2, 3, 7, 8
_SHF_WRITE, _SHF_ALLOC, _SHF_EXEC = 1, 2, 4
_NT_GNU_BUILD_ID = 3
_ET_EXEC, _EM_X86_64 = 2, 62
_STT_OBJECT, _STT_FUNC = 1, 2
_STB_LOCAL, _STB_GLOBAL = 0, 1
_CODE = "tTwW"  # nm(1)'s letters
# A kernel has a few kilobytes of notes; whatever claims more is not a kernel.
_MAX_NOTES = 1 << 20


class Source(Protocol):
    """What `Elf` reads: an open file, or memory that looks like one."""

    def read(self, size: int, /) -> bytes: ...
    def seek(self, offset: int, whence: Literal[0, 1, 2] = 0, /) -> object: ...
    def tell(self) -> int: ...


class Segment(NamedTuple):
    """What a loader looks at. Where its content lies is what the file claims, true or not."""

    kind: int
    offset: int
    address: int
    size: int

    @property
    def is_loaded(self) -> bool:
        """Whether a loader needs the content."""
        return self.kind in (_PT_LOAD, _PT_NOTE)

    @property
    def holds_notes(self) -> bool:
        return self.kind == _PT_NOTE


class Section(NamedTuple):
    """What a linker or a debugger looks at; see `Segment`."""

    name: str
    kind: int
    offset: int
    size: int

    @property
    def holds_notes(self) -> bool:
        return self.kind == _SHT_NOTE


class Note(NamedTuple):
    """A note; `owner` as it stands there, with its NUL."""

    owner: bytes
    kind: int
    content: bytes


class Elf:
    """The ELF file that is open as `file`.

    Raises `ValueError` for any other file, and where the tables that are asked for are not whole.
    """

    def __init__(self, file: Source) -> None:
        self._file = file
        file.seek(0, 2)
        self._end = file.tell()
        file.seek(0)
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size or not is_elf(head):
            raise ValueError("it is not a 64-bit little-endian ELF file")
        self._fields = _HEADER.unpack(head)

    def segments(self) -> list[Segment]:
        offset, size, count = self._fields[5], self._fields[9], self._fields[10]
        rows = self._table(_SEGMENT, offset, size, count)
        return [Segment(row[0], row[2], row[3], row[5]) for row in rows]

    def sections(self) -> list[Section]:
        offset, size, count, names_at = self._fields[6], *self._fields[11:14]
        rows = self._table(_SECTION, offset, size, count)
        if not rows:
            return []
        if names_at >= count:
            raise ValueError("its sections have no names")
        names = self.read(Section("", _SHT_STRTAB, rows[names_at][4], rows[names_at][5]))

        def name(at: int) -> str:
            return names[at : names.index(b"\0", at)].decode("latin-1")

        return [Section(name(row[0]), row[1], row[4], row[5]) for row in rows]

    def read(self, part: Segment | Section, limit: int | None = None) -> bytes:
        """Return a part's content, or as much as there is of it, at most `limit` bytes."""
        if part.offset >= self._end:
            return b""
        self._file.seek(part.offset)
        size = min(part.size, self._end - part.offset)
        return self._file.read(size if limit is None else min(size, limit))

    def read_memory(self, address: int, size: int) -> bytes:
        """Return up to `size` bytes of what the file puts at `address`, none where it puts none."""
        for part in self.segments():
            skipped = address - part.address
            if part.kind == _PT_LOAD and 0 <= skipped < part.size:
                rest = part._replace(offset=part.offset + skipped, size=part.size - skipped)
                return self.read(rest, size)
        return b""

    def notes(self, parts: Sequence[Segment | Section]) -> Iterator[Note]:
        """Yield the notes in those of `parts` that hold some."""
        for part in parts:
            if part.holds_notes:
                yield from parse_notes(self.read(part, _MAX_NOTES))

    def loaded_size(self) -> int:
        """Return where the bytes end that a loader needs.

        Beyond them are symbols and debug information, which a linker puts last.
        """
        loaded = (part for part in self.segments() if part.is_loaded)
        return max((part.offset + part.size for part in loaded), default=0)

    def header_without_sections(self) -> bytes:
        """Return the file's header, changed to say that there are no sections."""
        fields = list(self._fields)
        fields[6] = fields[12] = fields[13] = 0
        return _HEADER.pack(*fields)

    def _table(
        self, shape: struct.Struct, offset: int, size: int, count: int
    ) -> list[tuple[int, ...]]:
        if not offset or not count:
            return []
        if size < shape.size or offset + size * count > self._end:
            raise ValueError("its tables are damaged")
        self._file.seek(offset)
        data = self._file.read(size * count)
        return [shape.unpack_from(data, at) for at in range(0, len(data), size)]


def is_elf(head: bytes) -> bool:
    """Say whether a file that begins with `head` is a 64-bit little-endian ELF file."""
    return head.startswith(_MAGIC)


def parse_notes(data: bytes) -> Iterator[Note]:
    """Yield the notes in `data`, as in a file's segment or `/sys/kernel/notes`."""
    at = 0
    while at + _NOTE.size <= len(data):
        owner_size, size, kind = _NOTE.unpack_from(data, at)
        owner_at = at + _NOTE.size
        content_at = owner_at + (owner_size + 3) // 4 * 4
        owner = data[owner_at : owner_at + owner_size]
        yield Note(owner, kind, data[content_at : content_at + size])
        at = content_at + (size + 3) // 4 * 4


def find_build_id(notes: Iterable[Note]) -> str:
    """Return the build-id among `notes` in hexadecimal, "" without one."""
    for note in notes:
        if note.kind == _NT_GNU_BUILD_ID and note.owner == b"GNU\0":
            return note.content.hex()
    return ""


class Symbol(NamedTuple):
    """A name at an address; `kind` is nm(1)'s letter, in capitals for a global one."""

    address: int
    kind: str
    name: str


def write_symbols(symbols: Sequence[Symbol], file: BinaryIO) -> None:
    """Write an ELF file that holds nothing but `symbols`, for gdb's `symbol-file`.

    Code and data get a section each without content, so that gdb reads memory from the machine;
    one for both where they lie among each other, as in a module: gdb takes no section that
    overlaps another. A symbol's size reaches to the next one of its section.
    """
    groups = _group(symbols)
    names = bytearray(b"\0")
    locals_: list[bytes] = []
    globals_: list[bytes] = []
    for index, group in enumerate(groups, start=1):
        for at, symbol in enumerate(group):
            following = group[at + 1].address if at + 1 < len(group) else symbol.address + 16
            binding = _STB_GLOBAL if symbol.kind.isupper() else _STB_LOCAL
            kind = _STT_FUNC if symbol.kind in _CODE else _STT_OBJECT
            entry = _SYMBOL.pack(
                len(names),
                binding << 4 | kind,
                0,
                index,
                symbol.address,
                following - symbol.address,
            )
            (globals_ if binding else locals_).append(entry)
            names += symbol.name.encode("utf-8", "replace") + b"\0"
    table = _SYMBOL.pack(0, 0, 0, 0, 0, 0) + b"".join(locals_) + b"".join(globals_)
    _write_file(file, [_extent(group) for group in groups], table, bytes(names), len(locals_) + 1)


def _group(symbols: Sequence[Symbol]) -> tuple[list[Symbol], list[Symbol]]:
    """Return the symbols of each section, sorted by address."""
    code = sorted(symbol for symbol in symbols if symbol.kind in _CODE)
    data = sorted(symbol for symbol in symbols if symbol.kind not in _CODE)
    if code and data and code[0] < data[-1] and data[0] < code[-1]:
        return sorted(symbols), []
    return code, data


def _extent(group: Sequence[Symbol]) -> tuple[int, int]:
    if not group:
        return 0, 0
    return group[0].address, group[-1].address + 16 - group[0].address


def _write_file(
    file: BinaryIO,
    extents: Sequence[tuple[int, int]],
    table: bytes,
    names: bytes,
    first_global: int,
) -> None:
    titles = b"\0.text\0.data\0.symtab\0.strtab\0.shstrtab\0"
    table_at = _HEADER.size
    names_at = table_at + len(table)
    titles_at = names_at + len(names)
    sections_at = (titles_at + len(titles) + 7) // 8 * 8

    def section(
        title: bytes, kind: int, flags: int, place: tuple[int, int, int], rest: tuple[int, ...]
    ) -> bytes:
        name = titles.index(b"\0" + title + b"\0") + 1
        address, offset, size = place
        return _SECTION.pack(name, kind, flags, address, offset, size, *rest)

    def zone(title: bytes, flags: int, extent: tuple[int, int]) -> bytes:
        place = (extent[0], table_at, extent[1])
        return section(title, _SHT_NOBITS, _SHF_ALLOC | flags, place, (0, 0, 16, 0))

    def strings(title: bytes, offset: int, size: int) -> bytes:
        return section(title, _SHT_STRTAB, 0, (0, offset, size), (0, 0, 1, 0))

    symbols = (4, first_global, 8, _SYMBOL.size)  # 4 is .strtab's index
    sections = [
        bytes(_SECTION.size),
        zone(b".text", _SHF_EXEC, extents[0]),
        zone(b".data", _SHF_WRITE, extents[1]),
        section(b".symtab", _SHT_SYMTAB, 0, (0, table_at, len(table)), symbols),
        strings(b".strtab", names_at, len(names)),
        strings(b".shstrtab", titles_at, len(titles)),
    ]
    identity = (_MAGIC + b"\x01").ljust(16, b"\0")
    header = _HEADER.pack(
        identity, _ET_EXEC, _EM_X86_64, 1, 0, 0, sections_at, 0, 64, 0, 0, 64, len(sections), 5
    )
    file.write(header + table + names + titles)
    file.write(bytes(sections_at - titles_at - len(titles)) + b"".join(sections))
