"""ELF files, as much as gdb needs of us: whose build a kernel is, and symbol tables of our own.

elf(5). Only 64-bit little-endian files, which all of vimto's machines are. gdb's own Python imports
this file by its path (`inside.load_sibling`) and has none of vimto's modules.
"""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_NOTE = struct.Struct("<III")

_PT_NOTE = 4
_SHT_SYMTAB, _SHT_STRTAB, _SHT_NOTE, _SHT_NOBITS = 2, 3, 7, 8
_SHF_WRITE, _SHF_ALLOC, _SHF_EXEC = 1, 2, 4
_NT_GNU_BUILD_ID = 3
_ET_EXEC, _EM_X86_64 = 2, 62
_STT_OBJECT, _STT_FUNC = 1, 2
_STB_LOCAL, _STB_GLOBAL = 0, 1
_CODE = "tTwW"  # nm(1)'s letters
# A kernel has a few kilobytes of notes; whatever claims more is no kernel.
_MAX_NOTES = 1 << 20


class Symbol(NamedTuple):
    """A name at an address; `kind` is nm(1)'s letter, in capitals for a global one."""

    address: int
    kind: str
    name: str


def find_build_id(path: Path) -> str:
    """Return the build-id of an ELF file in hexadecimal, "" where it has none or is no ELF."""
    from vimto.files import open_file  # on the host alone
    from vimto.kernel.bzimage import LARGEST

    with open_file(path, LARGEST) as file:
        for notes in _notes(file):
            found = parse_notes(notes)
            if found:
                return found
    return ""


def parse_notes(data: bytes) -> str:
    """Return the build-id among ELF notes (`/sys/kernel/notes`), "" without one."""
    at = 0
    while at + _NOTE.size <= len(data):
        name_size, size, kind = _NOTE.unpack_from(data, at)
        name_at = at + _NOTE.size
        desc_at = name_at + (name_size + 3) // 4 * 4
        if kind == _NT_GNU_BUILD_ID and data[name_at : name_at + name_size] == b"GNU\0":
            return data[desc_at : desc_at + size].hex()
        at = desc_at + (size + 3) // 4 * 4
    return ""


def _notes(file: BinaryIO) -> Iterator[bytes]:
    head = file.read(_HEADER.size)
    if len(head) < _HEADER.size or head[:5] != b"\x7fELF\x02":
        return
    fields = _HEADER.unpack(head)
    segments, sections, segment_count, section_count = fields[5], fields[6], fields[10], fields[12]
    places = []
    # Sections first: in a file of debug information alone the segments point nowhere.
    for entry in _table(file, sections, section_count, _SECTION):
        if entry[1] == _SHT_NOTE:
            places.append((entry[4], entry[5]))
    for entry in _table(file, segments, segment_count, _SEGMENT):
        if entry[0] == _PT_NOTE:
            places.append((entry[2], entry[5]))
    for offset, size in places:
        file.seek(offset)
        yield file.read(min(size, _MAX_NOTES))


def _table(file: BinaryIO, offset: int, count: int, shape: struct.Struct) -> list[tuple[int, ...]]:
    file.seek(offset)
    data = file.read(count * shape.size)
    return list(shape.iter_unpack(data[: len(data) // shape.size * shape.size]))


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

    (text, text_size), (data, data_size) = extents
    sections = [
        bytes(_SECTION.size),
        section(
            b".text",
            _SHT_NOBITS,
            _SHF_ALLOC | _SHF_EXEC,
            (text, table_at, text_size),
            (0, 0, 16, 0),
        ),
        section(
            b".data",
            _SHT_NOBITS,
            _SHF_ALLOC | _SHF_WRITE,
            (data, table_at, data_size),
            (0, 0, 16, 0),
        ),
        section(
            b".symtab",
            _SHT_SYMTAB,
            0,
            (0, table_at, len(table)),
            (4, first_global, 8, _SYMBOL.size),
        ),
        section(b".strtab", _SHT_STRTAB, 0, (0, names_at, len(names)), (0, 0, 1, 0)),
        section(b".shstrtab", _SHT_STRTAB, 0, (0, titles_at, len(titles)), (0, 0, 1, 0)),
    ]
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = _HEADER.pack(
        identity, _ET_EXEC, _EM_X86_64, 1, 0, 0, sections_at, 0, 64, 0, 0, 64, len(sections), 5
    )
    file.write(header + table + names + titles)
    file.write(bytes(sections_at - titles_at - len(titles)) + b"".join(sections))
