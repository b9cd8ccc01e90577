"""What the scripts here unpack from a release's packages, and install nowhere."""

import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from vimto import console
from vimto.cache import entry
from vimto.errors import KernelError
from vimto.kernel import apt, deb


def fetch(
    package: str,
    suite: str,
    cache: Path,
    kind: str,
    fill: Callable[[apt.Apt, apt.Package, Path], None],
) -> Path:
    """Return the entry of `suite` in the directory `kind` of `cache`, made if it is not there.

    `fill` is given the suite's `package` and the directory to fill. Each version of the package has
    an entry, and the newest one alone is kept.
    """
    archive = apt.Apt(suite, cache)
    with archive.locked():
        archive.update()
        found = archive.show(package)
        directory = cache / kind / f"{suite}_{found.version.replace(':', '%3a')}"
        if not directory.is_dir():
            with entry.new_directory(directory) as temporary:
                fill(archive, found, temporary)
            for other in directory.parent.glob(f"{suite}_*"):
                if other != directory:
                    shutil.rmtree(other, ignore_errors=True)
    return directory


def closure(archive: apt.Apt, *names: str) -> list[apt.Package]:
    """Return what an installation of `names` would bring where nothing is installed."""
    words = ["apt-get", "-q", "-y", "--print-uris", "--no-install-recommends", "install", *names]
    result = archive.run(words)
    found = re.findall(r"^'\S+' (\S+)_(\S+)_(\S+)\.deb (\d+)", result.text, re.MULTILINE)
    if result.status or not found:
        lines = result.stderr.decode("utf-8", "replace").splitlines()
        raise KernelError(f"`{names[-1]}` cannot be installed", lines=tuple(lines[-6:]))
    return [
        apt.Package(
            name=name,
            version=version.replace("%3a", ":"),
            architecture=architecture,
            depends=(),
            size=int(size),
            sha256="",  # nobody pins it
        )
        for name, version, architecture, size in found
    ]


def unpack(archive: apt.Apt, parts: list[apt.Package], into: Path, choose: deb.Choose) -> None:
    """Download `parts` and write what `choose` accepts of them below `into`."""
    size = sum(part.size for part in parts) / 1e6
    console.note(f"downloading {len(parts)} packages of {archive.suite} ({size:.0f} MB)")
    with tempfile.TemporaryDirectory(prefix="download-", dir=archive.state) as downloads:
        for file in archive.download(parts, Path(downloads)):
            deb.extract_deb(file, into, choose)
