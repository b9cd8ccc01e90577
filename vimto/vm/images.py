"""Images of disks in use: one that is written to is one machine's alone.

QEMU has locks of its own, but a machine that is restored takes them only once its state is loaded,
and is silent when it gets none. So whoever starts one asks first, and holds a lock besides: two at
once would both be told that nobody has the image.
"""

import errno
import fcntl
import os
import struct
from collections.abc import Iterable

from vimto.beneath import open_directory, open_file
from vimto.diskimage import WRITTEN, Image, recognise_image
from vimto.errors import VimtoError
from vimto.qemu.backends import Drive

# block/file-posix.c: a QEMU that writes holds the first of these bytes of its image, one that
# bears no other writer the second.
_WRITES, _BEARS_NO_WRITER = 101, 201
# struct flock: type, whence, start, length, pid.
_FLOCK = struct.Struct("hhqqi4x")


class HeldImages:
    """Locked descriptors of images, for as long as a machine may use them; `close` lets go.

    `fds` has one for each disk that QEMU is to open by it, -1 for those that it opens by name.
    """

    def __init__(self) -> None:
        self.fds: list[int] = []
        self._held: list[int] = []

    def hold(self, drive: Drive) -> None:
        """Lock the image of `drive`, and see that it is what it was taken for.

        The path has no links in it, which a guest that may write there could have put into it.
        Raises `VimtoError` when it is used in a way that does not go with this one.
        """
        try:
            fd = _open(drive.path)
            self._held.append(fd)
            image = recognise_image(fd)
        except OSError as exc:
            reason = str(exc.strerror).lower()
            raise VimtoError(f"`{drive.path}` cannot be a disk: {reason}") from exc
        if image.format != drive.format:
            raise VimtoError(f"`{drive.path}` was a {drive.format} image, and is one no longer")
        _refuse_other_files(drive, image)
        written = drive.mode == WRITTEN
        busy = _is_locked(fd, _WRITES) or (written and _is_locked(fd, _BEARS_NO_WRITER))
        if busy or not _lock(fd, fcntl.LOCK_EX if written else fcntl.LOCK_SH):
            raise _in_use(drive)
        # A backing file is found from the image's own name.
        self.fds.append(fd if drive.alone else -1)

    def close(self) -> None:
        """Let go of all. Idempotent."""
        while self._held:
            os.close(self._held.pop())


def hold_images(drives: Iterable[Drive]) -> HeldImages:
    """Return the images of `drives`, held. Nothing is held when it raises `VimtoError`."""
    held = HeldImages()
    try:
        for drive in drives:
            if drive.path:
                held.hold(drive)
            else:
                held.fds.append(-1)
    except BaseException:
        held.close()
        raise
    return held


def _open(path: str) -> int:
    root = open_directory("/")
    try:
        return open_file(root, path.lstrip("/"))
    finally:
        os.close(root)


def _refuse_other_files(drive: Drive, image: Image) -> None:
    """Raise for what a guest that may write to the image could have made of it meanwhile."""
    if drive.alone and image.refers:
        raise VimtoError(f"`{drive.path}` stood alone, and does no longer: {image.refers}")


def _lock(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except OSError as exc:
        return exc.errno != errno.EWOULDBLOCK  # else this file system has no locks
    return True


def _is_locked(fd: int, byte: int) -> bool:
    """Say whether some QEMU holds this byte."""
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked)
    except OSError:
        return False
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _in_use(drive: Drive) -> VimtoError:
    if drive.mode == WRITTEN:
        return VimtoError(
            f"`{drive.path}` cannot be written to: another machine uses it",
            hint="without `:rw` each machine has the image for itself; `go test -p 1` runs one "
            "machine at a time",
        )
    return VimtoError(
        f"`{drive.path}` cannot be read: another machine writes to it",
        hint="copy the image, or wait until that machine has ended",
    )
