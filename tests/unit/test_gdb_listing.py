"""Modules' symbols out of a kernel's memory, which is made here."""

import struct

import pytest

from vimto.gdb import listing

BASE = 0xFFFF_FFFF_C000_0000


def make_btf(*structures: tuple[str, list[tuple[str, int]]], kind_flag: bool = False) -> bytes:
    """Return type information with an integer, a function's type and `structures`.

    The members of each come with their offsets in bytes.
    """
    names = bytearray(b"\0")

    def name(text: str) -> int:
        at = names.find(f"\0{text}\0".encode())
        if at >= 0:
            return at + 1
        names.extend(text.encode() + b"\0")
        return len(names) - len(text) - 1

    types = struct.pack("<IIII", name("int"), 1 << 24, 4, 32)
    types += struct.pack("<III", 0, 13 << 24 | 2, 1) + bytes(16)
    for title, members in structures:
        flag = 1 << 31 if kind_flag else 0
        types += struct.pack("<III", name(title), 4 << 24 | len(members) | flag, 0)
        for member, offset in members:
            width = 3 << 24 if kind_flag else 0
            types += struct.pack("<III", name(member), 1, offset * 8 | width)
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(names))
    return header + types + bytes(names)


MODULE = ("module", [("state", 0), ("name", 24), ("kallsyms", 400)])
TABLE = ("mod_kallsyms", [("symtab", 0), ("num_symtab", 8), ("strtab", 16)])
LAYOUT = listing.Layout(name=24, kallsyms=400, symtab=0, num_symtab=8, strtab=16)


@pytest.mark.parametrize("kind_flag", [False, True])
def test_where_the_fields_lie(kind_flag: bool) -> None:
    assert listing.find_layout(make_btf(MODULE, TABLE, kind_flag=kind_flag)) == LAYOUT
    assert listing.find_layout(make_btf(MODULE, kind_flag=kind_flag)) is None


@pytest.mark.parametrize("data", [b"", b"x" * 40, make_btf(MODULE, TABLE)[:60]])
def test_what_is_not_type_information(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"damaged|not BTF"):
        listing.find_layout(data)


def memory(*parts: tuple[int, bytes]) -> listing.Read:
    """Return what reads a kernel's memory that holds `parts` and ends with its page."""

    def read(address: int, size: int) -> bytes:
        for start, data in parts:
            end = (start + len(data) + 4095) // 4096 * 4096
            if start <= address and address + size <= end:
                return data[address - start :].ljust(size, b"\0")[:size]
        raise OSError(f"nothing is mapped at {address:#x}")

    return read


def entry(name: int, info: int, section: int, address: int) -> bytes:
    return struct.pack("<IBBHQQ", name, info, 0, section, address, 16)


def test_a_module_s_symbols() -> None:
    names = b"\0init_module\0own\0data\0elsewhere\0"
    entries = b"".join(
        (
            entry(0, 0, 0, 0),
            entry(1, 0x12, 3, BASE + 0x10),
            entry(13, 0x02, 3, BASE + 0x20),
            entry(17, 0x01, 4, BASE + 0x30),
            entry(22, 0x10, 0, BASE + 0x40),  # another's
            entry(1, 0x03, 5, BASE),  # a section's
            entry(13, 0x74, 3, BASE + 0x50),  # `t`, as kernels before 5.2 have it
        )
    )
    module = bytearray(1024)
    module[24:29] = b"dummy"
    module[400:408] = struct.pack("<Q", BASE + 0x10000)
    table = struct.pack("<QIIQ", BASE + 0x20000, len(entries) // 24, 0, BASE + 0x30000 - len(names))
    read = memory(
        (BASE, bytes(module)),
        (BASE + 0x10000, table),
        (BASE + 0x20000, entries),
        (BASE + 0x30000 - len(names), names),
    )
    name, symbols = listing.read_module(read, BASE, LAYOUT)
    assert name == "dummy"
    assert symbols == [
        (BASE + 0x10, "T", "init_module"),
        (BASE + 0x20, "t", "own"),
        (BASE + 0x30, "d", "data"),
        (BASE + 0x50, "t", "own"),
    ]


@pytest.mark.parametrize("pointer", [0, 0x7FFF_0000_0000])
def test_what_is_not_a_module(pointer: int) -> None:
    module = bytes(400) + struct.pack("<Q", pointer)
    with pytest.raises(ValueError, match="not an address of the kernel"):
        listing.read_module(memory((BASE, module)), BASE, LAYOUT)
