"""Digests of contents, and the table that remembers whose they are."""

import os
import time
from pathlib import Path

import pytest

from vimto.cache import digest
from vimto.cache.digest import Table, digest_file, local_directory

PIECE = 1 << 16


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file."""
    place = tmp_path / "file"
    place.write_text("one")
    return place


def of(path: Path) -> str:
    with open(path, "rb") as file:
        return digest_file(file.fileno())


def test_holes_and_zeros_are_the_same(tmp_path: Path) -> None:
    data = b"a" * 5000 + bytes(10 * PIECE) + b"b" * PIECE + bytes(3 * PIECE) + b"c" + bytes(77)
    (tmp_path / "full").write_bytes(data)
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(len(data))
        for at in (0, data.index(b"b"), data.index(b"c")):
            file.seek(at)
            file.write(data[at : at + 5000].rstrip(b"\0"))
            file.write(data[at + 5000 : at + PIECE] if data[at : at + 1] == b"b" else b"")
    assert (tmp_path / "sparse").read_bytes() == data
    assert of(tmp_path / "sparse") == of(tmp_path / "full")


@pytest.mark.parametrize(
    "other",
    [b"", bytes(1), bytes(PIECE), bytes(PIECE + 1), b"a", b"a" + bytes(PIECE), bytes(PIECE) + b"a"],
)
def test_every_byte_and_its_place_count(tmp_path: Path, other: bytes) -> None:
    (tmp_path / "one").write_bytes(bytes(2 * PIECE) + b"a")
    (tmp_path / "other").write_bytes(other)
    assert of(tmp_path / "one") != of(tmp_path / "other")


def test_a_file_system_that_cannot_tell_holes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(PIECE) + b"a")
    expected = of(path)

    def fail(*_args: object) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "lseek", fail)
    assert of(path) == expected


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    read: list[int] = []

    def count(fd: int) -> str:
        read.append(fd)
        return digest_file(fd)

    monkeypatch.setattr(digest, "digest_file", count)
    return read


def test_no_file_is_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = counted(monkeypatch)
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_text(path.name)
    table = Table(tmp_path)
    first = [table.digest(path) for path in paths]
    assert first == [of(path) for path in paths]
    assert len(read) == 3
    assert [table.digest(path) for path in paths] == first
    assert [Table(tmp_path).digest(path) for path in paths] == first
    assert len(read) == 3


def test_the_same_size_and_time_are_not_the_same_content(path: Path, tmp_path: Path) -> None:
    first = Table(tmp_path).digest(path)
    times = path.stat()
    path.write_text("two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert Table(tmp_path).digest(path) != first


def test_a_touched_or_copied_file_has_the_digest_it_had(path: Path, tmp_path: Path) -> None:
    first = Table(tmp_path).digest(path)
    os.utime(path, (5, 5))
    assert Table(tmp_path).digest(path) == first
    (tmp_path / "copy").write_text("one")
    assert Table(tmp_path).digest(tmp_path / "copy") == first


def test_a_file_that_is_still_being_written_is_not_remembered(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table(tmp_path)

    def write(fd: int) -> str:
        found = digest_file(fd)
        path.write_text("one, and more")
        return found

    monkeypatch.setattr(digest, "digest_file", write)
    first = table.digest(path)
    monkeypatch.undo()
    assert table.digest(path) == of(path) != first


def test_a_change_within_the_clock_s_tick_cannot_hide(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could give the file the times that it has: so the tick passes before it is read."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(time, "time_ns", lambda: path.stat().st_ctime_ns + 5_000_000)
    Table(tmp_path).digest(path)
    assert slept == [0.015]


def test_a_time_ahead_of_the_clock_proves_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = counted(monkeypatch)
    monkeypatch.setattr(time, "time_ns", lambda: path.stat().st_ctime_ns - 1)
    table = Table(tmp_path)
    table.digest(path)
    table.digest(path)
    assert len(read) == 2


def test_the_table_is_this_host_s(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Table(tmp_path).digest(path)
    assert [place.name for place in (tmp_path / "local").iterdir()] == [digest.host_identity()]
    monkeypatch.setattr(digest, "host_identity", lambda: "another")
    assert Table(tmp_path).find(path.stat()) == ""


def test_the_table_does_not_grow_for_ever(path: Path, tmp_path: Path) -> None:
    status = list(path.stat())
    table = Table(tmp_path)
    for number in range(2000):
        status[1] = number
        table.remember(os.stat_result(status), f"{number:032x}")
        table.remember(os.stat_result(status), f"{number:032x}")
    written = Path(local_directory(tmp_path), "digests")
    assert written.stat().st_size <= 1 << 16
    assert Table(tmp_path).find(os.stat_result(status)) == f"{1999:032x}"
    assert [place.name for place in written.parent.iterdir()] == ["digests"]


@pytest.mark.parametrize("damage", [b"\n", b"\0" * 100, b"\n1 2 3\n", None])
def test_a_damaged_table_costs_time_alone(path: Path, tmp_path: Path, damage: bytes | None) -> None:
    expected = Table(tmp_path).digest(path)
    written = Path(local_directory(tmp_path), "digests")
    data = written.read_bytes()
    written.write_bytes(data[:-10] if damage is None else damage)
    assert Table(tmp_path).digest(path) == expected
    assert Table(tmp_path).digest(path) == expected


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="not a regular file"):
        Table(tmp_path).digest(tmp_path / "fifo")


def test_a_signature_changes_with_the_file(path: Path) -> None:
    first = digest.signature([str(path)])
    assert digest.signature([str(path)]) == first
    times = path.stat()
    path.write_text("two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert digest.signature([str(path)]) != first
