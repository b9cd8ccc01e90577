"""What is behind a machine's devices on this host: no part of its state, nor of its snapshot's key.

Each is named as its device (`vimto.qemu.devices`) names it: `ram`, or the mount tag.
"""

from typing import NamedTuple

from vimto.qemu.options import Option


class Ram(NamedTuple):
    """What the guest's RAM lies in: nothing (`path` empty), or a file, private or shared."""

    path: str = ""
    shared: bool = False

    def option(self, mebibytes: int) -> Option:
        """Return the memory of a machine with `mebibytes` of it."""
        values = {"size": f"{mebibytes}M"}
        if self.path:
            kind = "memory-backend-file"
            values |= {"mem-path": self.path, "share": "on" if self.shared else "off"}
        elif self.shared:
            kind = "memory-backend-memfd"
            values["share"] = "on"
        else:
            kind = "memory-backend-ram"
        return Option("object", kind, values, id="ram")


class Directory(NamedTuple):
    """A directory of the host that a mount tag shows."""

    path: str
    readonly: bool = True

    def option(self, tag: str) -> Option:
        """Return the 9p server inside QEMU behind the device `tag`."""
        values = {"security_model": "none", "multidevs": "remap", "path": self.path}
        if self.readonly:
            values["readonly"] = "on"
        return Option("fsdev", "local", values, id=tag)


def socket_option(name: str, fd: int) -> Option:
    """Return the chardev `name` at a connected socket, which QEMU inherits as `fd`."""
    return Option("chardev", "socket", {"fd": str(fd)}, id=name)


def accelerator_option(name: str, threads: str) -> Option:
    """Return how instructions run: `threads` is `multi` or `single`, where they are emulated."""
    return Option("accel", name, {"thread": threads} if name == "tcg" else {})
