"""From the kernel's name in the configuration to the exact files that boot.

    wanted    the configuration -> a reference, parsed once
    find      reference -> a file or directory on this host, if it is here
    fetch     reference -> the same, downloaded
    resolve   file or directory -> what QEMU loads, remembered for as long as nothing changes

Resolving reads a dozen files. What came of it is kept together with the identity of every file
that it depends on, so that the next `vimto exec` reads one small file instead:

    CACHE/local/HOST/resolved/KEY.json   KEY is the kernel's place, the mtime its last use
"""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vimto import __version__, console
from vimto.cache import entry
from vimto.cache.digest import digest, local_directory, signature
from vimto.config import LOCK_FILE, Config
from vimto.errors import CacheError, ImageError, KernelError, VimtoError
from vimto.kernel.packages import find_package
from vimto.kernel.reference import (
    AptKernel,
    DirectoryKernel,
    FileKernel,
    HostKernel,
    ImageReference,
    KernelReference,
    LayoutReference,
    RegistryReference,
    parse_kernel,
)
from vimto.plan.agent import Agent, build_agent, find_agent, source_directory, source_files
from vimto.process.spawn import which

if TYPE_CHECKING:  # images need libraries that take long to load
    from vimto.oci.store import Image


def default_package() -> str:
    """Return what is booted where nothing is configured and no kernel can be read.

    Ubuntu lets only root read the kernel that is installed, and has no `linux-image-amd64`.
    """
    try:
        import platform  # only where no kernel is configured

        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    names = [release.get("ID", ""), *release.get("ID_LIKE", "").split()]
    return "linux-image-generic" if "ubuntu" in names else "linux-image-amd64"


def wanted_kernel(config: Config) -> KernelReference | None:
    """Return which kernel is wanted, None where the configuration says nothing.

    That is what it names, or what a lock beside its file says that to be. Raises `KernelError` for
    what means nothing, and for a path without a file; `ConfigError` for a lock that is malformed.
    """
    kernel = named_kernel(config)
    if config.lock is None or not os.path.lexists(config.lock):
        return kernel
    from vimto.plan.lock import apply_lock

    return apply_lock(kernel, config)


def named_kernel(config: Config) -> KernelReference | None:
    """Return what the configuration calls the kernel, whatever a lock says; as `wanted_kernel`."""
    if not config.kernel:
        return None
    return parse_kernel(
        config.kernel,
        configured=config.configured_kernel,
        directories=config.kernel_directories,
    )


class FoundKernel(NamedTuple):
    """A kernel's file or directory on this host, and the reference that led there."""

    reference: KernelReference
    place: Path


class BootParts(NamedTuple):
    """What there is to boot: paths as text, so that it can be remembered.

    `image` is the tree to lay over the host's root, or empty.
    """

    kernel: str
    initrd: str
    release: str
    image: str
    transport: str
    name: str


def resolve_kernel(
    config: Config, reference: KernelReference | None, stack: contextlib.ExitStack
) -> BootParts:
    """Return what to boot, fetching the kernel and building the guest program if need be.

    `reference` is what `wanted_kernel` returned. What of it is in the cache is held there until
    `stack` closes. Raises `KernelError`, `ImageError`, `AgentError` or `CacheError`.
    """
    # Without a guest program there is no use for a kernel that takes long to fetch.
    place = locate_kernel(config, reference, stack, lambda: _guest_program(config.cache_dir)).place
    record = _record(config.cache_dir, place)
    parts = _recall(record)
    while parts is None or not _hold(config.cache_dir, [parts.kernel, parts.initrd], stack):
        parts, sources, entries = _resolve(place, config.cache_dir)
        _remember(record, parts, sources, [parts.kernel, parts.initrd, str(place), *entries])
    if reference is None:
        console.note(f"{_short(parts)} runs; `kernel` in .vimto.toml chooses, and ends this line")
    return parts


def _short(parts: BootParts) -> str:
    return f"Linux {parts.release}" if parts.release else f"the kernel {parts.name}"


def locate_kernel(
    config: Config,
    reference: KernelReference | None,
    stack: contextlib.ExitStack,
    before_fetch: Callable[[], object] = lambda: None,
) -> FoundKernel:
    """Return where the kernel `reference` is on this host; `before_fetch` may stop a download.

    None stands for what vimto chooses: the host's kernel, else its distribution's package. What of
    it is in the cache is held there until `stack` closes.
    """
    chosen = choose_kernel() if reference is None else reference  # `HostKernel()` is falsy
    place = _find(chosen, config, stack)
    if place is None:
        before_fetch()
        try:
            place = _fetch(chosen, config, stack)
        except KernelError as exc:
            if reference is not None:
                raise
            raise _nothing_chosen(exc) from exc
    return FoundKernel(chosen, place)


def choose_kernel() -> KernelReference:
    """Return what vimto boots where nothing is configured."""
    from vimto.kernel import boot

    return HostKernel() if boot.find_host_kernel() else AptKernel(package=default_package())


def _nothing_chosen(exc: KernelError) -> KernelError:
    return KernelError(
        "no kernel is configured, this host has none installed that can be read,"
        f" and {exc.message}",
        hint="name one with `-kernel`, or in `.vimto.toml`",
        lines=exc.lines,
    )


