"""`.vimto.lock`: which kernels exactly the names in the `.vimto.toml` beside it mean.

    version = 1

    [[kernel]]
    name = "registry.example/kernels:6.12"
    digest = "sha256:…"                             of the manifest, or index, in that repository

    [[kernel]]
    name = "apt:linux-image-amd64"
    architecture = "amd64"                          Debian's name; an entry for each
    packages = [{ name = …, version = …, sha256 = … }, …]      that with the kernel's image first

It comes along with a repository, so it is believed no more than the file: it says which of the
images of a repository, or packages of an archive, is meant, never where to look.
"""

import contextlib
import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from vimto import console
from vimto.config import ARGUMENT, Config
from vimto.errors import ConfigError
from vimto.files import read_file
from vimto.kernel.reference import (
    AptKernel,
    KernelReference,
    PinnedPackage,
    RegistryReference,
    is_digest,
    is_package,
)
from vimto.oci.manifest import host_platform

Lockable = RegistryReference | AptKernel

_VERSION = 1
_LARGEST = 1 << 20
_HEAD = f"""\
# What the kernel in .vimto.toml is, exactly. Written by `vimto kernel lock`, renewed by
# `vimto kernel lock -update`, and meant to be committed.
version = {_VERSION}
"""


class Locked(NamedTuple):
    """One entry: what `name` means, for hosts of `architecture` or, where that is empty, all."""

    name: str
    architecture: str = ""
    digest: str = ""
    packages: tuple[PinnedPackage, ...] = ()


def is_lockable(reference: KernelReference | None) -> bool:
    """Say whether `reference` is a name whose meaning may change, and not on this host alone."""
    if isinstance(reference, RegistryReference):
        return not reference.digest
    return isinstance(reference, AptKernel)


def apply_lock(reference: KernelReference | None, config: Config) -> KernelReference | None:
    """Return what `reference` means by the lock beside the configuration's file.

    It is itself where the lock says nothing of it, or the user goes past the lock, which a line
    then says. Raises `ConfigError` for a lock that cannot be read.
    """
    path = config.lock
    if path is None or not os.path.lexists(path):
        return reference
    past = _past(config)
    if past:
        if past != ARGUMENT:
            _say(f"{past} goes past `{path}`")
        return reference
    if not is_lockable(reference):
        return reference
    assert isinstance(reference, RegistryReference | AptKernel)
    entry = find_locked(read_lock(path), reference)
    if entry is None:
        _say(f"`{reference}` is not in `{path}`; `vimto kernel lock` adds it")
        return reference
    return pin(reference, entry)


def names_in_file(config: Config) -> bool:
    """Say whether the kernel is what the repository's file names."""
    return config.origins["kernel"] == f"{config.file}: kernel"


def _past(config: Config) -> str:
    """Return what leads past the lock, "" for nothing."""
    if not names_in_file(config):
        return config.origins["kernel"] if config.kernel else ARGUMENT
    return "`-pull always`" if config.pull == "always" else ""


@functools.cache  # a command may want the kernel several times
def _say(text: str) -> None:
    console.note(text)


def find_locked(entries: Iterable[Locked], reference: Lockable) -> Locked | None:
    """Return the entry for `reference` on this host, if there is one."""
    for entry in entries:
        if entry.name == str(reference) and entry.architecture in ("", _architecture()):
            return entry
    return None


def _architecture() -> str:
    return host_platform().rpartition("/")[2]


def pin(reference: Lockable, entry: Locked) -> Lockable:
    """Return `reference` as the one thing that `entry` says it means."""
    if isinstance(reference, RegistryReference):
        return reference._replace(digest=entry.digest)
    return reference._replace(pinned=entry.packages)


def read_lock(path: Path) -> list[Locked]:
    """Return what a lock says; raises `ConfigError` for anything that it may not say."""
    import tomllib

    try:
        value = tomllib.loads(read_file(path, _LARGEST).decode("utf-8"))
    except OSError as exc:
        raise ConfigError(f"`{path}` cannot be read: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise _corrupt(path, f"it is not TOML: {exc}") from exc
    except (RecursionError, ValueError) as exc:
        raise _corrupt(path, "it is not what TOML is used for") from exc
    version = value.get("version")
    if isinstance(version, int) and version > _VERSION:
        raise ConfigError(
            f"`{path}` has the format {version}, and this vimto knows {_VERSION}",
            hint="a newer vimto has written it",
        )
    if version != _VERSION:
        raise _corrupt(path, "it names no version of its format")
    tables = value.get("kernel", [])
    if not isinstance(tables, list) or set(value) - {"version", "kernel"}:
        raise _corrupt(path, "it has more than `version` and `[[kernel]]`")
    return [_parse(path, number, table) for number, table in enumerate(tables, 1)]


def _corrupt(path: Path, why: str) -> ConfigError:
    hint = "`git checkout` it, or write it anew with `vimto kernel lock -update`"
    return ConfigError(f"`{path}` cannot be used: {why}", hint=hint)


def _parse(path: Path, number: int, table: Any) -> Locked:
    wrong = _corrupt(path, f"kernel {number} in it is malformed")
    try:
        if set(table) == {"name", "digest"}:
            entry = Locked(str(table["name"]), digest=table["digest"])
            if not is_digest(entry.digest):
                raise wrong
            return entry
        if set(table) != {"name", "architecture", "packages"}:
            raise wrong
        architecture = table["architecture"]
        packages = tuple(
            PinnedPackage(each["name"], each["version"], architecture, each["sha256"])
            for each in table["packages"]
        )
        if not packages or not all(map(is_package, packages)):
            raise wrong
        return Locked(str(table["name"]), architecture=architecture, packages=packages)
    except (TypeError, KeyError, AttributeError) as exc:
        raise wrong from exc


def write_lock(path: Path, entries: Iterable[Locked]) -> bool:
    """Make `path` say `entries`, in order of their names; return False if it does so already."""
    import tempfile  # each run with a lock reads it, few write it

    text = "\n".join([_HEAD, *map(_render, sorted(entries))])
    with contextlib.suppress(OSError):
        if read_file(path, _LARGEST) == text.encode():
            return False
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            try:
                file.write(text)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as exc:
        raise ConfigError(f"`{path}` cannot be written: {exc.strerror}") from exc
    return True


def _render(entry: Locked) -> str:
    lines = ["[[kernel]]", f'name = "{entry.name}"']
    if entry.digest:
        return "\n".join([*lines, f'digest = "{entry.digest}"', ""])
    packages = [
        f'    {{ name = "{each.name}", version = "{each.version}", sha256 = "{each.sha256}" }},'
        for each in entry.packages
    ]
    lines += [f'architecture = "{entry.architecture}"', "packages = [", *packages, "]", ""]
    return "\n".join(lines)
