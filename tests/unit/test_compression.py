import io
import struct

import kernel_parts as parts
import pytest

from vimto import compression
from vimto.compression import Format

FORMATS = {
    "gzip": Format.GZIP,
    "xz": Format.XZ,
    "lzma": Format.LZMA,
    "bzip2": Format.BZIP2,
    "zstd": Format.ZSTD,
    "lz4": Format.LZ4,
}
DATA = bytes(range(256)) * 999


@pytest.mark.parametrize(("name", "form"), FORMATS.items())
def test_a_format_is_told_by_its_first_bytes_and_undone(name: str, form: Format) -> None:
    packed = parts.COMPRESSORS[name](DATA)
    assert compression.find_format(packed[:8]) is form
    assert compression.unpack(packed, form) == DATA
    with pytest.raises(ValueError, match=r"."):
        compression.unpack(packed[: len(packed) // 2], form)


def test_what_is_not_compressed_has_no_format() -> None:
    for head in (b"", b"\x7fELF\2\1\1\0", b"ustar", b"\x1f"):
        assert compression.find_format(head) is None
    assert compression.find_format(b"\x5f\x2a\x4d\x18\0\0\0\0") is Format.ZSTD  # to be skipped


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "lz4"])
def test_a_reader_gives_the_data_and_tells_damage(name: str) -> None:
    packed, form = parts.COMPRESSORS[name](DATA), FORMATS[name]
    with compression.reader(io.BytesIO(packed), form) as file:
        assert file.read(100) + file.read() == DATA
    damaged = packed[:4] + b"\xff" * 99
    for broken in (packed[:-9], damaged):
        with (
            pytest.raises((ValueError, OSError), match=r"."),
            compression.damage_told(),
            compression.reader(io.BytesIO(broken), form) as file,
        ):
            while file.read(1 << 16):
                pass


@pytest.mark.parametrize("form", [Format.GZIP, Format.ZSTD])
def test_a_writer_makes_the_same_bytes_at_every_time(form: Format) -> None:
    made = []
    for _ in range(2):
        out = io.BytesIO()
        with compression.writer(out, form, 3) as file:
            file.write(DATA)
        made.append(out.getvalue())
    assert made[0] == made[1] and compression.unpack(made[0], form) == DATA
    assert made[0][4:8] == bytes(4) or form is Format.ZSTD  # gzip's time of day


def test_what_nobody_needs_says_so() -> None:
    with pytest.raises(ValueError, match="lz4"):
        compression.reader(io.BytesIO(), Format.LZ4)
    with pytest.raises(ValueError, match="xz"):
        compression.writer(io.BytesIO(), Format.XZ, 1)


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (b"\x50hello", b"hello"),
        # "ab", a copy of 4 that overlaps itself, then literals
        (b"\x20ab\x02\x00\x10c", b"abababc"),
        # one byte, repeated 4+15+255+3 times
        (b"\x1fa\x01\x00\xff\x03\x10z", b"a" * 278 + b"z"),
        # a copy that does not overlap
        (b"\x60abcdef\x06\x00\x00", b"abcdefabcd"),
    ],
)
def test_lz4_sequences(block: bytes, expected: bytes) -> None:
    frame = b"\x02\x21\x4c\x18" + struct.pack("<I", len(block)) + block
    assert compression.unpack(frame, Format.LZ4) == expected


@pytest.mark.parametrize(
    "block", [b"\x10a\x02\x00\x00", b"\x10a\x00\x00\x00", b"\xf0", b"\x10a\x01"]
)
def test_lz4_damage(block: bytes) -> None:
    frame = b"\x02\x21\x4c\x18" + struct.pack("<I", len(block)) + block
    with pytest.raises(ValueError, match="lz4"):
        compression.unpack(frame, Format.LZ4)
