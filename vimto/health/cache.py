"""The cache: where it is, and what room it has."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from vimto.cache import entry
from vimto.cache.snapshots import list_snapshots
from vimto.config import DEFAULT, Config
from vimto.errors import CacheError
from vimto.health.finding import Finding, good, missing, weak
from vimto.inventory import list_items
from vimto.values import GIB

# A snapshot of 1 GiB of memory, a kernel image, and some room.
_ROOM = 3 * GIB


def check_cache(config: Config) -> Iterable[Finding]:
    """Write into the cache, and look at the room that its disk and its limits leave."""
    directory = config.cache_dir
    try:
        with entry.aside(directory / "doctor") as place:
            Path(place, "file").touch()
        free = shutil.disk_usage(directory).free
    except (OSError, CacheError) as exc:
        yield missing(
            "cache",
            f"`{directory}` cannot be written: {exc.__cause__ or exc}",
            "`-cache-dir DIR` names another place",
            path=str(directory),
        )
        return
    used = sum(item.size for item in list_items(directory))
    saved = sum(snapshot.size for snapshot in list_snapshots(str(directory / "snapshots")))
    limits = config.cache_limit, config.snapshot_limit
    detail = (
        f"{directory} ({config.origins['cache_dir']}), {_gib(free)} GiB free;"
        f" in it {_limited(config, used, 'cache_limit')},"
        f" of that snapshots {_limited(config, saved, 'snapshot_limit')}"
    )
    data = {
        "path": str(directory),
        "free_bytes": free,
        "used_bytes": used,
        "limit_bytes": limits[0],
        "snapshot_bytes": saved,
        "snapshot_limit_bytes": limits[1],
    }
    if free < _ROOM:
        hint = "snapshots and kernels need a few GiB; `vimto kernel prune -all` empties the cache"
        yield weak("cache", detail, hint, **data)
    else:
        yield good("cache", detail, **data)


def _limited(config: Config, used: int, key: str) -> str:
    """Return how much of the limit `key` is used, and who set it."""
    origin = config.origins[key]
    who = f"`{key}`" + ("" if origin == DEFAULT else f", {origin}")
    return f"{_gib(used)} of {_gib(getattr(config, key))} GiB ({who})"


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}"
