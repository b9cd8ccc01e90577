"""What we may use of this host: in a container, a service or a session that may be less than all.

cgroups(7): each control group on the way from ours to the root may have a limit. A container sees
its own group as the root of the tree; without a cgroup namespace its process is told a path of the
host's, which leads nowhere there. So the root counts as well, and what is not there does not.
"""

import functools
import os

TYPE_CHECKING = False  # this module is on the hot path
if TYPE_CHECKING:
    from collections.abc import Iterator

_TREE = "/sys/fs/cgroup"
_MEMBERSHIP = "/proc/self/cgroup"
# The files of a memory group, and the caches in its `memory.stat` that are given up under pressure:
# of version 2, and of version 1.
_MEMORY = (
    ("memory.max", "memory.current", ("inactive_file", "active_file")),
    (
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
)
# Version 1 says so much, less than a page, for "no limit".
_NO_LIMIT = 1 << 62


@functools.cache
def host_processors() -> int:
    """Return the number of processors that we may use, at least 1: a part of one counts as one."""
    return min(len(os.sched_getaffinity(0)), *_quotas(_TREE, _MEMBERSHIP))


def memory_limit(tree: str = _TREE, membership: str = _MEMBERSHIP) -> int | None:
    """Return the bytes that processes such as we may have at most, None without a limit."""
    return min((limit for limit, _ in _memory(tree, membership)), default=None)


def memory_left(tree: str = _TREE, membership: str = _MEMBERSHIP) -> int | None:
    """Return the bytes that our control groups leave to new processes, None without a limit."""
    found = (limit - used for limit, used in _memory(tree, membership))
    return min((max(0, left) for left in found), default=None)


def _memory(tree: str, membership: str) -> "Iterator[tuple[int, int]]":
    """Yield the limit of each of our groups that has one, and the use that it cannot reclaim."""
    for group in _groups(tree, membership, "memory"):
        for limit_name, used_name, caches in _MEMORY:
            try:
                limit = int(_read(group, limit_name))
                if limit < _NO_LIMIT:
                    stat = dict(line.split() for line in _read(group, "memory.stat").splitlines())
                    cached = sum(int(stat[name]) for name in caches)
                    yield limit, int(_read(group, used_name)) - cached
            except (OSError, ValueError, KeyError):  # it has none
                continue


def _quotas(tree: str, membership: str) -> "Iterator[int]":
    """Yield how many processors each of our groups may use, rounded up; more than any last."""
    for group in _groups(tree, membership, "cpu"):
        for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
            try:
                quota, period = map(int, " ".join(_read(group, name) for name in names).split())
            except (OSError, ValueError):  # `max`, for one
                continue
            if quota > 0 and period > 0:
                yield -(-quota // period)
    yield _NO_LIMIT


def _groups(tree: str, membership: str, controller: str) -> "Iterator[str]":
    """Yield the directories of our group for `controller` and of those above, of both versions."""
    try:
        lines = _read(membership, "").splitlines()
    except OSError:
        lines = []
    roots = {tree: "/", f"{tree}/{controller}": "/"}
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            roots[tree] = path
        elif controller in controllers.split(","):
            roots[f"{tree}/{controller}"] = path
    for root, path in roots.items():
        names = [name for name in path.split("/") if name not in ("", "..")]
        for length in range(len(names), -1, -1):
            yield os.path.join(root, *names[:length])


def _read(directory: str, name: str) -> str:
    with open(os.path.join(directory, name) if name else directory, encoding="ascii") as file:
        return file.read()
