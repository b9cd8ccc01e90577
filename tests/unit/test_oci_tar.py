"""The tar reader, against archives of the standard library and of GNU tar, and broken ones."""

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.conftest import need
from tests.unit.oci_parts import hardlink, make_tar, member, symlink
from vimto.errors import ImageError
from vimto.oci.tar import Entry, Kind, TarReader


class Bytes:
    """A stream of bytes that counts how much is asked of it at once."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)
        self.largest = 0

    def read(self, size: int) -> bytes:
        self.largest = max(self.largest, size)
        return self._file.read(size)

    def skip(self, size: int) -> int:
        return len(self._file.read(size))


def read(data: bytes) -> list[tuple[Entry, bytes]]:
    reader = TarReader(Bytes(data), "`x`")
    return [(entry, b"".join(reader.chunks())) for entry in reader]


def test_kinds() -> None:
    data = make_tar(
        member("dir/"),
        member("dir/file", b"text", mode=0o4755, mtime=12.5),
        symlink("link", "/dir"),
        hardlink("hard", "dir/file"),
        member("null", type=tarfile.CHRTYPE),
        member("pipe", type=tarfile.FIFOTYPE),
    )
    found = read(data)
    assert [(entry.name, entry.kind) for entry, _ in found] == [
        ("dir/", Kind.DIRECTORY),
        ("dir/file", Kind.FILE),
        ("link", Kind.SYMLINK),
        ("hard", Kind.HARDLINK),
        ("null", Kind.OTHER),
        ("pipe", Kind.OTHER),
    ]
    entry, content = found[1]
    assert (entry.mode, entry.mtime, entry.size, content) == (0o4755, 12.5, 4, b"text")
    assert found[2][0].target == "/dir"


@pytest.mark.parametrize("style", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_names(style: int) -> None:
    names = ["a" * 100, "b" * 101, "c/" * 150 + "d", "e" * 1000, "umläut", os.fsdecode(b"\xff\xfe")]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=style) as archive:
        for name in names:
            archive.addfile(*symlink(name, name)[:1])
    assert [(e.name, e.target) for e, _ in read(out.getvalue())] == [(n, n) for n in names]


def test_skipped_data_is_skipped() -> None:
    data = make_tar(member("a", b"x" * 3_000_000), member("b", b"y"))
    assert [entry.name for entry in TarReader(Bytes(data), "`x`")] == ["a", "b"]


@pytest.mark.parametrize(
    "style",
    ["--format=gnu", "--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"],
)
def test_sparse(style: str, tmp_path: Path) -> None:
    need("tar")
    path = tmp_path / "holes"
    with path.open("wb") as file:
        for number in range(60):  # more parts than a header and one extension have room for
            file.seek(number * (64 << 10))
            file.write(bytes([number + 1]) * 4096)
        file.truncate(5 << 20)
    words = ["--format=pax", style] if "sparse" in style else [style]
    made = tmp_path / "made.tar"
    subprocess.run(["tar", "-C", tmp_path, "-Scf", made, *words, "holes"], check=True)
    [(entry, data)] = read(made.read_bytes())
    assert (entry.name.rpartition("/")[2], entry.size) == ("holes", 5 << 20)
    assert entry.parts is not None
    content = bytearray(entry.size)
    for offset, length in entry.parts:
        content[offset : offset + length], data = data[:length], data[length:]
    assert bytes(content) == path.read_bytes()


def block(name: bytes, size: bytes, kind: bytes = b"0", rest: bytes = b"") -> bytes:
    """Return a header made by hand, with a sound checksum."""
    head = bytearray(512)
    head[0 : len(name)] = name
    head[124 : 124 + len(size)] = size
    head[156:157] = kind
    head[257:263] = b"ustar\0"
    head[345 : 345 + len(rest)] = rest
    head[148:156] = b" " * 8
    head[148:156] = f"{sum(head):06o}\0 ".encode()
    return bytes(head)


def pax(record: bytes) -> bytes:
    return block(b"p", f"{len(record):o}".encode(), b"x") + record + bytes(-len(record) % 512)


GOOD = make_tar(member("file", b"data"))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (GOOD[:300], "is cut off"),
        (GOOD[:514], "middle of a file"),
        (b"\x01" + GOOD[1:], "checksum"),
        (b"<html>" + bytes(600), "checksum"),
        (block(b"f", b"9z"), "malformed number"),
        (block(b"f", b"-1"), "negative number"),
        (block(b"f", b"\xff" * 12), "out of range"),
        (block(b"f", b"\xbf" + b"\xff" * 11), "out of range"),
        (block(b"f", b"77777777777", b"x"), "extended header of 8589934591 bytes"),
        (block(b"f", b"77777777777", b"L"), "extended header of 8589934591 bytes"),
        (pax(b"6 a=b\n") * 20 + GOOD, "in a row"),
        (pax(b"9 path=x\n"), ""),
        (pax(b"12 path=x\n"), "malformed extended"),
        (pax(b"x path=x\n"), "malformed"),
        (pax(b"7 path\n"), "malformed extended"),
        (pax(b"12 size=xxx\n"), "malformed number"),
        (pax("11 size=²\n".encode()), "malformed number"),
        (pax(b"12 path=a\0b\n") + GOOD, "NUL"),
        (pax(b"11 mtime=z\n") + GOOD, "malformed time"),
        (
            pax(b"22 GNU.sparse.major=1\n25 GNU.sparse.realsize=9\n") + block(b"f", b"1000")
            + b"99999999\n" + bytes(503),
            "too many parts",
        ),
        (
            pax(b"22 GNU.sparse.major=1\n25 GNU.sparse.realsize=9\n") + block(b"f", b"1000")
            + b"1\n0\n99\n" + bytes(505),
            "out of order",
        ),
        (
            pax(b"22 GNU.sparse.major=1\n25 GNU.sparse.realsize=9\n") + block(b"f", b"1000")
            + b"1\n0\n9\n" + bytes(506),
            "parts are not its data",
        ),
    ],
)  # fmt: skip
def test_broken(data: bytes, says: str) -> None:
    if not says:
        assert read(data) == []
        return
    with pytest.raises(ImageError, match=says):
        read(data)


def test_nothing_large_is_read_at_once() -> None:
    stream = Bytes(make_tar(member("big", bytes(20 << 20))))
    reader = TarReader(stream, "`x`")
    for _ in reader:
        assert sum(len(data) for data in reader.chunks()) == 20 << 20
    assert stream.largest <= 1 << 20