def _find(reference: KernelReference, config: Config, stack: contextlib.ExitStack) -> Path | None:
    match reference:
        case FileKernel(path=path) | DirectoryKernel(path=path):
            return path
        case HostKernel():
            from vimto.kernel import boot

            return boot.find_host_kernel()
        case AptKernel():
            package = find_package(reference, cache=config.cache_dir)
            if package and _hold(config.cache_dir, [str(package.directory)], stack):
                return package.directory
            return None
        case RegistryReference() | LayoutReference():
            from vimto.oci import store

            image = store.find_image(reference, config)
            return stack.enter_context(store.hold(image)).root if image else None


def _fetch(reference: KernelReference, config: Config, stack: contextlib.ExitStack) -> Path:
    match reference:
        case FileKernel(path=path) | DirectoryKernel(path=path):
            return path
        case HostKernel():
            from vimto.kernel import boot

            raise boot.no_host_kernel()
        case AptKernel():
            from vimto.kernel import apt

            while True:  # somebody may remove it before it is held
                package = apt.fetch_package(reference, cache=config.cache_dir)
                if _hold(config.cache_dir, [str(package.directory)], stack):
                    return package.directory
        case RegistryReference() | LayoutReference():
            from vimto.oci import store

            return stack.enter_context(store.hold(_fetch_image(reference, config))).root


def _fetch_image(reference: ImageReference, config: Config) -> "Image":
    from vimto.oci.pull import fetch_image

    try:
        return fetch_image(reference, config)
    except ImageError as exc:
        from vimto.oci.registry import MissingError

        if isinstance(exc, MissingError) and reference != named_kernel(config):
            raise ImageError(
                f"the registry no longer has `{reference}`, which `{LOCK_FILE}` names",
                hint="`vimto kernel lock -update` writes what it has now",
            ) from exc
        text = config.kernel
        if isinstance(reference, LayoutReference) or "/" in text or text.startswith(":"):
            raise
        raise ImageError(
            exc.message,
            lines=exc.lines,
            hint=f"`{text}` was taken for an image's name; `:{text}` is a tag of the configured "
            f"image, `./{text}` a file; see `vimto help kernels`",
        ) from exc


def _hold(cache: Path, paths: list[str], stack: contextlib.ExitStack) -> bool:
    """Hold those of `paths` that are entries of the cache; False if one is not there any more.

    One that somebody else could have written is removed; raises `CacheError` where it cannot be.
    """
    for path in paths:
        if os.path.dirname(os.path.dirname(path)) != str(cache):
            continue
        try:
            stack.callback(os.close, entry.hold(path))
        except FileNotFoundError:
            return False
        except entry.UntrustedError as exc:
            if not entry.remove(path):
                raise entry.untrusted(path) from exc
            return False
        except OSError:
            pass  # somebody removes it, or it cannot be locked here: what it costs is a run
    return True


def _resolve(place: Path, cache: Path) -> tuple[BootParts, list[str], list[str]]:
    """Return what to boot, the files that this depends on, and what it was made of in the cache."""
    from vimto.kernel import boot
    from vimto.plan.initramfs import build_initramfs

    files = boot.resolve_kernel(place, cache=cache)
    agent = _guest_program(cache)
    initrd = build_initramfs(agent, files.modules, {**files.layer, **_programs()}, cache=cache)
    parts = BootParts(
        kernel=str(files.kernel),
        initrd=str(initrd),
        release=files.release,
        image=str(files.image_root or ""),
        transport=files.transport,
        name=files.description,
    )
    guest = list(source_files(source_directory()))
    # A directory changes with the names in it, a file with its contents.
    packages = dict.fromkeys(path.parent for path in guest)
    sources = [place, *files.sources, *packages, *guest, files.kernel, initrd]
    made_of = [agent.path, *files.entries]
    return parts, [str(path) for path in sources], [str(path) for path in made_of]


def _guest_program(cache: Path) -> Agent:
    """Return the guest program; where it cannot be built, one that was built before."""
    try:
        return build_agent(cache=cache)
    except VimtoError:
        found = find_agent(cache=cache)
        if found is None:
            raise
        return found


# The guest program, under the name by which the guest has it: guest/internal/modules/modprobe.go.
_MODPROBE = "/usr/lib/vimto/modprobe"
_SYSTEM_PROGRAMS = ("/usr/sbin", "/sbin")


def _programs() -> dict[str, str]:
    """Return links, by their places, to what the guest has because this host has it not.

    A container seldom has kmod. Where it should lie is the end of most paths.
    """
    if which("modprobe") or any(os.path.exists(f"{d}/modprobe") for d in _SYSTEM_PROGRAMS):
        return {}
    return {"usr/sbin/modprobe": _MODPROBE}


def _record(cache: Path, place: Path) -> Path:
    parts = (__version__, str(source_directory()), str(place), *_programs())
    identity = "\0".join(parts).encode("utf-8", "surrogateescape")
    return Path(local_directory(cache), "resolved", f"{digest(identity)}.json")


def _recall(path: Path) -> BootParts | None:
    try:
        value = json.loads(path.read_text("utf-8"))
        if signature(value["sources"]) == value["signature"]:
            with contextlib.suppress(OSError):
                os.utime(path)
            return BootParts(**value["parts"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _remember(path: Path, parts: BootParts, sources: list[str], entries: list[str]) -> None:
    try:
        value = {
            "signature": signature(sources),
            "sources": sources,
            "entries": entries,
            "parts": parts._asdict(),
        }
        with entry.new_file(path) as temporary:
            temporary.write_text(json.dumps(value), "utf-8")
    except (OSError, CacheError):
        pass  # the next run resolves again
