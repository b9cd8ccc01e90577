"""Where QEMU is. It is started before all else, so this module is quick to import."""

import os

from vimto.errors import QemuError
from vimto.process.spawn import which

SYSTEM_BINARIES = {"x86_64": "qemu-system-x86_64", "aarch64": "qemu-system-aarch64"}


def find_qemu(configured: str = "") -> str:
    """Return the absolute path of QEMU; raises `QemuError` when there is none."""
    name = configured or SYSTEM_BINARIES.get(os.uname().machine, "")
    if not name:
        raise QemuError(f"vimto does not know which QEMU emulates {os.uname().machine}")
    path = which(name)
    if path is None:
        raise QemuError(
            f"`{name}` is not installed or not on PATH",
            hint="on Debian and Ubuntu: sudo apt-get install qemu-system-x86",
        )
    return os.path.realpath(path)
