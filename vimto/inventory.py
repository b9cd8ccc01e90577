"""Everything that is in the cache, of whatever kind: listed, named, removed, kept within limits."""

import contextlib
import functools
import json
import math
import os
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from vimto.cache import entry, snapshots
from vimto.cache.links import Link, list_links, prune_links
from vimto.cache.place import KINDS, Limits, note_measured, time_of
from vimto.errors import CacheError
from vimto.kernel.reference import is_digest
from vimto.oci import store as images

# Kinds whose entries need no explanation but a word.
_PLAIN = {
    "vmlinux": "unpacked kernel",
    "initramfs": "initramfs",
    "modules": "index of kernel modules",
    "agent": "guest program",
    "gdb-index": "gdb's index of symbols",
}
# Keys are shown as short as a commit's.
_SHOWN = 12


class Item(NamedTuple):
    """An entry of the cache for people.

    `names` are what it may be called by, those that a list shows first; `what` describes it. `size`
    is in bytes, `used` in seconds since the epoch, `busy` whether it is in use. `remove` says
    whether it is gone.
    """

    names: tuple[str, ...]
    shown: tuple[str, ...]
    what: str
    size: int
    used: float
    busy: bool
    remove: Callable[[], bool]


def list_items(cache: Path) -> list[Item]:
    """Return all entries, the one used last first."""
    used = _last_uses(cache)
    items = [
        *_images(cache),
        *_packages(cache, used),
        *_package_lists(cache),
        *_snapshots(cache),
        *_links(cache, list_links(os.fspath(cache / "links"))),
        *_plain(cache, used),
    ]
    return sorted(items, key=lambda item: -item.used)


def prune_items(
    cache: Path, limits: Limits, *, before: float, since: float = math.inf
) -> Iterator[Item]:
    """Remove what was used last before `before`, then the longest unused.

    Until what is left takes no more than `limits` allow; but never what is in use or, links apart,
    was used at `since` or later. Yields what was removed.
    """
    sweep(cache)
    for snapshot in snapshots.prune_snapshots(
        str(cache / "snapshots"), limits.snapshots, since=since
    ):
        yield _snapshot_item(cache, snapshot)
    links = os.fspath(cache / "links")
    yield from _links(cache, prune_links(links, limits.links, before=before))
    items = list_items(cache)
    total = sum(item.size for item in items)
    for item in reversed(items):
        old = item.used < before or (total > limits.total and item.used < since)
        if old and item.remove():
            total -= item.size
            yield item


def sweep(cache: Path) -> None:
    """Remove what killed processes left."""
    images.sweep(cache)
    places = [*(cache / name for name in KINDS), cache / "apt/index"]
    for directory in (*places, *cache.glob("local/*"), *cache.glob("local/*/*")):
        entry.sweep(directory)


def forget(cache: Path, *, before: float) -> None:
    """Remove what hosts found out before `before` and have not used since."""
    for host in entry.entries(cache / "local"):
        place = cache / "local" / host
        for path in (*place.glob("*"), *place.glob("*/*")):
            with contextlib.suppress(OSError):
                if not path.is_dir() and path.stat().st_mtime < before:
                    path.unlink()
        for path in (place / "resolved", place / "failed", place):
            with contextlib.suppress(OSError):
                path.rmdir()


def keep_limit(cache: Path, limits: Limits, *, since: float) -> None:
    """See to it that the cache takes no more than `limits`, if what was used since `since` does.

    What a run needed it must find again the next time. What fails is left to then.
    """
    with contextlib.suppress(OSError, CacheError):
        for _ in prune_items(cache, limits, before=0.0, since=since):
            pass
        note_measured(cache, limits)


def _last_uses(cache: Path) -> dict[str, float]:
    """Return when the entries were used last that the runs of this host and others led to."""
    used: dict[str, float] = {}
    for path in (cache / "local").glob("*/resolved/*.json"):
        try:
            moment = path.stat().st_mtime
            value = json.loads(path.read_bytes())
            for name in value["entries"]:
                used[name] = max(moment, used.get(name, 0.0))
        except (OSError, ValueError, KeyError, TypeError):
            pass
    return used


