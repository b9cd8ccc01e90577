"""Where gdb's symbols come from: a `vmlinux` with debug information, else the guest's own list."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vimto import elf
from vimto.errors import KernelError
from vimto.files import open_file
from vimto.kernel import apt, boot, bzimage, packages, tree
from vimto.kernel.reference import AptKernel

# Below this there are a process's own addresses, and offsets into per-CPU areas.
_KERNEL_HALF = 0xFFFF_8000_0000_0000
_DEBUG_MODULES = ("usr/lib/debug/lib/modules/{v}", "usr/lib/debug/usr/lib/modules/{v}")
_SOURCES = ("usr/src/linux", "usr/src/linux-{v}", "lib/modules/{v}/source", "usr/src")


@dataclass(frozen=True, kw_only=True)
class Symbols:
    """What there is for gdb: `vmlinux` with debug information or None, and source directories.

    `release` is the kernel's, `modules` the directory of its modules, if it has any, and
    `debug_modules` the one with their debug information; `hint` says how to get the debug
    information that is missing.
    """

    vmlinux: Path | None
    release: str
    sources: tuple[Path, ...] = ()
    modules: Path | None = None
    debug_modules: Path | None = None
    hint: str = ""

    @property
    def build_id(self) -> str:
        """The build-id of `vmlinux`, "" without one."""
        return read_build_id(self.vmlinux) if self.vmlinux else ""


def read_build_id(path: Path) -> str:
    """Return the build-id of an ELF file in hexadecimal, "" where it has none or is not ELF."""
    with open_file(path, bzimage.LARGEST) as file:
        # Sections first: in a file of debug information alone the segments point nowhere.
        for parts in (elf.Elf.sections, elf.Elf.segments):
            with contextlib.suppress(ValueError):
                found = elf.Elf(file)
                if build_id := elf.find_build_id(found.notes(parts(found))):
                    return build_id
    return ""


def find_symbols(place: Path, *, cache: Path, package: AptKernel | None, fetch: bool) -> Symbols:
    """Return the symbols of the kernel at `place`, which the configuration led to.

    With `fetch` the debug information of a `package` is downloaded (hundreds of megabytes);
    without, only what an earlier run fetched is used.
    """
    files = boot.resolve_kernel(place, cache=cache)
    release = files.release
    root = place if place.is_dir() else _root_of(place)
    modules = _find_first(root, ("usr/lib/modules/{v}", "lib/modules/{v}"), release)
    vmlinux, hint = files.vmlinux, ""
    debug_root: Path | None = root
    if package is not None and (vmlinux is None or fetch):
        debug_root = _package_debug(package, cache, fetch)
        vmlinux = vmlinux or (packages.find_vmlinux(debug_root) if debug_root else None)
        hint = "`vimto gdb-kernel -fetch-debug` downloads the debug information of this package"
    if vmlinux is None and package is None:
        hint = "`-vmlinux FILE` names the kernel's ELF file with debug information"
    return Symbols(
        vmlinux=vmlinux,
        release=release,
        sources=tuple(_find_sources(root, vmlinux, release)),
        modules=modules,
        debug_modules=_find_first(debug_root, _DEBUG_MODULES, release) if debug_root else None,
        hint="" if vmlinux else hint,
    )


def check_vmlinux(path: Path) -> None:
    """Raise `KernelError` for a file that cannot be read, or that gdb can have no symbols from."""
    try:
        if not elf.is_elf(bzimage.read_head(path)):
            raise KernelError(
                f"`{path}` is not an ELF file",
                hint="gdb needs the kernel's `vmlinux`, not its bzImage",
            )
    except OSError as exc:
        raise KernelError(f"`{path}` cannot be read: {exc.strerror}") from exc


def use_vmlinux(path: Path, symbols: Symbols) -> Symbols:
    """Return `symbols` with the user's own `vmlinux`, which `check_vmlinux` lets pass."""
    own = _find_sources(path.parent, path, symbols.release)
    sources = tuple(dict.fromkeys((*own, *symbols.sources)))
    return replace(symbols, vmlinux=path, sources=sources, hint="")


def check_build(symbols: Symbols, running: str) -> None:
    """Raise `KernelError` unless `symbols` are of the very build whose id is `running`."""
    own = symbols.build_id
    if symbols.vmlinux and own and running and own != running:
        raise KernelError(
            f"`{symbols.vmlinux}` is not of the kernel that runs: every address would be wrong",
            lines=(f"build-id of the file:   {own}", f"build-id of the kernel: {running}"),
            hint="`-vmlinux FILE` names another; for a package, `-fetch-debug` downloads its own",
        )


def read_kallsyms(lines: Iterable[str]) -> dict[str, list[elf.Symbol]]:
    """Return the symbols in `/proc/kallsyms` by the module they belong to, the kernel's own as "".

    Raises `KernelError` when the kernel hides the addresses.
    """
    hidden = True
    found: dict[str, list[elf.Symbol]] = {"": []}
    for line in lines:
        fields = line.split()
        if len(fields) < 3:
            continue
        try:
            address = int(fields[0], 16)
        except ValueError:
            raise KernelError("/proc/kallsyms is malformed") from None
        hidden = hidden and address == 0
        if _KERNEL_HALF <= address < 1 << 64 and fields[1] not in "aAuU":
            module = fields[3].strip("[]") if len(fields) > 3 else ""
            symbol = elf.Symbol(address, fields[1], fields[2])
            found.setdefault(module, []).append(symbol)
    if hidden:
        raise KernelError(
            "the kernel tells no addresses in /proc/kallsyms",
            hint="it lacks CONFIG_KALLSYMS; `-vmlinux FILE` names its ELF file",
        )
    return found


def write_kallsyms(listing: str, target: Path) -> tuple[Path, ...]:
    """Make the ELF file `target` from the text of `/proc/kallsyms`, and others for its modules.

    Returns the modules' files, which lie beside it. (gdb looks an address up in the
    one file whose section spans it.)
    """
    groups = read_kallsyms(listing.splitlines())
    paths = []
    for number, (module, symbols) in enumerate(groups.items()):
        path = target.with_name(f"{target.name}-{number}") if module else target
        with open(path, "wb") as file:
            elf.write_symbols(symbols, file)
        paths.append(path)
    return tuple(path for path in paths if path != target)


def _package_debug(package: AptKernel, cache: Path, fetch: bool) -> Path | None:
    found = packages.find_package(package, cache=cache, fresh=float("inf"))
    if found is None:
        return None
    if fetch:
        return apt.fetch_debug(found, package, cache=cache)
    return packages.find_debug(found, cache=cache)


def _root_of(image: Path) -> Path:
    image = Path(os.path.realpath(image))
    return image.parent.parent if image.parent.name == "boot" else image.parent


def _find_sources(root: Path, vmlinux: Path | None, release: str) -> Iterator[Path]:
    if vmlinux and (vmlinux.parent / "kernel").is_dir():
        yield vmlinux.parent  # a build tree, or sources unpacked beside it
    if root == Path("/"):
        return
    found = _find_first(root, _SOURCES, release)
    if found and (found / "kernel").is_dir():
        yield found


def _find_first(root: Path, names: tuple[str, ...], release: str) -> Path | None:
    for name in names:
        with contextlib.suppress(KernelError):
            found = tree.find_inside(root, name.format(v=release))
            if found and found.is_dir():
                return found
    return None
