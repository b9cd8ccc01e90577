"""From the disks that are asked for to the files behind them."""

import os
import stat

from vimto.config import Config
from vimto.diskimage import WRITTEN, read_image
from vimto.disks import Disk, parse_disk
from vimto.errors import ConfigError
from vimto.qemu.backends import Drive
from vimto.qemu.devices import MOST_DISKS


def find_drives(config: Config) -> list[Drive]:
    """Return what is behind each disk; raises `ConfigError` for what cannot be."""
    if len(config.disk) > MOST_DISKS:
        raise ConfigError(f"a machine has {MOST_DISKS} disks at most, not {len(config.disk)}")
    drives = [_find(parse_disk(text)) for text in config.disk]
    written = [drive.path for drive in drives if drive.mode == WRITTEN]
    for drive in drives:
        if drive.path in written and [each.path for each in drives].count(drive.path) > 1:
            raise ConfigError(
                f"`{drive.path}` is to be written to, and is a second disk of the same machine"
            )
    return drives


def _find(disk: Disk) -> Drive:
    if not disk.path:
        return Drive(size=disk.size)
    path = os.path.realpath(disk.path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ConfigError(
                f"`{disk.path}` cannot be a disk: it is not a regular file",
                hint="QEMU takes others by `-device` and a `-drive` in `-qemu-args`",
            )
        image = read_image(path)
    except OSError as exc:
        hint = ""
        if isinstance(exc, FileNotFoundError):
            hint = "`-disk 1G` is an empty disk; `truncate -s 1G FILE` makes an image of one"
        raise ConfigError(
            f"`{disk.path}` cannot be a disk: {str(exc.strerror).lower()}", hint=hint
        ) from exc
    if disk.mode == WRITTEN and not os.access(path, os.W_OK):
        raise ConfigError(f"`{disk.path}` cannot be written to", hint="without `:rw` it need not")
    return Drive(path=path, format=image.format, mode=disk.mode, alone=not image.refers)
