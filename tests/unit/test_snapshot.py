"""Saves on disk: what is trusted, what is removed, and what never is."""

import fcntl
import json
import os
import zlib
from pathlib import Path

import pytest

from vimto.vm import snapshot
from vimto.vm.snapshot import find_save, list_saves, prune_saves

KEY = "k" * 32


def add(saves: Path, key: str, *, size: int = 4096, used: int = 1000) -> Path:
    entry = saves / key
    entry.mkdir(parents=True)
    (entry / "ram").write_bytes(bytes(size))
    (entry / "state").write_bytes(b"devices")
    ram = (entry / "ram").stat()
    info = {
        "state": [7, zlib.crc32(b"devices")],
        "ram": [ram.st_size, ram.st_mtime_ns],
        "kernel": "Linux",
        "memory": 64,
    }
    (entry / "info").write_text(json.dumps(info))
    os.utime(entry, (used, used))
    return entry


def test_a_whole_save_is_found_and_marked_as_used(tmp_path: Path) -> None:
    entry = add(tmp_path, KEY)
    save = find_save(str(tmp_path), KEY)
    assert save is not None
    assert save.ram == str(entry / "ram")
    assert entry.stat().st_mtime > 1000
    save.close()


def test_no_save_is_none(tmp_path: Path) -> None:
    assert find_save(str(tmp_path / "missing"), KEY) is None


@pytest.mark.parametrize("damage", ["truncate ram", "touch ram", "state", "state size", "info"])
def test_a_damaged_save_is_removed(tmp_path: Path, damage: str) -> None:
    entry = add(tmp_path, KEY)
    if damage == "truncate ram":
        os.truncate(entry / "ram", 100)
    elif damage == "touch ram":
        (entry / "ram").write_bytes(bytes(4095) + b"x")
    elif damage == "state":
        (entry / "state").write_bytes(b"Devices")
    elif damage == "state size":
        (entry / "state").write_bytes(b"dev")
    else:
        (entry / "info").write_text("{")
    assert find_save(str(tmp_path), KEY) is None
    assert not entry.exists()


def test_a_save_in_use_is_never_removed(tmp_path: Path) -> None:
    add(tmp_path, KEY)
    save = find_save(str(tmp_path), KEY)
    assert save is not None
    assert prune_saves(str(tmp_path), 0) == []
    assert [entry.busy for entry in list_saves(str(tmp_path))] == [True]
    save.close()
    assert [entry.key for entry in prune_saves(str(tmp_path), 0)] == [KEY]
    assert list(tmp_path.iterdir()) == []


def test_a_look_at_a_save_keeps_nobody_from_using_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = add(tmp_path, KEY)
    with open(entry / "state", "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        monkeypatch.setattr(snapshot.time, "sleep", lambda _s: fcntl.flock(other, fcntl.LOCK_UN))
        save = find_save(str(tmp_path), KEY)
        assert save is not None
        save.close()
        fcntl.flock(other, fcntl.LOCK_EX)
        monkeypatch.setattr(snapshot.time, "sleep", lambda _s: None)
        assert find_save(str(tmp_path), KEY) is None


def test_the_oldest_are_removed_first(tmp_path: Path) -> None:
    for index, key in enumerate("abc"):
        add(tmp_path, key, size=1 << 20, used=1000 + index)
    assert [entry.key for entry in list_saves(str(tmp_path))] == ["c", "b", "a"]
    removed = prune_saves(str(tmp_path), int(1.5 * (1 << 20)))
    assert [entry.key for entry in removed] == ["a", "b"]
    assert [entry.key for entry in list_saves(str(tmp_path))] == ["c"]


def test_what_killed_makers_left_is_removed(tmp_path: Path) -> None:
    gone = tmp_path / f".{KEY}.999999999"
    gone.mkdir()
    (gone / "ram").write_bytes(b"x")
    (gone / "empty").mkdir()
    alive = tmp_path / f".{KEY}.{os.getpid()}"
    alive.mkdir()
    other = tmp_path / ".nfs"
    other.touch()
    assert prune_saves(str(tmp_path), 1 << 30) == []
    assert other.exists()
    assert not gone.exists()
    assert alive.exists()
