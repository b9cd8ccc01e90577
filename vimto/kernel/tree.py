"""Looking things up in a directory that is somebody else's `/`: links never lead out of it."""

import os
import re
from pathlib import Path

from vimto.errors import KernelError

_MAX_LINKS = 40  # as Linux's own limit, path_resolution(7)


def find_inside(root: Path, name: str | os.PathLike[str]) -> Path | None:
    """Return the real place of `name` below `root`, or None where there is nothing.

    Symbolic links are followed as if `root` were `/`: an absolute link starts again at `root`,
    and `..` stops there. Without this an image's `boot/vmlinuz -> /boot/vmlinuz-6.1` would name
    the host's kernel. Raises `KernelError` for a loop of links.
    """
    root = Path(os.path.realpath(root))
    found = root
    todo = [part for part in reversed(os.fspath(name).split("/")) if part not in ("", ".")]
    links = 0
    while todo:
        part = todo.pop()
        if part == "..":
            found = found.parent if found != root else root
            continue
        found = found / part
        try:
            target = os.readlink(found)
        except FileNotFoundError:
            return None
        except OSError:
            continue  # no link
        links += 1
        if links > _MAX_LINKS:
            raise KernelError(f"`{root / name}` is a loop of symbolic links")
        found = root if target.startswith("/") else found.parent
        todo += [piece for piece in reversed(target.split("/")) if piece not in ("", ".")]
    return found if os.path.lexists(found) else None


def find_names(root: Path, directory: str) -> list[str]:
    """Return what lies in `directory` below `root`, oldest version first; [] without it."""
    found = find_inside(root, directory)
    if found is None:
        return []
    try:
        return sorted(os.listdir(found), key=version_key)
    except (NotADirectoryError, PermissionError):
        return []


def version_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key for which `6.9-rc1` < `6.9` < `6.9-2` < `6.12`."""
    parts = re.findall(r"[0-9]+|[^0-9]+", re.sub(r"[-~]rc", "~", name))
    return (
        *((1, int(part), "") if part[0] in "0123456789" else _text_key(part) for part in parts),
        (0, 0, ""),
    )


def _text_key(part: str) -> tuple[int, int, str]:
    return (-1 if part.startswith("~") else 0, 0, part)
