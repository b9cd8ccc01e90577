"""From a place on disk to the files and drivers of a kernel that can be booted.

Three steps: *locate* finds the image and what belongs to it, *settle* says which drivers come
from where, and the image itself is made into what QEMU loads fastest. Nothing is fetched.
"""

import os
import platform
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from vimto import elf
from vimto.cache import entry
from vimto.cache.digest import Table
from vimto.errors import KernelError
from vimto.files import read_file
from vimto.kernel import bzimage, depmod, modules, tree
from vimto.kernel.modules import MACHINE, TRANSPORTS, Driver, ModuleIndex, ModulePlan


@dataclass(frozen=True, kw_only=True)
class KernelFiles:
    """A kernel, ready to boot.

    `kernel` is for QEMU's `-kernel`: an ELF entered through PVH (`pvh`), else the bzImage.
    `image_root` is the tree to lay over the host's root in the guest, if the kernel came with
    one. `layer` lies over that: contents of files, or where a link leads, by places below the
    guest's root. `module_count` modules of `module_directory` can be loaded. `vmlinux` has debug
    information. `config` is {"CONFIG_X": "y"}, {} where unknown. While no file of `sources`
    changes, resolving again would give the same. `entries` of the cache are what all this was made
    of.
    """

    kernel: Path
    pvh: bool
    release: str
    modules: ModulePlan
    transport: str
    image_root: Path | None
    layer: Mapping[str, bytes | str] = field(repr=False)
    module_count: int
    module_directory: Path | None
    vmlinux: Path | None
    config: Mapping[str, str] = field(repr=False)
    sources: tuple[Path, ...] = field(repr=False)
    entries: tuple[Path, ...] = field(repr=False)
    description: str


@dataclass(frozen=True, kw_only=True)
class Located:
    """A kernel image and the places where its belongings are looked for."""

    image: Path
    release: str
    root: Path
    modules: Path | None
    image_root: Path | None
    watched: tuple[Path, ...] = ()


# Where packages, images and build trees put things, below their root; {v} is the release.
_IMAGES = ("boot/vmlinux", "boot/vmlinuz", "boot/bzImage")
_VERSIONED_IMAGES = (
    "boot/vmlinuz-{v}",
    "usr/lib/modules/{v}/vmlinuz",
    "lib/modules/{v}/vmlinuz",
    "boot/vmlinux-{v}",
)
_BARE_IMAGES = ("vmlinux", "vmlinuz", "bzImage")
_BUILT_IMAGES = ("vmlinux", "arch/x86/boot/bzImage")
_SHELF = "data/kernels"
_LARGEST_CONFIG = 16 << 20
_MODULES = ("lib/modules/{v}", "usr/lib/modules/{v}")
_MODULES_OF_HOST = "/lib/modules/{v}"
_CONFIGS = (
    ".config",
    "boot/config-{v}",
    "boot/config",
    "usr/lib/modules/{v}/config",
    "lib/modules/{v}/config",
    "lib/modules/{v}/build/.config",
    "config-{v}",
    "config",
)
_DEBUG = (
    "boot/vmlinux",
    "boot/vmlinux-{v}",
    "usr/lib/debug/boot/vmlinux-{v}",
    "usr/lib/debug/lib/modules/{v}/vmlinux",
    "usr/lib/debug/usr/lib/modules/{v}/vmlinux",
    "lib/modules/{v}/build/vmlinux",
    "vmlinux",
)


def resolve_kernel(place: Path, *, cache: Path) -> KernelFiles:
    """Return the files of the kernel at `place`, an image or a directory that has one.

    An image's modules are those of the tree that it lies in, if any. A directory is an image's or
    package's file system, or a kernel build tree; links in it are followed inside it;
    `boot/vmlinux` wins over `boot/vmlinuz`; of several kernels whose names carry a version the
    newest wins. Raises `KernelError` for what cannot be read, is not a kernel or lacks a driver,
    and for a directory without a kernel, or with several of which none is the one.
    """
    return _resolve_tree(place, cache) if os.path.isdir(place) else _resolve_file(place, cache)


def _resolve_file(path: Path, cache: Path) -> KernelFiles:
    image = Path(os.path.realpath(path))
    release = bzimage.read_release(image)
    for root in _roots_above(image):
        if is_build_tree(root):
            return _resolve(_build_tree(root, image, release), cache)
        found = _first(root, _MODULES, release)
        if found:
            image_root = None if root == Path("/") else root
            located = Located(
                image=image, release=release, root=root, modules=found, image_root=image_root
            )
            return _resolve(located, cache)
    located = Located(
        image=image, release=release, root=image.parent, modules=None, image_root=None
    )
    return _resolve(located, cache)


