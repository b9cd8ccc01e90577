"""The archive a guest boots from.

init            the guest program
modules/        what it loads, in the order that `modules/order` has
layer/          what lies over the kernel's and the host's files in the guest's root
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from vimto.cache import entry
from vimto.cache.digest import Table, digest
from vimto.errors import KernelError
from vimto.kernel.modules import ModulePlan, read_module
from vimto.plan.agent import Agent

_DIRECTORY = 0o040755
_FILE = 0o100644
_PROGRAM = 0o100755
_LINK = 0o120777
_CONSOLE = 0o020600

# Raise it when the archive made from the same parts changes.
_FORMAT = 2


def build_initramfs(
    agent: Agent, modules: ModulePlan, layer: Mapping[str, bytes | str], *, cache: Path
) -> Path:
    """Return the initramfs of these parts, from the cache if it was made before.

    `layer` has contents of files, or where links lead, by their places. The same parts give the
    same bytes. Raises `KernelError` for an unreadable module.
    """
    path = cache / "initramfs" / f"{_key(agent, modules, layer, Table(cache))}.cpio"

    def make() -> None:
        with entry.new_file(path) as temporary, open(temporary, "wb") as file:
            write_archive(file, agent.path.read_bytes(), modules, layer)

    return entry.make_once(path, make, waiting="another vimto makes the initramfs")


def _key(agent: Agent, modules: ModulePlan, layer: Mapping[str, bytes | str], table: Table) -> str:
    parts = [f"{_FORMAT} {table.digest(agent.path)}"]
    for module in modules.modules:
        try:
            parts.append(f"{module.name} {table.digest(module.path)}")
        except OSError as exc:
            raise KernelError(
                f"the kernel module `{module.path}` cannot be read: {exc.strerror}"
            ) from exc
    for place, content in sorted(layer.items()):
        parts.append(f"{place} {content if isinstance(content, str) else digest(content)}")
    return digest("\n".join(parts).encode("utf-8", "surrogateescape"))


def write_archive(
    file: BinaryIO, init: bytes, modules: ModulePlan, layer: Mapping[str, bytes | str]
) -> None:
    """Write the archive, uncompressed: unpacking costs an emulated guest more than reading."""
    archive = _Archive(file)
    # Without a console node the kernel gives /init no descriptors 0, 1 and 2, and a crash of the
    # agent before it has mounted /dev would be silent.
    archive.add("dev", _DIRECTORY)
    archive.add("dev/console", _CONSOLE, device=(5, 1))
    archive.add("init", _PROGRAM, init)
    archive.add("modules", _DIRECTORY)
    order = "".join(f"{module.name}.ko\n" for module in modules.modules)
    archive.add("modules/order", _FILE, order.encode())
    for name, content in _contents(modules):
        archive.add(f"modules/{name}.ko", _FILE, content)
    for place, what in sorted(layer.items()):
        archive.add_parents(f"layer/{place}")
        if isinstance(what, str):
            archive.add(f"layer/{place}", _LINK, os.fsencode(what))
        else:
            archive.add(f"layer/{place}", _FILE, what)
    archive.end()


def _contents(modules: ModulePlan) -> Iterator[tuple[str, bytes]]:
    for module in modules.modules:
        yield module.name, read_module(module.path)


class _Archive:
    # cpio's "newc" format: Documentation/driver-api/early-userspace/buffer-format.rst.

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._inode = 0
        self._directories: set[str] = set()

    def add_parents(self, name: str) -> None:
        """Add the directories on the way to `name` that are not there yet."""
        for end in (at for at, letter in enumerate(name) if letter == "/"):
            if name[:end] not in self._directories:
                self._directories.add(name[:end])
                self.add(name[:end], _DIRECTORY)

    def add(
        self, name: str, mode: int, content: bytes = b"", *, device: tuple[int, int] = (0, 0)
    ) -> None:
        self._inode += 1
        raw = os.fsencode(name) + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(raw), 0)
        header = b"070701" + b"".join(b"%08x" % value for value in fields)
        self._write_padded(header + raw)
        self._write_padded(content)

    def end(self) -> None:
        self._inode = 0
        self.add("TRAILER!!!", 0)

    def _write_padded(self, data: bytes) -> None:
        self._file.write(data)
        self._file.write(b"\0" * (-len(data) % 4))
