"""The archive a guest boots from: the agent as `/init`, and the modules it loads, in order."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vimto.agent import Agent
from vimto.kernel import cachedir
from vimto.kernel.modules import ModulePlan, read_module

_DIRECTORY = 0o040755
_FILE = 0o100644
_PROGRAM = 0o100755
_CONSOLE = 0o020600

# Raise it when the archive made from the same parts changes.
_FORMAT = 1


def build_initramfs(agent: Agent, modules: ModulePlan, *, cache: Path) -> Path:
    """Return the initramfs of `agent` and `modules`, from the cache if it was made before.

    The same parts give the same bytes. Raises `KernelError` for an unreadable module.
    """
    parts = (agent.path, *(module.path for module in modules.modules))
    key = cachedir.digest(f"{_FORMAT} {cachedir.signature(*parts)}".encode())
    path = cache / "initramfs" / f"{key}.cpio"
    if not path.exists():
        with cachedir.locked(path):
            if not path.exists():
                with cachedir.new_file(path) as temporary, open(temporary, "wb") as file:
                    write_archive(file, agent.path.read_bytes(), modules)
    return path


def write_archive(file: BinaryIO, init: bytes, modules: ModulePlan) -> None:
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
    archive.end()


def _contents(modules: ModulePlan) -> Iterator[tuple[str, bytes]]:
    for module in modules.modules:
        yield module.name, read_module(module.path)


class _Archive:
    # cpio's "newc" format: Documentation/driver-api/early-userspace/buffer-format.rst.

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._inode = 0

    def add(
        self, name: str, mode: int, content: bytes = b"", *, device: tuple[int, int] = (0, 0)
    ) -> None:
        self._inode += 1
        raw = name.encode() + b"\0"
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
