"""Which directory is the cache: the configured one, if nobody else can have written to it.

What lies in a cache is run: kernels, guest programs, whole machines.
"""

import os
from pathlib import Path
from typing import NamedTuple

from vimto import console
from vimto.cache import entry
from vimto.cache.digest import local_directory
from vimto.cache.entry import is_trusted
from vimto.cache.links import links_size
from vimto.errors import CacheError
from vimto.places import is_below

# Directories of entries.
KINDS = (
    "agent",
    "apt",
    "apt/state",
    "gdb-index",
    "images",
    "initramfs",
    "links",
    "modules",
    "snapshots",
    "vmlinux",
)
# What of a directory is the same on every host, as a pattern of the shell's; all, where it is not
# named. Not apt's lists, which are large and soon stale; nor what a name was found to mean when.
_TRAVELS = {"apt": "apt/*_*", "images": "images/[0-9a-f]*", "apt/state": ""}
# Directories of files that are read without a lock; entries are looked at when they are held.
_INNER = ("apt/index", "images/tags")
# What the owner of a file is shown as who has no number in this user namespace.
_NOBODY = 65534


def choose_cache(configured: Path, shared: str = "", *, named: bool = True) -> Path:
    """Return `configured`, or a private cache, with a warning, where somebody else may write to it.

    `shared` is a directory that machines may write to, "" for none. A cache that nobody has `named`
    is replaced where it cannot be made, too: a container's user may have no home, or a read-only
    one. Raises `CacheError` when there is no directory that can be trusted, and for what is not a
    directory.
    """
    _check_directory(configured)
    fault = _find_any_fault(configured, shared)
    reason = fault or ("" if named else _why_not_made(configured))
    if not reason:
        return configured
    for path in _private_caches():
        if path != configured and not _find_any_fault(path, shared) and _can_be_made(path):
            text = f"the cache `{configured}` is not used: {reason}; `{path}` is used instead"
            console.warn(text)
            return path
    if not fault:
        return configured  # whoever writes to it will say why that fails
    raise CacheError(
        f"the cache `{configured}` cannot be trusted: {fault}",
        hint="`cache_dir` or `VIMTO_CACHE_DIR` names another place, "
        "which only this user and root can write to",
    )


def _check_directory(cache: Path) -> None:
    for place in _ways_to(os.path.abspath(cache)):
        if os.path.lexists(place):
            if os.path.isdir(place):
                return
            raise CacheError(
                f"the cache cannot be `{cache}`: `{place}` is not a directory",
                hint="`cache_dir` or `VIMTO_CACHE_DIR` names another place",
            )


def _find_any_fault(cache: Path, shared: str) -> str:
    if shared and is_below(os.path.realpath(cache), os.path.realpath(shared)):
        return f"it lies in `{shared}`, where machines may write"
    return find_fault(cache)


def find_fault(cache: Path) -> str:
    """Return why others could have written to `cache`, or "" where nobody could.

    All that leads there counts, and the directories in it; what is not there is no fault.
    """
    path = os.path.abspath(cache)
    real = os.path.realpath(path)
    local = local_directory(real)
    inner = [*_INNER, local, f"{local}/resolved", *_subdirectories(real)]
    for place in (*_ways_to(path), *_ways_to(real), *(os.path.join(real, name) for name in inner)):
        try:
            link, status = os.lstat(place), os.stat(place)
        except OSError:
            continue
        if not (is_trusted(status) or _is_unmapped_root(status)):
            return _describe(place, status)
        if link.st_uid not in (0, os.geteuid(), status.st_uid):  # a link, of somebody else
            return _describe(place, link)
    return ""


def travelling(cache: Path, *, snapshots: bool) -> list[str]:
    """Return patterns, as a shell's, for what of `cache` another host can use.

    With `snapshots`, those as well.
    """
    kinds = [kind for kind in KINDS if snapshots or kind != "snapshots"]
    return [str(cache / found) for kind in kinds if (found := _TRAVELS.get(kind, kind))]


def _why_not_made(cache: Path) -> str:
    """Return why there is no `cache` and cannot be one, "" for one that is there or can be made."""
    for place in _ways_to(os.path.abspath(cache)):
        if os.path.lexists(place):
            usable = place == os.path.abspath(cache) or os.access(place, os.W_OK | os.X_OK)
            return "" if usable else f"`{place}` cannot be written"
    return ""


def _is_unmapped_root(status: os.stat_result) -> bool:
    """Say whether, in a user namespace, a directory seems to be the host's root's.

    A container with a home directory of the host (as toolbox makes them) sees `/home` as nobody's.
    """
    if status.st_uid != _NOBODY or status.st_mode & 0o022:
        return False
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            return file.read().split() != ["0", "0", "4294967295"]
    except OSError:
        return False


def _ways_to(path: str) -> list[str]:
    """Return `path` and all directories above it."""
    return [path, *map(str, Path(path).parents)]


def _subdirectories(path: str) -> list[str]:
    try:
        with os.scandir(path) as found:
            return [item.name for item in found if item.is_dir()]
    except OSError:
        return []


def _describe(place: str, status: os.stat_result) -> str:
    if status.st_uid in (0, os.geteuid()):
        return f"others can write to `{place}` (`chmod go-w` would end that)"
    import pwd

    try:
        owner = f"`{pwd.getpwuid(status.st_uid).pw_name}`"
    except KeyError:
        owner = str(status.st_uid)
    return f"`{place}` belongs to the user {owner}"


def _private_caches() -> list[Path]:
    import pwd

    import platformdirs

    found = [platformdirs.user_cache_path("vimto")]
    try:
        found.append(Path(pwd.getpwuid(os.geteuid()).pw_dir, ".cache/vimto"))
    except KeyError:
        pass  # in a container, a user need have no name
    return [*found, Path(f"/var/tmp/vimto-{os.geteuid()}")]


def _can_be_made(path: Path) -> bool:
    try:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError:
        return False
    # Somebody may have been quicker to take the name.
    return not find_fault(path) and os.access(path, os.W_OK | os.X_OK)


class Limits(NamedTuple):
    """The most bytes that the cache may take: all of it, its snapshots, its links."""

    total: int
    snapshots: int
    links: int


# Links come and go by the dozen, and measuring all of the cache takes a second: it is done when
# they have grown or shrunk by about as much.
_LINKS_STEP = 256 << 20


def is_unmeasured(cache: Path, limits: Limits) -> bool:
    """Say whether anything was made since `note_measured`, or for other limits than these.

    The directories of the entries tell: each new entry changes its directory's time.
    """
    try:
        if _measured(cache).read_text() != _describe_measure(cache, limits):
            return True
    except OSError:
        return True
    measured = time_of(_measured(cache))
    return any(time_of(cache / kind) >= measured for kind in KINDS if kind != "links")


def note_measured(cache: Path, limits: Limits) -> None:
    """Note that what is in `cache` was measured, and takes no more than `limits` allow."""
    with entry.new_file(_measured(cache)) as temporary:
        temporary.write_text(_describe_measure(cache, limits))


def _describe_measure(cache: Path, limits: Limits) -> str:
    return repr((*limits, links_size(os.fspath(cache / "links")) // _LINKS_STEP))


def _measured(cache: Path) -> Path:
    return Path(local_directory(cache), "measured")


def time_of(path: Path) -> float:
    """Return the time of the last change of a file or directory, 0 where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
