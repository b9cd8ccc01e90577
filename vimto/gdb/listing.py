"""Symbols of modules out of the kernel's memory, for a gdb that has no debug information.

A module's `struct module` points at the symbol table that /proc/kallsyms shows
(kernel/module/kallsyms.c). Where in the structure it does so differs from kernel to kernel, and the
kernel's own type information, /sys/kernel/btf/vmlinux, tells: Documentation/bpf/btf.rst.

gdb imports this file by its path, as `inside`, so it imports nothing of ours.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

_MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
_MEMBER = struct.Struct("<III")
_STRUCT = 4
# Bytes that follow a type's three numbers: (fixed, for each of its `vlen` elements).
_TAILS = {
    1: (4, 0),  # INT
    3: (12, 0),  # ARRAY
    4: (0, 12),  # STRUCT
    5: (0, 12),  # UNION
    6: (0, 8),  # ENUM
    13: (0, 8),  # FUNC_PROTO
    14: (4, 0),  # VAR
    15: (0, 12),  # DATASEC
    17: (4, 0),  # DECL_TAG
    19: (0, 12),  # ENUM64
}

_SYMBOL = struct.Struct("<IBBHQQ")  # Elf64_Sym
_PAGE = 4096
# nouveau, one of the largest, has 17,000 symbols; beyond these limits it is not a table.
_MOST_SYMBOLS = 1 << 20
_MOST_NAMES = 64 << 20
_FUNCTION, _OBJECT, _NO_TYPE = 2, 1, 0
_KERNEL_HALF = 0xFFFF_8000_0000_0000

Read = Callable[[int, int], bytes]


class Layout(NamedTuple):
    """Where the fields lie, in bytes from the start of their structure."""

    name: int
    kallsyms: int
    symtab: int
    num_symtab: int
    strtab: int


class Symbol(NamedTuple):
    """A name at an address; `kind` is nm(1)'s letter."""

    address: int
    kind: str
    name: str


def find_layout(btf: bytes) -> Layout | None:
    """Return the layout that a kernel's BTF describes, None where it lacks one of the fields.

    Raises `ValueError` for what is not BTF.
    """
    found = _members(btf, ("module", "mod_kallsyms"))
    module, table = found.get("module", {}), found.get("mod_kallsyms", {})
    try:
        return Layout(
            name=module["name"],
            kallsyms=module["kallsyms"],
            symtab=table["symtab"],
            num_symtab=table["num_symtab"],
            strtab=table["strtab"],
        )
    except KeyError:
        return None


def _members(btf: bytes, wanted: tuple[str, ...]) -> Mapping[str, Mapping[str, int]]:
    """Return the members of the structures `wanted`, by name, with their offsets in bytes."""
    try:
        return dict(_structures(btf, wanted))
    except (struct.error, IndexError) as exc:
        raise ValueError(f"the type information is damaged: {exc}") from exc


def _structures(btf: bytes, wanted: tuple[str, ...]) -> Iterator[tuple[str, dict[str, int]]]:
    magic, _, _, header, types_at, types_size, names_at, names_size = _HEADER.unpack_from(btf)
    if magic != _MAGIC:
        raise ValueError("it is not BTF of a little-endian kernel")
    names = btf[header + names_at : header + names_at + names_size]
    # Strings are unique, so that their offsets can be compared instead of them.
    places = {names.find(f"\0{name}\0".encode()) + 1: name for name in wanted}
    at, end = header + types_at, header + types_at + types_size
    while at < end:
        name, info, _ = _TYPE.unpack_from(btf, at)
        at += _TYPE.size
        kind, count = info >> 24 & 0x1F, info & 0xFFFF
        if kind == _STRUCT and name in places:
            entries = _MEMBER.iter_unpack(btf[at : at + count * _MEMBER.size])
            bits = 0xFFFFFF if info >> 31 else 0xFFFFFFFF  # above them: the size of a bit field
            yield (
                places[name],
                {_text(names, member): (offset & bits) // 8 for member, _, offset in entries},
            )
        fixed, each = _TAILS.get(kind, (0, 0))
        at += fixed + each * count


def _text(names: bytes, at: int) -> str:
    return names[at : names.index(b"\0", at)].decode("utf-8", "replace")


def read_module(read: Read, module: int, layout: Layout) -> tuple[str, list[Symbol]]:
    """Return the name and the symbols of the `struct module` at the address `module`.

    `read(address, size)` reads the kernel's memory. Raises `ValueError` for what is not a module.
    """
    name = read(module + layout.name, 56).split(b"\0", 1)[0].decode("ascii", "replace")
    table = _pointer(read, module + layout.kallsyms)
    count = int.from_bytes(read(table + layout.num_symtab, 4), "little")
    if count > _MOST_SYMBOLS:
        raise ValueError(f"the module {name!r} claims {count} symbols")
    entries = read(_pointer(read, table + layout.symtab), count * _SYMBOL.size)
    names = _Names(read, _pointer(read, table + layout.strtab), entries)
    found = []
    for at, info, _, section, address, _ in _SYMBOL.iter_unpack(entries):
        kind = _kind(info)
        text = names.at(at) if kind and section and address >= _KERNEL_HALF else ""
        if text:
            found.append(Symbol(address, kind, text))
    return name, found


def _kind(info: int) -> str:
    if chr(info) in "tTdDbBrRwWvV":  # before 5.2 nm's letter stands where the type was
        return chr(info)
    letter = {_FUNCTION: "t", _OBJECT: "d", _NO_TYPE: "t"}.get(info & 0xF, "")
    return letter.upper() if info >> 4 else letter


class _Names:
    """The table of names, read at once as far as the entries point into it."""

    def __init__(self, read: Read, start: int, entries: bytes) -> None:
        last = max((entry[0] for entry in _SYMBOL.iter_unpack(entries)), default=0)
        if last > _MOST_NAMES:
            raise ValueError("the names of a module lie outside of their table")
        # The table's end is not known, and what lies behind its last page may not be mapped.
        size = last + _PAGE - (start + last) % _PAGE
        self._data = read(start, size)
        if b"\0" not in self._data[last:]:
            self._data += read(start + size, _PAGE)

    def at(self, offset: int) -> str:
        end = self._data.find(b"\0", offset)
        return self._data[offset:end].decode("utf-8", "replace")


def _pointer(read: Read, address: int) -> int:
    found = int.from_bytes(read(address, 8), "little")
    if found < _KERNEL_HALF:
        raise ValueError(f"{found:#x} is not an address of the kernel")
    return found
