"""What control groups leave to us: in a container, and in a group of the host's."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from vimto import limits
from vimto.vm import claims

MIB = 1 << 20
STAT = f"anon 5\ninactive_anon 5\ninactive_file {30 * MIB}\nactive_file {20 * MIB}\n"
STAT_1 = f"cache 1\ninactive_file 7\ntotal_inactive_file {30 * MIB}\ntotal_active_file {20 * MIB}\n"
NONE_1 = "9223372036854771712\n"


def two(limit: object, used: int) -> Mapping[str, str]:
    return {"memory.max": f"{limit}\n", "memory.current": f"{used}\n", "memory.stat": STAT}


def one(limit: object, used: int) -> Mapping[str, str]:
    return {
        "memory.limit_in_bytes": f"{limit}\n",
        "memory.usage_in_bytes": f"{used}\n",
        "memory.stat": STAT_1,
    }


Groups = Mapping[str, Mapping[str, str]]


def write(tmp_path: Path, membership: str, groups: Groups) -> tuple[str, str]:
    """Make a tree of control groups, and return it with the file that names ours."""
    tree, file = tmp_path / "cgroup", tmp_path / "self"
    for group, files in groups.items():
        (tree / group).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (tree / group / name).write_text(text)
    file.write_text(membership)
    return str(tree), str(file)


@pytest.mark.parametrize(
    ("membership", "groups", "limit", "left"),
    [
        pytest.param("0::/\n", {"": two(512 * MIB, 150 * MIB)}, 512, 412, id="container"),
        pytest.param(
            "0::/docker/1\n", {"": two(512 * MIB, 150 * MIB)}, 512, 412, id="a path of the host's"
        ),
        pytest.param(
            "0::/a/b\n",
            {"a": two(512 * MIB, 450 * MIB), "a/b": two(600 * MIB, 60 * MIB), "a/c": two(1, 1)},
            512,
            112,
            id="a limit above",
        ),
        pytest.param("0::/a\n", {"a": two("max", 60 * MIB)}, None, None, id="none"),
        pytest.param("0::/a\n", {"a": two(60 * MIB, 200 * MIB)}, 60, 0, id="too much already"),
        pytest.param("0::/a\n", {"a": {"memory.max": "512"}}, None, None, id="incomplete"),
        pytest.param(
            "4:cpu,memory:/docker/1\n0::/\n",
            {"memory": one(512 * MIB, 150 * MIB)},
            512,
            412,
            id="version 1",
        ),
        pytest.param(
            "4:memory:/a/b\n0::/\n",
            {"memory": one(NONE_1, 0), "memory/a": one(99 * MIB, 0), "memory/a/b": one(NONE_1, 0)},
            99,
            149,
            id="version 1, a limit above",
        ),
        pytest.param("", {}, None, None, id="no groups"),
    ],
)
def test_memory(
    tmp_path: Path, membership: str, groups: Groups, limit: int | None, left: int | None
) -> None:
    place = write(tmp_path, membership, groups)
    assert limits.memory_limit(*place) == (None if limit is None else limit * MIB)
    assert limits.memory_left(*place) == (None if left is None else left * MIB)


def test_without_proc_there_is_no_limit(tmp_path: Path) -> None:
    assert limits.memory_limit(str(tmp_path), str(tmp_path / "none")) is None


@pytest.mark.parametrize(
    ("membership", "groups", "processors"),
    [
        ("0::/\n", {"": {"cpu.max": "200000 100000\n"}}, 2),
        ("0::/\n", {"": {"cpu.max": "150000 100000\n"}}, 2),
        ("0::/\n", {"": {"cpu.max": "5000 100000\n"}}, 1),
        ("0::/\n", {"": {"cpu.max": "max 100000\n"}}, 64),
        ("0::/a/b\n", {"a": {"cpu.max": "300000 100000\n"}, "a/b": {"cpu.max": "max 9\n"}}, 3),
        (
            "3:cpu,cpuacct:/docker/1\n",
            {"cpu": {"cpu.cfs_quota_us": "400000\n", "cpu.cfs_period_us": "100000\n"}},
            4,
        ),
        (
            "3:cpu:/\n",
            {"cpu": {"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}},
            64,
        ),
    ],
)
def test_processors(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    membership: str,
    groups: Groups,
    processors: int,
) -> None:
    tree, file = write(tmp_path, membership, groups)
    monkeypatch.setattr(limits, "_TREE", tree)
    monkeypatch.setattr(limits, "_MEMBERSHIP", file)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(64)))
    limits.host_processors.cache_clear()
    try:
        assert limits.host_processors() == processors
    finally:
        limits.host_processors.cache_clear()


def test_machines_wait_for_the_memory_that_a_container_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claims, "memory_left", lambda: 3 * MIB)
    assert claims.available_memory() == 3
    monkeypatch.setattr(claims, "memory_left", lambda: None)
    assert claims.available_memory() > 3
    monkeypatch.setattr(claims, "memory_left", lambda: 1 << 60)
    assert claims.available_memory() < 1 << 30