def _resolve_tree(root: Path, cache: Path) -> KernelFiles:
    root = Path(os.path.realpath(root))
    if is_build_tree(root):
        image = _first(root, _BUILT_IMAGES, "")
        if image is None:
            raise KernelError(
                f"the kernel build tree `{root}` holds no kernel",
                hint=f"build one with `make -C {root} bzImage`",
            )
        return _resolve(_build_tree(root, image, bzimage.read_release(image)), cache)
    image = _find_image(root)
    if image is None:
        return _resolve_shelf(root, cache)
    release = bzimage.read_release(image)
    found = _first(root, _MODULES, release)
    if found is None and any((root / name).exists() for name in ("modules.dep", "kernel")):
        found = root  # the directory is a lib/modules/V itself
    overlays = root != Path("/") and any(
        (root / name).is_dir() for name in ("boot", "lib", "usr", "etc")
    )
    located = Located(
        image=image,
        release=release,
        root=root,
        modules=found,
        image_root=root if overlays else None,
        watched=tuple(
            place
            for name in ("", "boot", "lib/modules", "usr/lib/modules")
            if (place := tree.find_inside(root, name))
        ),
    )
    return _resolve(located, cache)


def _resolve_shelf(root: Path, cache: Path) -> KernelFiles:
    """Resolve the one tree in `data/kernels`, as in the images of cilium/little-vm-helper.

    Its name there (`6.6`, `bpf-next`) says nothing about which is newer, so of several none wins.
    """
    names = tree.find_names(root, _SHELF)
    found = [place for name in names if (place := tree.find_inside(root, f"{_SHELF}/{name}"))]
    found = [place for place in found if _find_image(place)]
    if not found:
        raise KernelError(
            f"there is no kernel in `{root}`",
            hint="looked for boot/vmlinux, boot/vmlinuz, boot/vmlinuz-*, "
            f"usr/lib/modules/*/vmlinuz, vmlinux, vmlinuz, bzImage, and in {_SHELF}/*",
        )
    if len(found) > 1:
        raise KernelError(
            f"there are {len(found)} kernels in `{root / _SHELF}`:"
            f" {', '.join(place.name for place in found)}",
            hint=f"name one of them, as in `-kernel {shlex.quote(str(found[-1]))}`",
        )
    files = _resolve_tree(found[0], cache)
    watched = [place for name in ("", _SHELF) if (place := tree.find_inside(root, name))]
    return replace(files, sources=(*files.sources, *watched))


def find_image(place: Path) -> Path | None:
    """Return the image of the kernel at `place`, as `resolve_kernel` does, or None."""
    if not os.path.isdir(place):
        return place
    if is_build_tree(place):
        return _first(place, _BUILT_IMAGES, "")
    return _find_image(place)


def no_host_kernel() -> KernelError:
    """Return the error for a host without a kernel that can be read, and what would help."""
    for path in host_kernels():
        try:
            bzimage.read_head(path)
        except KernelError as exc:  # says how to make it readable
            return exc
    return KernelError(
        "this machine has no kernel installed",
        hint="`-kernel apt:linux-image-amd64` downloads Debian's without installing it",
    )


def find_host_kernel() -> Path | None:
    """Return the image of the running kernel, else of the newest one that can be read."""
    return next((path for path in host_kernels() if os.access(path, os.R_OK)), None)


def host_kernels(root: Path = Path("/")) -> Iterator[Path]:
    """Yield the images of the kernels installed under `root`: the running one, newest first."""
    running = platform.uname().release
    releases = [
        *(name.removeprefix("vmlinuz-") for name in tree.find_names(root, "boot")),
        *tree.find_names(root, "usr/lib/modules"),
        *tree.find_names(root, "lib/modules"),
    ]
    newest_first = sorted(set(releases) - {running}, key=tree.version_key, reverse=True)
    for release in (running, *newest_first):
        found = _first(root, _VERSIONED_IMAGES, release)
        if found:
            yield found


