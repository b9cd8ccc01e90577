"""Kernel modules: which ones the guest needs, where they lie, and in which order they load."""

import lzma
import os
import re
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vimto.errors import KernelError
from vimto.files import read_file
from vimto.kernel import bzimage, unpack


@dataclass(frozen=True, kw_only=True)
class Driver:
    """Something the guest needs of its kernel, as a module or built in."""

    module: str
    option: str  # the CONFIG_ option that provides it
    required: bool = True


# What every guest needs; without a required one there is no talking to it.
MACHINE = (
    Driver(module="virtio_pci", option="VIRTIO_PCI"),
    Driver(module="virtio_console", option="VIRTIO_CONSOLE"),
    Driver(module="overlay", option="OVERLAY_FS"),
    Driver(module="virtio-rng", option="HW_RANDOM_VIRTIO", required=False),
    Driver(module="virtio_net", option="VIRTIO_NET", required=False),
    # File systems that every machine mounts before its save, as systemd does at each boot.
    Driver(module="configfs", option="CONFIGFS_FS", required=False),
    Driver(module="binfmt_misc", option="BINFMT_MISC", required=False),
    Driver(module="fuse", option="FUSE_FS", required=False),
)

# How the host's files get in: the first transport whose drivers are all there is taken.
TRANSPORTS: Mapping[str, tuple[Driver, ...]] = {
    "9p": (
        Driver(module="9pnet_virtio", option="NET_9P_VIRTIO"),
        Driver(module="9p", option="9P_FS"),
    ),
    "virtiofs": (
        Driver(module="fuse", option="FUSE_FS"),
        Driver(module="virtiofs", option="VIRTIO_FS"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Module:
    """One module file; `name` as the kernel shows it (`-` is `_`)."""

    name: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class ModulePlan:
    """What became of the wanted modules: files in load order, built in, or nowhere."""

    modules: tuple[Module, ...] = ()
    builtin: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ModuleIndex:
    """What a directory of modules holds, names normalised.

    `depends` is None where there is no `modules.dep`: packages leave that to depmod(8) on the
    target. Then each module's own `depends=` is read when it is asked for.
    """

    files: Mapping[str, Path]
    builtin: frozenset[str]
    depends: Mapping[str, tuple[str, ...]] | None
    sources: tuple[Path, ...] = field(default=())

    def dependencies(self, name: str) -> tuple[str, ...]:
        """Return the names of the modules that must be loaded before `name`."""
        if self.depends is not None and name in self.depends:
            return self.depends[name]
        return read_depends(read_module(self.files[name]), self.files[name])


def normalise(name: str) -> str:
    """Return a module's name as the kernel knows it, from a name or a file's path."""
    stem = re.sub(r"\.ko(\.\w+)?$", "", name.rsplit("/", 1)[-1])
    return stem.replace("-", "_")


def read_index(directory: Path) -> ModuleIndex:
    """Read a directory `lib/modules/V`, or a kernel build tree.

    Raises `KernelError` when it cannot be read.
    """
    try:
        depends = _read_dep(directory / "modules.dep")
        return ModuleIndex(
            files=_find_files(directory) if depends is None else depends[0],
            builtin=_read_builtin(directory / "modules.builtin"),
            depends=None if depends is None else depends[1],
            sources=tuple(
                path
                for path in (
                    directory / "modules.dep",
                    directory / "modules.builtin",
                    directory,
                )
                if path.exists()
            ),
        )
    except OSError as exc:
        raise KernelError(f"the modules in `{directory}` cannot be read: {exc.strerror}") from exc


def resolve_modules(index: ModuleIndex | None, wanted: tuple[str, ...]) -> ModulePlan:
    """Say for each wanted module where it is, with everything it depends on, in load order.

    Without an index (a kernel that came without modules) everything counts as built in.
    """
    if index is None:
        return ModulePlan(builtin=tuple(normalise(name) for name in wanted))
    order: dict[str, Module] = {}
    builtin: list[str] = []
    missing: list[str] = []

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in order or name in above:
            return
        if name in index.files:
            for dependency in index.dependencies(name):
                visit(dependency, (*above, name))
            order[name] = Module(name=name, path=index.files[name])
        elif name in index.builtin:
            builtin.append(name)
        else:
            missing.append(name)

    for name in wanted:
        visit(normalise(name), ())
    return ModulePlan(
        modules=tuple(order.values()),
        builtin=tuple(dict.fromkeys(builtin)),
        missing=tuple(dict.fromkeys(missing)),
    )


# nvidia's, with debug information, has 100 MB.
_LARGEST_MODULE = 512 << 20
_LARGEST_LIST = 64 << 20


def read_module(path: Path) -> bytes:
    """Return the module in `path` as the kernel takes it: decompressed.

    Raises `KernelError` when it cannot be read or is damaged.
    """
    how = _COMPRESSIONS.get(path.suffix)
    try:
        data = read_file(path, _LARGEST_MODULE)
        return how(data) if how else data
    except OSError as exc:
        raise KernelError(
            f"the kernel module `{path}` cannot be read: {exc.strerror or exc}"
        ) from exc
    except (EOFError, ValueError, zlib.error, lzma.LZMAError) as exc:
        raise KernelError(f"the kernel module `{path}` cannot be read: {exc}") from exc


_COMPRESSIONS: Mapping[str, Callable[[bytes], bytes]] = {
    ".gz": unpack.gunzip,
    ".xz": unpack.unxz,
    ".zst": unpack.unzstd,
    ".bz2": unpack.bunzip2,
}


def read_depends(module: bytes, name: Path) -> tuple[str, ...]:
    """Return what a decompressed module says it depends on (`depends=` in its `.modinfo`)."""
    for entry in _section(module, b".modinfo", name).split(b"\0"):
        if entry.startswith(b"depends="):
            text = entry.removeprefix(b"depends=").decode("ascii", "replace")
            return tuple(normalise(part) for part in text.split(",") if part)
    return ()


def _section(data: bytes, wanted: bytes, name: Path) -> bytes:
    try:
        if not bzimage.is_elf(data):
            raise ValueError("it is no ELF file")
        start = struct.unpack_from("<Q", data, 0x28)[0]
        size, count, names = struct.unpack_from("<HHH", data, 0x3A)
        headers = [struct.unpack_from("<IIQQQQ", data, start + n * size) for n in range(count)]
        strings = headers[names][4]
        for header in headers:
            at = strings + header[0]
            if data[at : data.index(b"\0", at)] == wanted:
                return data[header[4] : header[4] + header[5]]
    except (ValueError, IndexError, OverflowError, struct.error) as exc:
        raise KernelError(f"the kernel module `{name}` is damaged: {exc}") from exc
    return b""


def _read_list(path: Path) -> str:
    """Return one of depmod's files; raises `FileNotFoundError`, or `KernelError`."""
    try:
        return read_file(path, _LARGEST_LIST).decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise KernelError(f"`{path}` cannot be read: {exc.strerror}") from exc


def _read_dep(path: Path) -> tuple[dict[str, Path], dict[str, tuple[str, ...]]] | None:
    # A line of modules.dep(5): `kernel/fs/9p/9p.ko: kernel/fs/netfs/netfs.ko …`. Old ones have
    # absolute paths, which the join below keeps only if they lie in the same directory.
    try:
        text = _read_list(path)
    except FileNotFoundError:
        return None
    files: dict[str, Path] = {}
    depends: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        file, colon, needs = line.partition(":")
        if colon:
            name = normalise(file)
            files[name] = path.parent / file.removeprefix(f"/lib/modules/{path.parent.name}/")
            depends[name] = tuple(normalise(need) for need in needs.split())
    return files, depends


def _read_builtin(path: Path) -> frozenset[str]:
    try:
        text = _read_list(path)
    except FileNotFoundError:
        return frozenset()
    return frozenset(normalise(line) for line in text.split())


def _find_files(directory: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    # `build` and `source` link to trees of 80,000 files; os.walk does not follow links.
    for place, directories, names in os.walk(directory):
        directories.sort()
        for name in sorted(names):
            if re.search(r"\.ko(\.\w+)?$", name):
                files.setdefault(normalise(name), Path(place, name))
    return files
