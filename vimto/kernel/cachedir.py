"""Entries of the cache directory: named by what they were made from, made once, never changed.

An entry is made in a temporary place beside its final name, under an exclusive lock, and renamed:
whoever sees the name sees a whole entry, and forty processes at once make it once.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vimto.errors import VimtoError

try:  # `hashlib` loads all of OpenSSL first, which takes every run 4 ms
    from _blake2 import blake2b
except ImportError:
    from hashlib import blake2b


def digest(data: bytes) -> str:
    """Return a digest of `data`, 32 hex digits: what an entry made from `data` is called."""
    return blake2b(data, digest_size=16).hexdigest()


def signature(*paths: Path) -> str:
    """Return a digest (32 hex digits) of the files' identities: path, inode, size and times.

    It changes whenever a file's content does, at the price of one stat(2) each: the change time
    (ctime) cannot be set back by a program. Raises `OSError` when a file is not there.
    """
    identities = []
    for path in paths:
        found = path.stat()
        numbers = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        identities.append(os.fsencode(path) + b"\0" + " ".join(map(str, numbers)).encode())
    return digest(b"\n".join(identities))


def make_directory(path: Path) -> Path:
    """Make `path` and its parents, and return it; raises `VimtoError` where that is impossible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as exc:
        raise VimtoError(
            f"the cache directory `{path}` cannot be written: {exc.strerror}",
            hint="`cache_dir` or `VIMTO_CACHE_DIR` names another place",
        ) from exc
    return path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the exclusive lock of the entry `path` (a file `.NAME.lock` beside it) meanwhile."""
    make_directory(path.parent)
    with open(path.parent / f".{path.name}.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def new_file(path: Path, *, mode: int = 0o644) -> Iterator[Path]:
    """Give a temporary name to write to; it becomes `path` unless the body raises."""
    import tempfile  # an entry is made once, and looked up by every run

    make_directory(path.parent)
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(fd)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(mode)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Give a temporary directory to fill; it becomes `path`, which must not exist yet."""
    import shutil
    import tempfile

    make_directory(path.parent)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
