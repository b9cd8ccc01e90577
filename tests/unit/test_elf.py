import io
import mmap
import struct
from pathlib import Path

import kernel_parts as parts
import pytest

from vimto import elf

NOTE = struct.pack("<III", 4, 4, 3) + b"GNU\0" + b"\x0c\x7b\x9d\x9b"
OTHER = struct.pack("<III", 4, 2, 7) + b"Xen\0" + b"ab\0\0"
WHOLE = parts.make_elf(
    segments=[(1, b"text"), (4, OTHER + NOTE), (2, b"dynamic")],
    sections={".modinfo": b"a=b\0", ".debug_info": b"d" * 99},
)


def test_the_tables_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(WHOLE)
    with (
        open(tmp_path / "x", "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        for source in (file, mapped, io.BytesIO(WHOLE)):
            found = elf.Elf(source)
            assert [found.read(part) for part in found.segments()] == [
                b"text", OTHER + NOTE, b"dynamic"
            ]  # fmt: skip
            assert [part.is_loaded for part in found.segments()] == [True, True, False]
            assert {part.name: found.read(part, 4) for part in found.sections()} == {
                "": b"", ".modinfo": b"a=b\0", ".debug_info": b"dddd", ".shstrtab": b"\0.mo"
            }  # fmt: skip
            assert found.loaded_size() == WHOLE.index(NOTE) + len(NOTE)
            assert list(found.notes(found.segments())) == [
                elf.Note(b"Xen\0", 7, b"ab"),
                elf.Note(b"GNU\0", 3, b"\x0c\x7b\x9d\x9b"),
            ]


def test_a_header_that_says_there_are_no_sections() -> None:
    head = elf.Elf(io.BytesIO(WHOLE)).header_without_sections()
    stripped = elf.Elf(io.BytesIO(head + WHOLE[len(head) :]))
    assert stripped.sections() == []
    assert stripped.segments() == elf.Elf(io.BytesIO(WHOLE)).segments()


@pytest.mark.parametrize("data", [b"", b"\x7fELF\2\1", b"\x7fELF\1\1" + bytes(99), b"MZ" * 99])
def test_what_is_not_such_a_file(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a 64-bit little-endian ELF file"):
        elf.Elf(io.BytesIO(data))


def test_damaged_tables_are_an_error() -> None:
    cut = elf.Elf(io.BytesIO(WHOLE[:-10]))
    assert len(cut.segments()) == 3
    with pytest.raises(ValueError, match="damaged"):
        cut.sections()
    names_at = 0x3E
    nameless = WHOLE[:names_at] + b"\xff\xff" + WHOLE[names_at + 2 :]
    with pytest.raises(ValueError, match="have no names"):
        elf.Elf(io.BytesIO(nameless)).sections()
    with pytest.raises(ValueError, match="damaged"):
        elf.Elf(io.BytesIO(b"\x7fELF\2\1" + b"\xff" * 60)).segments()


def test_content_that_is_not_there_is_empty() -> None:
    found = elf.Elf(io.BytesIO(WHOLE))
    end = len(WHOLE)
    assert found.read(elf.Section("x", 1, end + 9, 9)) == b""
    assert found.read(elf.Section("x", 1, end - 3, 1 << 40)) == WHOLE[-3:]


def test_bytes_of_a_program_by_address() -> None:
    with open("/bin/true", "rb") as file:
        # The ELF header itself is loaded at the first segment's address: 0 in a PIE.
        assert elf.Elf(file).read_memory(0, 4) == b"\x7fELF"
        assert elf.Elf(file).read_memory(1 << 60, 4) == b""