def is_build_tree(directory: Path) -> bool:
    """Say whether a kernel has been configured (`make …config`) in `directory`."""
    # An out-of-tree build (`make O=`) has a Makefile too, but no Kbuild.
    return (directory / ".config").is_file() and (
        (directory / "Kbuild").exists() or (directory / "include/config").is_dir()
    )


def _roots_above(image: Path) -> Iterator[Path]:
    # A kernel lies in a known place of its tree, five levels deep at most, so the modules of an
    # unrelated directory further up don't count.
    for root in image.parents[:5]:
        places = image.relative_to(root).parts[:-1]
        among_modules = places[-3:-1] == ("lib", "modules") and root.name != "usr"
        if places in ((), ("boot",)) or among_modules or is_build_tree(root):
            yield root


def _build_tree(root: Path, image: Path, release: str) -> Located:
    return Located(image=image, release=release, root=root, modules=root, image_root=None)


def _find_image(root: Path) -> Path | None:
    versions = {
        *(name.removeprefix("vmlinuz-") for name in tree.find_names(root, "boot")),
        *tree.find_names(root, "usr/lib/modules"),
        *tree.find_names(root, "lib/modules"),
    }
    found = _first(root, _IMAGES, "")
    for version in sorted(versions, key=tree.version_key, reverse=True):
        found = found or _first(root, _VERSIONED_IMAGES, version)
    return found or _first(root, _BARE_IMAGES, "")


def _first(root: Path, names: tuple[str, ...], release: str) -> Path | None:
    for name in names:
        if release or "{v}" not in name:
            found = tree.find_inside(root, name.format(v=release))
            if found:
                return found
    return None


def _resolve(located: Located, cache: Path) -> KernelFiles:
    kernel, pvh = _bootable(located.image, cache)
    text, config_file = _read_config(located, kernel)
    config = _parse_config(text)
    index = depmod.read_index(located.modules, cache=cache) if located.modules else None
    transport, plan = settle_drivers(index, config, name=str(located.image))
    debug = [
        path
        for name in _DEBUG
        if (path := _first(located.root, (name,), located.release)) and _is_debuggable(path)
    ]
    sources = (
        located.image,
        *located.watched,
        *(index.sources if index else ()),
        *(module.path for module in plan.modules),
        *([config_file] if config_file else []),
        *debug[:1],
    )
    return KernelFiles(
        kernel=kernel,
        pvh=pvh,
        release=located.release,
        modules=plan,
        transport=transport,
        image_root=located.image_root,
        layer=_layer(located, text, config_file, index),
        module_count=len(index.files) if index else 0,
        module_directory=located.modules,
        vmlinux=debug[0] if debug else None,
        config=config,
        sources=tuple(dict.fromkeys(sources)),
        entries=(index.place,) if index else (),
        description=f"Linux {located.release or 'of unknown version'} (`{located.image}`)",
    )


def _is_debuggable(path: Path) -> bool:
    try:
        return bzimage.has_debug_info(path)
    except OSError:  # unreadable: it is only wanted for gdb
        return False


def _read_config(located: Located, kernel: Path) -> tuple[str, Path | None]:
    """Return the kernel's configuration, and the file that holds it unless the kernel does."""
    path = _first(located.root, _CONFIGS, located.release)
    try:
        data = read_file(path, _LARGEST_CONFIG) if path else b""
        text = data.decode("utf-8", "surrogateescape")
    except OSError:
        path, text = None, ""
    return text or bzimage.read_config(kernel), path


def _parse_config(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines() if line.startswith("CONFIG_"))
    return {key: value for key, _, value in pairs}


def _layer(
    located: Located, config: str, config_file: Path | None, index: ModuleIndex | None
) -> dict[str, bytes | str]:
    """Return what the guest needs of this kernel and its tree has not, or not there."""
    layer: dict[str, bytes | str] = {}
    root = located.image_root or Path("/")
    place = f"boot/config-{located.release}"
    if config and located.release:
        # Where programs look for it (libbpf, cilium/ebpf), whatever the layout of the tree.
        seen = tree.find_inside(root, place)
        if seen is None or seen != config_file:
            layer[place] = config.encode("utf-8", "surrogateescape")
    if index and located.modules and located.release:
        bare = located.image_root is None and located.root != root
        directory = Path(_MODULES_OF_HOST.format(v=located.release)) if bare else located.modules
        files = depmod.guest_files(index, located.modules if bare else None)
        directory = Path(os.path.realpath(directory)).relative_to("/" if bare else root)
        layer |= {f"{directory}/{name}": content for name, content in files.items()}
        if directory.parts[0] == "usr" and not os.path.islink("/lib"):
            # The host has a `lib` of its own, where the kernel's programs look.
            layer[f"lib/modules/{located.release}"] = f"/{directory}"
    return layer


