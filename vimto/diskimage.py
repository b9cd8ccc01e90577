"""Images of disks: what such a file is, and what is done with it."""

import errno
import os
import stat
import struct
from typing import NamedTuple

# What a machine's writes reach: a layer that goes with it, nothing, or the image itself.
SCRATCH, READ_ONLY, WRITTEN = "scratch", "ro", "rw"

# Of QEMU's docs/interop/qcow2.txt: magic, version, the backing file's offset and the length of its
# name; behind them, from version 3 on, the features that a reader must know.
_QCOW2 = struct.Struct(">4sIQI")
_MAGIC = b"QFI\xfb"
_FEATURES = struct.Struct(">Q")
_FEATURES_AT = 72
_DATA_ELSEWHERE = 1 << 2


class Image(NamedTuple):
    """What a file is taken for: `raw` or `qcow2`. `refers` says what else holds its contents."""

    format: str
    refers: str = ""


def read_image(path: str) -> Image:
    """Return what the regular file at `path` is; raises `OSError`.

    What begins like a qcow2 image is one, whatever its name. QEMU is told so, and does not look
    again: a guest that writes such a beginning into a raw image would otherwise choose which file
    of the host the next machine sees.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO is not waited for
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        return recognise_image(fd)
    finally:
        os.close(fd)


def recognise_image(fd: int) -> Image:
    """Return what the open file `fd` is; raises `OSError`."""
    head = os.pread(fd, _FEATURES_AT + _FEATURES.size, 0)
    if head[:4] != _MAGIC or len(head) < _QCOW2.size:
        return Image("raw")
    _, version, backing, _ = _QCOW2.unpack_from(head)
    if version >= 3 and len(head) == _FEATURES_AT + _FEATURES.size:
        (features,) = _FEATURES.unpack_from(head, _FEATURES_AT)
        if features & _DATA_ELSEWHERE:
            return Image("qcow2", "its data lies in another file")
    return Image("qcow2", "it has a backing file" if backing else "")
