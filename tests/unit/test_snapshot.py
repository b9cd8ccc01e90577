"""Snapshots on disk: what is trusted, what is removed, and what never is."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vimto.cache import digest, entry
from vimto.cache.digest import digest_file
from vimto.cache.snapshots import (
    find_snapshot,
    list_snapshots,
    new_snapshot,
    prune_snapshots,
)

KEY = "k" * 32


@pytest.fixture
def snapshots(tmp_path: Path) -> Path:
    found = tmp_path / "cache/snapshots"
    found.mkdir(parents=True)
    return found


def add(snapshots: Path, key: str, *, size: int = 4096, used: int = 1000) -> Path:
    with new_snapshot(str(snapshots), key, {"kernel": "Linux", "memory": 64}) as aside:
        Path(aside, "ram").write_bytes(bytes(size))
        Path(aside, "state").write_bytes(b"devices")
    os.utime(snapshots / key, (used, used))
    return snapshots / key


def find(snapshots: Path, key: str = KEY) -> bool:
    found = find_snapshot(str(snapshots), key)
    if found is not None:
        found.close()
    return found is not None


def test_a_whole_snapshot_is_found_and_marked_as_used(snapshots: Path) -> None:
    path = add(snapshots, KEY)
    found = find_snapshot(str(snapshots), KEY)
    assert found is not None
    assert found.ram == str(path / "ram")
    assert os.pread(found.state, 100, 0) == b"devices"
    assert path.stat().st_mtime > 1000
    found.close()
    found.close()


def test_no_snapshot_is_none(tmp_path: Path) -> None:
    assert not find(tmp_path / "missing")


@pytest.mark.parametrize("name", ["ram", "state"])
def test_damage_of_the_right_size_and_time_is_noticed(snapshots: Path, name: str) -> None:
    path = add(snapshots, KEY)
    assert find(snapshots)
    before = (path / name).stat()
    with open(path / name, "r+b") as file:
        file.seek(5)
        file.write(b"x")
    os.utime(path / name, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not find(snapshots)
    assert not path.exists()


@pytest.mark.parametrize("damage", ["ram", "state", "no ram", "no state", "info", "no info"])
def test_a_damaged_snapshot_is_removed(snapshots: Path, damage: str) -> None:
    path = add(snapshots, KEY)
    name = damage.removeprefix("no ")
    if damage.startswith("no "):
        (path / name).unlink()
    else:
        os.truncate(path / name, 3)
    assert not find(snapshots)
    assert not path.exists()


def test_what_cannot_be_read_now_is_kept(snapshots: Path) -> None:
    """Too many open files are not a snapshot's fault."""
    path = add(snapshots, KEY)
    free = os.dup(0)
    os.close(free)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, limits[1]))
    try:
        assert not find(snapshots)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert (path / "ram").exists()
    assert find(snapshots)


def test_it_is_compared_once_on_each_host(snapshots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(snapshots, KEY)
    read = []
    monkeypatch.setattr(digest, "digest_file", lambda fd: read.append(fd) or digest_file(fd))
    assert find(snapshots)
    assert read == []
    elsewhere = snapshots.parents[1] / "elsewhere"
    shutil.copytree(snapshots, elsewhere / "snapshots")
    for path in elsewhere.rglob("*"):
        os.utime(path, (77, 77))
    assert find(elsewhere / "snapshots")
    assert len(read) == 2
    assert find(elsewhere / "snapshots")
    assert len(read) == 2
    monkeypatch.setattr(digest, "host_identity", lambda: "another")
    assert find(snapshots)
    assert len(read) == 4


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("place", [".", "ram", "state"])
def test_somebody_else_s_snapshot_is_not_used(snapshots: Path, place: str) -> None:
    path = add(snapshots, KEY)
    os.chown(path / place, 12345, 12345)
    assert not find(snapshots)
    assert not path.exists()


def test_one_that_others_can_write_is_not_used(snapshots: Path) -> None:
    path = add(snapshots, KEY)
    (path / "ram").chmod(0o666)
    assert not find(snapshots)
    assert not path.exists()


def test_a_snapshot_in_use_is_never_removed(snapshots: Path) -> None:
    add(snapshots, KEY)
    found = find_snapshot(str(snapshots), KEY)
    assert found is not None
    assert prune_snapshots(str(snapshots), 0) == []
    assert [item.busy for item in list_snapshots(str(snapshots))] == [True]
    found.close()
    assert [item.key for item in prune_snapshots(str(snapshots), 0)] == [KEY]
    assert list(snapshots.iterdir()) == []


def test_the_oldest_are_removed_first(snapshots: Path) -> None:
    for index, key in enumerate("abc"):
        path = add(snapshots, key, used=1000 + index)
        (path / "ram").write_bytes(b"x" * (1 << 20))
        os.utime(path, (1000 + index, 1000 + index))
    assert [item.key for item in list_snapshots(str(snapshots))] == ["c", "b", "a"]
    removed = prune_snapshots(str(snapshots), int(1.5 * (1 << 20)))
    assert [item.key for item in removed] == ["a", "b"]
    assert [item.key for item in list_snapshots(str(snapshots))] == ["c"]


@pytest.mark.parametrize(
    "info", ["[]", '{"kernel": "x", "memory": null}', '{"memory": 1e999}', "{"]
)
def test_a_damaged_one_is_listed_and_the_first_to_be_removed(snapshots: Path, info: str) -> None:
    (add(snapshots, "a", used=2000) / "info").write_text(info)
    add(snapshots, "b", used=1000)
    damaged = list_snapshots(str(snapshots))[-1]
    assert (damaged.key, damaged.kernel, damaged.memory) == ("a", "?", 0)
    limit = list_snapshots(str(snapshots))[0].size
    assert [item.key for item in prune_snapshots(str(snapshots), limit)] == ["a"]


LEAVE = """
import os, sys
from vimto.cache.snapshots import new_snapshot
with new_snapshot(sys.argv[1], sys.argv[2], {}) as aside:
    open(aside + "/ram", "w").close()
    os.mkdir(aside + "/empty")
    os._exit(0)
"""


def test_a_leftover_keeps_nobody_from_making_it(snapshots: Path) -> None:
    """The next one need not even sweep, which would remove it."""
    subprocess.run([sys.executable, "-c", LEAVE, snapshots, KEY], check=True)
    assert len(list(snapshots.iterdir())) == 1
    path = add(snapshots, KEY)
    assert find(snapshots)
    assert prune_snapshots(str(snapshots), 1 << 30) == []
    assert list(snapshots.iterdir()) == [path]


def test_what_cannot_be_made_leaves_nothing(snapshots: Path) -> None:
    with (
        pytest.raises(FileNotFoundError),
        new_snapshot(str(snapshots), KEY, {}) as aside,
    ):
        Path(aside, "ram").touch()
    assert list(snapshots.iterdir()) == []


def test_info_is_of_the_contents(snapshots: Path) -> None:
    path = add(snapshots, KEY, size=100_000)
    info = json.loads((path / "info").read_text())
    with open(path / "ram", "rb") as file:
        assert info["ram"] == [100_000, digest_file(file.fileno())]
    assert (info["kernel"], info["memory"]) == ("Linux", 64)
    assert entry.entries(snapshots) == [KEY]
