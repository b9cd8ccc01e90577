"""Kernel modules: which ones the guest needs, where they lie, and in which order they load."""

import io
import mmap
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vimto import compression, elf
from vimto.errors import KernelError
from vimto.files import read_file


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
    # File systems that every machine mounts before its snapshot, as systemd does at each boot.
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
    """What a directory of modules holds, names normalised: see `vimto.kernel.depmod`.

    `depends` are the modules that each one needs, all of them, whether they are there or not.
    `written` are the files of depmod(8) by name, which `place`, an entry of the cache, keeps for
    the next time. While none of `sources` changes, nothing does.
    """

    files: Mapping[str, Path]
    builtin: frozenset[str]
    depends: Mapping[str, tuple[str, ...]]
    written: Mapping[str, bytes] = field(repr=False)
    place: Path
    sources: tuple[Path, ...] = field(default=())


_FILE_NAME = re.compile(r"\.ko(\.\w+)?$")


def stem(name: str) -> str:
    """Return the last part of a module's path without its suffixes."""
    return _FILE_NAME.sub("", name.rsplit("/", 1)[-1])


def normalise(name: str) -> str:
    """Return a module's name as the kernel knows it, from a name or a file's path."""
    return stem(name).replace("-", "_")


def is_module(name: str) -> bool:
    """Say whether a file called `name` is a module, perhaps a compressed one."""
    return _FILE_NAME.search(name) is not None


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
            for dependency in index.depends[name]:
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
LARGEST_LIST = 64 << 20


def read_module(path: Path) -> bytes:
    """Return the module in `path` as the kernel takes it: decompressed.

    Raises `KernelError` when it cannot be read or is damaged.
    """
    form = compression.BY_SUFFIX.get(path.suffix)
    try:
        data = read_file(path, _LARGEST_MODULE)
        return compression.unpack(data, form) if form else data
    except OSError as exc:
        raise KernelError(
            f"the kernel module `{path}` cannot be read: {exc.strerror or exc}"
        ) from exc
    except ValueError as exc:
        raise KernelError(f"the kernel module `{path}` cannot be read: {exc}") from exc


def read_sections(module: bytes | mmap.mmap, names: Sequence[str], path: Path) -> dict[str, bytes]:
    """Return the contents of a decompressed module's sections `names`, empty where it has none.

    Raises `KernelError` for a damaged module; `path` is for the message.
    """
    found = dict.fromkeys(names, b"")
    try:
        file = elf.Elf(io.BytesIO(module) if isinstance(module, bytes) else module)
        for section in file.sections():
            if section.name in found:
                found[section.name] = file.read(section)
    except ValueError as exc:
        raise KernelError(f"the kernel module `{path}` is damaged: {exc}") from exc
    return found
