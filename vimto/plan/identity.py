"""What a kernel's name means at the moment, without fetching what it means.

What a name meant yesterday is no use to a CI whose cache is chosen before anything runs: a tag
moves on, an archive has a newer package. So this asks registries and archives, and notes their
answer, by which a run then finds what has come out of the CI's cache.
"""

import math
import os
from pathlib import Path

from vimto import console
from vimto.cache.digest import Table
from vimto.config import Config
from vimto.errors import ImageError, KernelError
from vimto.kernel.packages import directory_name, find_package
from vimto.kernel.reference import (
    AptKernel,
    DirectoryKernel,
    FileKernel,
    HostKernel,
    KernelReference,
    LayoutReference,
    RegistryReference,
)


def identify_kernel(reference: KernelReference, config: Config) -> str:
    """Return what distinguishes the kernel that `reference` means now from all others.

    That is an image's digest, a package's version, or the digest of a file. Nobody is asked about
    packages that a lock names, nor about what is in the cache and fresh. Where nobody can be
    asked it is what was known before, else the reference, with a warning. Raises `KernelError` for
    a kernel on this host that cannot be read.
    """
    match reference:
        case FileKernel(path=path) | DirectoryKernel(path=path):
            return _digest_of(path, config)
        case HostKernel():
            from vimto.kernel import boot

            running = boot.find_host_kernel()
            if running is None:
                raise boot.no_host_kernel()
            return _digest_of(running, config)
        case LayoutReference():
            from vimto.oci import store

            return store.layout_signature(reference, config)
        case AptKernel():
            return _ask_archive(reference, config)
        case RegistryReference():
            return _ask_registry(reference, config)


def _digest_of(place: Path, config: Config) -> str:
    from vimto.kernel import boot

    image = boot.find_image(place)
    try:
        return Table(config.cache_dir).digest(image) if image else os.fspath(place)
    except OSError as exc:
        raise KernelError(f"the kernel `{image}` cannot be read: {exc.strerror}") from exc


def _ask_archive(reference: AptKernel, config: Config) -> str:
    if reference.pinned:
        image = reference.pinned[0]
        return directory_name(image.name, image.version, image.architecture)
    package = find_package(reference, cache=config.cache_dir)
    if package is None:
        from vimto.kernel import apt

        try:
            package = apt.look_up_package(reference, cache=config.cache_dir)
        except KernelError as exc:
            package = find_package(reference, cache=config.cache_dir, fresh=math.inf)
            if package is None:
                return _unknown(reference, exc)
    return package.directory.name


def _ask_registry(reference: RegistryReference, config: Config) -> str:
    from vimto.oci import store

    image = store.find_image(reference, config)
    if image:
        return image.digest
    if config.pull == "never":
        return str(reference)
    from vimto.oci.pull import look_up_image

    try:
        return look_up_image(reference, config)
    except ImageError as exc:
        tag = store.Store(config.cache_dir).read_tag(reference)
        if tag:
            return tag.digest
        return _unknown(reference, exc)


def _unknown(reference: KernelReference, exc: KernelError | ImageError) -> str:
    console.warn(f"what `{reference}` means now is not known: {exc.message}")
    return str(reference)