def _images(cache: Path) -> Iterator[Item]:
    known = set()
    for image, tags in images.list_images(cache):
        names = [tag.reference for tag in tags] or [image.reference]
        known.add(image.root.parent.name)
        yield Item(
            names=(*names, image.digest, image.digest.removeprefix("sha256:")),
            shown=tuple(names),
            what=f"image {image.digest[7 : 7 + _SHOWN]}, pulled {show_ago(image.pulled)}",
            size=image.size,
            used=image.used,
            busy=entry.is_held(image.root.parent),
            remove=functools.partial(images.remove_image, cache, image.digest),
        )
    yield from _damaged_images(cache, known)


def _damaged_images(cache: Path, known: Collection[str]) -> Iterator[Item]:
    for name in entry.entries(cache / "images"):
        if is_digest(f"sha256:{name}") and name not in known:
            path = cache / "images" / name
            yield _item(path, (f"image:{name[:_SHOWN]}", name), "image that cannot be used", {})


def _packages(cache: Path, used: dict[str, float]) -> Iterator[Item]:
    names = _package_names(cache)
    for name in entry.entries(cache / "apt"):
        path = cache / "apt" / name
        if name in ("index", "state") or not path.is_dir():
            continue
        package, _, rest = name.partition("_")
        version = rest.rpartition("_")[0].replace("%3a", ":")
        yield _item(
            path,
            (f"apt:{package}={version}", *names.get(name, ())),
            "debug information" if package.endswith("-dbg") else "package",
            used,
        )


def _package_names(cache: Path) -> dict[str, list[str]]:
    """Return what references led to the packages, by the name of their directories."""
    import urllib.parse

    found: dict[str, list[str]] = {}
    for path in (cache / "apt/index").glob("*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            reference = urllib.parse.unquote(path.stem).rpartition("-")[0]
            found.setdefault(json.loads(path.read_bytes())["directory"], []).append(reference)
    return found


def _package_lists(cache: Path) -> Iterator[Item]:
    for name in entry.entries(cache / "apt/state"):
        path = cache / "apt/state" / name

        def remove(path: Path = path) -> bool:
            try:
                # Whoever downloads has this lock, and not one on the lists themselves.
                with entry.locked(path, waiting="", limit=0.0):
                    return entry.remove(path)
            except CacheError:
                return False

        suite = "this host's suites" if name == "own" else f"the suite {name}"
        yield _item(path, (f"apt-lists:{name}",), f"package lists of {suite}", {})._replace(
            busy=entry.is_locked(path), remove=remove
        )


def _snapshots(cache: Path) -> Iterator[Item]:
    for snapshot in snapshots.list_snapshots(str(cache / "snapshots")):
        yield _snapshot_item(cache, snapshot)


def _snapshot_item(cache: Path, snapshot: snapshots.SnapshotInfo) -> Item:
    path = cache / "snapshots" / snapshot.key
    kernel = snapshot.kernel.partition(" (`")[0]  # without its place
    what = f"snapshot of {kernel}, {snapshot.memory} MiB"
    names = _key_names("snapshot", snapshot.key)
    return _item(path, names, what, {})._replace(used=snapshot.used, size=snapshot.size)


def _links(cache: Path, links: Collection[Link]) -> Iterator[Item]:
    """Yield what stands for all of `links`, if there are any: a table of hundreds tells nothing."""
    if not links:
        return

    def remove() -> bool:
        left = [link for link in links if not entry.remove(cache / "links" / link.name)]
        return not left

    yield Item(
        names=("links",),
        shown=("links",),
        what=f"what go has linked: {len(links)}",
        size=sum(link.size for link in links),
        used=max(link.used for link in links),
        busy=False,
        remove=remove,
    )


def _plain(cache: Path, used: dict[str, float]) -> Iterator[Item]:
    for kind, what in _PLAIN.items():
        for name in entry.entries(cache / kind):
            yield _item(cache / kind / name, _key_names(kind, name), what, used)


def _key_names(kind: str, key: str) -> tuple[str, ...]:
    # The guest program's key begins with its architecture, which says little.
    shown = key if kind == "agent" else key.partition(".")[0][:_SHOWN]
    return (f"{kind}:{shown}", f"{kind}:{key}")


def _item(path: Path, names: tuple[str, ...], what: str, used: dict[str, float]) -> Item:
    return Item(
        names=names,
        shown=names[:1],
        what=what,
        size=entry.disk_usage(os.fspath(path)),
        used=max(time_of(path), used.get(os.fspath(path), 0.0)),
        busy=entry.is_held(path),
        remove=lambda: entry.remove(path),
    )


def show_ago(moment: float) -> str:
    """Return how long ago a moment was, for people."""
    seconds = time.time() - moment
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit} ago"
    return "just now"
