"""What is behind a machine's devices on this host: no part of its state, nor of its snapshot's key.

Each is named as its device (`vimto.qemu.devices`) names it: `ram`, or the mount tag.
"""

from typing import NamedTuple

from vimto.diskimage import READ_ONLY, SCRATCH, WRITTEN
from vimto.qemu.options import Flag, Option


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


class Drive(NamedTuple):
    """What a disk holds: nothing (`size` bytes of it), or the image at `path`.

    `format` is `raw` or `qcow2`; `mode` is one of those in `vimto.diskimage`. An image that was
    `alone` referred to no other file when it was chosen.
    """

    size: int = 0
    path: str = ""
    format: str = ""
    mode: str = SCRATCH
    alone: bool = True

    def option(self, name: str, fd: int = -1) -> Option:
        """Return the drive behind the disk `name`; QEMU inherits its image as `fd`, unless -1.

        A layer for what is written is a file of QEMU's, which has no name from the start.
        """
        values = {"if": "none"}
        if self.path:
            path = self.path if fd < 0 else f"/dev/fd/{fd}"
            values |= {"driver": self.format, "file.driver": "file", "file.filename": path}
        else:
            values |= {"driver": "null-co", "size": str(self.size), "read-zeroes": "on"}
        if self.mode == READ_ONLY:
            values["readonly"] = "on"
        else:
            values |= {"discard": "unmap", "snapshot": "off" if self.mode == WRITTEN else "on"}
        return Option("drive", "", values, id=name)


# What stands behind disks and cards while nobody looks at them: nothing of this host.
NO_DRIVE = Drive(size=1 << 20, mode=READ_ONLY)


def no_network(index: int) -> str:
    """Return what a card's cable leads to where there is no other end; see `card_flag`."""
    return f"hubport,hubid={index}"


def card_flag(backend: str, name: str) -> Flag:
    """Return what is behind the network card `name`; `backend` is as QEMU's `-netdev` takes it.

    A flag: what may stand in it more than once (`hostfwd=`) has no place in an `Option`.
    """
    return Flag("netdev", f"{backend},id={name}")


def socket_option(name: str, fd: int) -> Option:
    """Return the chardev `name` at a connected socket, which QEMU inherits as `fd`."""
    return Option("chardev", "socket", {"fd": str(fd)}, id=name)


def accelerator_option(name: str, threads: str) -> Option:
    """Return how instructions run: `threads` is `multi` or `single`, where they are emulated."""
    return Option("accel", name, {"thread": threads} if name == "tcg" else {})
