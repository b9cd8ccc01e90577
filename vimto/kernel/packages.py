"""The distribution's kernel packages that are here, unpacked: which there are, and where.

    apt/index/REFERENCE.json  what a reference was found to be, and when
    apt/NAME_VERSION_ARCH/    usr/lib/modules/… and boot/…, immutable

What is here is found without apt, for each run does so: `kernel.apt` downloads.
"""

import json
import os
import time
from pathlib import Path
from typing import NamedTuple

from vimto.cache import entry
from vimto.kernel.reference import AptKernel

DAY = 24 * 3600.0


class UnpackedPackage(NamedTuple):
    """A kernel package's files in `directory`, which is laid out like `/` and never changes.

    `package` is the one with the kernel's version in its name, whatever metapackage led there.
    """

    directory: Path
    package: str
    version: str


def find_package(
    reference: AptKernel, *, cache: Path, fresh: float = DAY
) -> UnpackedPackage | None:
    """Return what `reference` was found to be at most `fresh` seconds ago, if it's still there.

    A reference with a version never grows stale. Nothing is fetched and no process is started.
    """
    if reference.pinned:  # whatever name led there, the directory says what it is
        image = reference.pinned[0]
        directory = cache / "apt" / directory_name(image.name, image.version, image.architecture)
        return UnpackedPackage(directory, *image[:2]) if directory.is_dir() else None
    try:
        known = json.loads(_index_file(reference, cache).read_text())
        found = UnpackedPackage(
            directory=cache / "apt" / known["directory"],
            package=known["package"],
            version=known["version"],
        )
        age = time.time() - known["checked"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not found.directory.is_dir() or not (reference.version or abs(age) <= fresh):
        return None
    return found


def directory_name(package: str, version: str, architecture: str) -> str:
    """Return what a package's directory is called."""
    # apt writes an epoch's colon in the same way; it would also end an overlay's directory.
    return f"{package}_{version.replace(':', '%3a')}_{architecture}"


def note_package(found: UnpackedPackage, reference: AptKernel, cache: Path) -> None:
    """Note that `reference` was found to be `found`, for `find_package`."""
    known = {
        "directory": found.directory.name,
        "package": found.package,
        "version": found.version,
        "checked": time.time(),
    }
    with entry.new_file(_index_file(reference, cache)) as temporary:
        temporary.write_text(json.dumps(known))


def _index_file(reference: AptKernel, cache: Path) -> Path:
    import urllib.parse

    name = urllib.parse.quote(f"{reference}-{os.uname().machine}", safe="")
    return cache / "apt" / "index" / f"{name}.json"


def debug_directory(package: UnpackedPackage, cache: Path) -> Path:
    """Return where `package`'s debug information is, or would be."""
    return cache / "apt" / package.directory.name.replace("_", "-dbg_", 1)


def find_debug(package: UnpackedPackage, *, cache: Path) -> Path | None:
    """Return the directory of `package`'s debug information, None if it was not fetched."""
    directory = debug_directory(package, cache)
    return directory if directory.is_dir() else None


def find_vmlinux(debug: Path) -> Path:
    """Return the `vmlinux` in a directory with debug information."""
    return next(path for path in sorted(debug.rglob("vmlinux*")) if path.is_file())
