"""A kernel with everything built in, made from the archive's `linux-source`, kept in the cache.

No distribution has one, and those that projects build for their CI are all like it: they have no
modules, and take no initramfs but ours. It takes some five minutes of two processors, once for
each version.

    CACHE/builtin/VERSION/boot/vmlinuz and config
"""

import functools
import os
import shutil
import tempfile
from pathlib import Path

from vimto import console
from vimto.cache import entry
from vimto.kernel import apt, deb
from vimto.process import proc

SOURCE, SUITE = "linux-source-6.1", "bookworm-security"
FRAGMENT = Path(__file__).with_name("builtin.config")


def fetch(cache: Path) -> Path:
    """Return the directory of such a kernel, making it if need be.

    Raises `VimtoError` where the archive has no source or it cannot be built.
    """
    archive = apt.Apt(SUITE, cache)
    with archive.locked():
        archive.update()
        source = archive.show(SOURCE)
    directory = cache / "builtin" / source.version.replace(":", "%3a")
    return entry.make_once(
        directory,
        lambda: build(archive, source, directory),
        waiting="another hack/kernels builds the kernel",
    )


def build(archive: apt.Apt, source: apt.Package, directory: Path) -> None:
    """Make the entry `directory` from the package `source`."""
    with tempfile.TemporaryDirectory(prefix="vimto-builtin-", dir="/var/tmp") as place:
        console.note(f"downloading {source.name} ({source.size / 1e6:.0f} MB)")
        with archive.locked():  # not while it builds, which takes minutes
            (package,) = archive.download([source], Path(place))
        deb.extract_deb(package, Path(place), choose)
        (packed,) = Path(place).glob("*.tar.xz")
        console.note(f"building Linux {source.version} with everything built in")
        proc.run(["tar", "-xf", packed.name], cwd=Path(place), limit=None)
        tree = next(path for path in Path(place).iterdir() if path.is_dir())
        run = functools.partial(proc.run, cwd=tree, limit=None)
        run(["make", "-s", "tinyconfig"])
        merge = tree / "scripts/kconfig/merge_config.sh"
        run([os.fspath(merge), "-m", ".config", os.fspath(FRAGMENT)])
        run(["make", "-s", "olddefconfig"])
        run(["make", "-s", f"-j{os.cpu_count()}", "bzImage"])
        with entry.new_directory(directory) as made:
            (made / "boot").mkdir()
            shutil.copy(tree / "arch/x86/boot/bzImage", made / "boot/vmlinuz")
            shutil.copy(tree / ".config", made / "boot/config")


def choose(name: str) -> str:
    """Return where a package's file goes: the sources' archive alone is wanted."""
    return Path(name).name if name.endswith(".tar.xz") else ""
