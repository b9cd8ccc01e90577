"""What go has linked, kept by all that went into it; the guest program reads and writes it.

    CACHE/links/ACTION-HASH    a linked binary, and a trailer that tells whether it is whole

go starts its linker through `guest/internal/linkcache`, on the host. An entry is used by copying
it, without a lock: one that is removed meanwhile is copied to its end. Its time is that of its last
use.
"""

import os
from contextlib import suppress
from typing import NamedTuple

from vimto.cache import entry


class Link(NamedTuple):
    """A kept link: `size` in bytes on disk, `used` in seconds since the epoch."""

    name: str
    size: int
    used: float


def list_links(links: str) -> list[Link]:
    """Return what is kept in the directory `links`, the one used last first."""
    found = []
    with suppress(OSError), os.scandir(links) as items:
        for item in items:
            if not item.name.startswith("."):
                with suppress(OSError):  # somebody removes it
                    status = item.stat(follow_symlinks=False)
                    found.append(Link(item.name, status.st_blocks * 512, status.st_mtime))
    return sorted(found, key=lambda link: -link.used)


def links_size(links: str) -> int:
    """Return the bytes on disk of all that is kept in `links`."""
    return sum(link.size for link in list_links(links))


def prune_links(links: str, limit: int, *, before: float = 0.0) -> list[Link]:
    """Remove what was used last before `before`, then the longest unused.

    Until what is left takes at most `limit` bytes; a run may have made more, and what it loses is
    linked again. What killed linkers left goes as well. Returns what was removed.
    """
    entry.sweep(links)
    found = list_links(links)
    total = sum(link.size for link in found)
    removed = []
    for link in reversed(found):
        old = link.used < before or total > limit
        if old and entry.remove(os.path.join(links, link.name)):
            total -= link.size
            removed.append(link)
    return removed