def _bootable(image: Path, cache: Path) -> tuple[Path, bool]:
    head = bzimage.read_head(image)
    if bzimage.is_bzimage(head):
        try:
            out = _unpacked(image, bzimage.extract_vmlinux, cache)
        except bzimage.UnknownCompressionError:
            return image, False
        return (out, True) if bzimage.has_pvh_note(out) else (image, False)
    if not elf.is_elf(head):
        raise KernelError(f"`{image}` is neither an x86 bzImage nor a 64-bit ELF kernel")
    if not bzimage.has_pvh_note(image):
        raise KernelError(
            f"QEMU cannot start `{image}` directly: it was built without CONFIG_PVH",
            hint="the bzImage of the same build works",
        )
    if image.stat().st_size <= bzimage.loaded_size(image) + _NEGLIGIBLE:
        return image, True
    return _unpacked(image, bzimage.strip_vmlinux, cache), True


def _unpacked(image: Path, unpack: Callable[[Path, Path], None], cache: Path) -> Path:
    out = cache / "vmlinux" / Table(cache).digest(image)
    waiting = f"another vimto unpacks `{image}`"
    return entry.make_once(out, lambda: unpack(image, out), waiting=waiting)


_NEGLIGIBLE = 1 << 20  # relocations, section headers


def settle_drivers(
    index: ModuleIndex | None, config: Mapping[str, str], *, name: str
) -> tuple[str, ModulePlan]:
    """Choose the transport for files and say where each driver of the guest comes from.

    Raises `KernelError`, listing the options that `name` lacks, when there is no way.
    """
    lacks: dict[str, list[Driver]] = {}
    for transport, drivers in TRANSPORTS.items():
        wanted = (*(d for d in MACHINE if d.required or _is_complete(d, index)), *drivers)
        plan = modules.resolve_modules(index, tuple(driver.module for driver in wanted))
        absent = [driver for driver in wanted if not _is_provided(driver, plan, index, config)]
        lacks[transport] = [driver for driver in absent if driver.required]
        # A dependency that is nowhere leaves its module unloadable.
        names = {modules.normalise(driver.module) for driver in wanted}
        broken = [missing for missing in plan.missing if missing not in names]
        if broken:
            raise KernelError(f"`{name}` lacks modules that others need: {', '.join(broken)}")
        if not lacks[transport]:
            missing = tuple(modules.normalise(driver.module) for driver in absent)
            loaded = {module.name for module in plan.modules}
            return transport, ModulePlan(
                modules=plan.modules,
                builtin=tuple(sorted(names - loaded - set(missing))),
                missing=missing,
            )
    raise _lacking(name, lacks)


def _is_complete(driver: Driver, index: ModuleIndex | None) -> bool:
    """Say whether all that `driver` depends on is there, if not itself."""
    plan = modules.resolve_modules(index, (driver.module,))
    return not set(plan.missing) - {modules.normalise(driver.module)}


def _is_provided(
    driver: Driver, plan: ModulePlan, index: ModuleIndex | None, config: Mapping[str, str]
) -> bool:
    name = modules.normalise(driver.module)
    if any(module.name == name for module in plan.modules):
        return True
    if config:
        return config.get(f"CONFIG_{driver.option}") == "y"
    # Without a configuration, only a list of what is built in proves that something is not.
    return name not in plan.missing or (index is not None and not index.builtin)


def _lacking(name: str, lacks: Mapping[str, list[Driver]]) -> KernelError:
    machine = [driver for driver in MACHINE if driver in next(iter(lacks.values()))]
    if machine:
        options = ", ".join(f"CONFIG_{driver.option}" for driver in machine)
        return KernelError(
            f"`{name}` lacks {options}",
            hint="as a module it must lie in `lib/modules` of the kernel's tree",
        )
    ways = (
        " and ".join(f"CONFIG_{driver.option}" for driver in drivers) + f" for {transport}"
        for transport, drivers in lacks.items()
    )
    return KernelError(
        f"`{name}` has no way to the host's files: it supports neither 9p nor virtiofs",
        hint=f"it needs {', or '.join(ways)}",
    )
