"""A kernel with everything built in, made from the archive's `linux-source`, kept in the cache.

No distribution has one, and those that projects build for their CI are all like it: they have no
modules, and take no initramfs but ours. It takes some five minutes of two processors, once for
each version.

    CACHE/builtin/VERSION/boot/vmlinuz and config
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from vimto import console
from vimto.cache import entry
from vimto.errors import KernelError
from vimto.kernel import apt, deb

SOURCE = "linux-source-6.1"
FRAGMENT = Path(__file__).with_name("builtin.config")


def fetch(cache: Path) -> Path:
    """Return the directory of such a kernel, making it if need be.

    Raises `KernelError` where the archive has no source or it cannot be built.
    """
    archive = apt.Apt("", cache)
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
        run(["tar", "-xf", packed.name], Path(place))
        tree = next(path for path in Path(place).iterdir() if path.is_dir())
        run(["make", "-s", "tinyconfig"], tree)
        run(["scripts/kconfig/merge_config.sh", "-m", ".config", os.fspath(FRAGMENT)], tree)
        run(["make", "-s", "olddefconfig"], tree)
        run(["make", "-s", f"-j{os.cpu_count()}", "bzImage"], tree)
        with entry.new_directory(directory) as made:
            (made / "boot").mkdir()
            shutil.copy(tree / "arch/x86/boot/bzImage", made / "boot/vmlinuz")
            shutil.copy(tree / ".config", made / "boot/config")


def choose(name: str) -> str:
    """Return where a package's file goes: the sources' archive alone is wanted."""
    return Path(name).name if name.endswith(".tar.xz") else ""


def run(argv: list[str], cwd: Path) -> None:
    """Run a command of the build; raises `KernelError` with its last words."""
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stdout + done.stderr).splitlines()[-10:]
        raise KernelError(f"`{' '.join(argv)}` failed", lines=tuple(last))
