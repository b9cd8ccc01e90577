"""Debian packages: taking chosen files out of a `.deb` without installing it.

deb(5): an ar(1) archive whose member `data.tar.*` holds the files. It's read as a stream, so that
a 1.2 GB package of debug symbols costs no memory, and no disk but for the files that are wanted.
"""

import io
import os
import shutil
import tarfile
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from vimto import compression
from vimto.compression import Format
from vimto.errors import KernelError

_LEVEL = 3  # zstd's own default


class Choose(Protocol):
    """Decides where in the target a package's file goes; "" for nowhere.

    Where that name has `.zst` added, the file is compressed on its way.
    """

    def __call__(self, name: str, /) -> str: ...


def extract_deb(deb: Path, into: Path, choose: Choose) -> int:
    """Write the files of `deb` that `choose` accepts below `into` and return how many.

    `into` must be ours alone and hold no links. Owners, set-id bits, devices and times are not
    kept; links are made last, so that no file can be written through one. Raises `KernelError`
    for a damaged package.
    """
    try:
        with open(deb, "rb") as file, compression.damage_told(), ExitStack() as stack:
            data = stack.enter_context(_open_data(file))
            archive = stack.enter_context(tarfile.open(fileobj=data, mode="r|"))
            return _extract(archive, into, choose)
    except (tarfile.TarError, ValueError) as exc:
        raise KernelError(f"the package `{deb.name}` is damaged: {exc}") from exc


def _extract(archive: tarfile.TarFile, into: Path, choose: Choose) -> int:
    links: list[tuple[Path, str]] = []
    count = 0
    for member in archive:
        name = os.path.normpath(member.name)
        if name.startswith(("/", "..")):
            raise ValueError(f"it holds the name {member.name}")
        target = choose(name)
        if not target:
            continue
        path = into / target
        if member.issym():
            links.append((path, member.linkname))
        elif member.isdir():
            path.mkdir(parents=True, exist_ok=True)
        elif member.isreg():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(archive, member, path)
            count += 1
    for path, goal in links:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(path):
            path.symlink_to(goal)
    return count


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    content = archive.extractfile(member)
    assert content is not None  # a regular file has content
    mode = 0o755 if member.mode & 0o100 else 0o644
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(fd, "wb") as file, ExitStack() as stack:
        sink: BinaryIO = file
        if path.suffix == ".zst" and not member.name.endswith(".zst"):
            sink = stack.enter_context(compression.writer(file, Format.ZSTD, _LEVEL))
        shutil.copyfileobj(content, sink, 1 << 20)


def _open_data(file: BinaryIO) -> BinaryIO:
    if file.read(8) != b"!<arch>\n":
        raise ValueError("it is not an ar archive")
    while header := file.read(60):
        name = header[:16].decode("ascii", "replace").strip().rstrip("/")
        size = int(header[48:58])
        if name.startswith("data.tar"):
            part = cast(BinaryIO, io.BufferedReader(_Part(file, size), 1 << 18))
            suffix = name.removeprefix("data.tar")
            if not suffix:
                return part
            form = compression.BY_SUFFIX.get(suffix)
            if form is None:
                raise ValueError(f"it is compressed in an unknown way ({name})")
            return compression.reader(part, form)
        file.seek(size + size % 2, os.SEEK_CUR)
    raise ValueError("it holds no files")


class _Part(io.RawIOBase):
    # The next `size` bytes of a file: decompressors look for another stream behind theirs, and
    # ar's padding is none.

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        data = self._file.read(min(len(view), self._left))
        view[: len(data)] = data
        self._left -= len(data)
        return len(data)
