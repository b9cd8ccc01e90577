"""Which virtiofsd this host has, and how it is started for one directory."""

import os

from vimto.errors import KernelError
from vimto.process import proc
from vimto.process.spawn import which
from vimto.qemu.devices import hole

# What `vm.virtiofs` fills in.
SOCKET, PATH, OPTION = hole("socket"), hole("path"), hole("option")
PLACES = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "virtiofsd")
_INSTEAD = "kernels with 9p need none: on Debian those that are not of the `cloud` flavour"


def find_virtiofsd() -> list[list[str]]:
    """Return the command lines, with holes, of a writable and of a read-only server.

    Raises `KernelError` where there is no server, or none that this user may run.
    """
    path = next(filter(None, map(which, PLACES)), None)
    if path is None:
        raise KernelError(
            "this kernel has virtiofs but no 9p, and virtiofsd is not installed",
            hint=f"on Debian and Ubuntu: sudo apt-get install virtiofsd; {_INSTEAD}",
        )
    if "--shared-dir" in proc.run([path, "--help"], check=False).text:
        # The one in Rust. Without a sandbox it runs unprivileged, like QEMU's own 9p server.
        words = [path, f"--fd={SOCKET}", f"--shared-dir={PATH}", "--sandbox=none"]
        return [words, [*words, "--readonly"]]
    if os.geteuid() != 0:
        raise KernelError(
            f"this kernel has virtiofs but no 9p, and `{path}` serves root only", hint=_INSTEAD
        )
    # The one in C, which came with QEMU up to 7.2. It cannot be told to only read: its own view
    # of the directory is made read-only before it starts.
    words = [path, f"--fd={SOCKET}", "-f", "-o", f"source={OPTION}"]
    words += ["-o", "sandbox=chroot", "-o", "log_level=err"]
    bind = 'm=bind; mountpoint -q -- "$0" && m=remount,bind; mount -o $m,ro -- "$0" "$0"'
    script = f'({bind}) && exec "$@"'
    return [words, ["unshare", "--mount", "sh", "-c", script, PATH, *words]]
