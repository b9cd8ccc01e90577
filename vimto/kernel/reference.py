"""What a user may call a kernel; resolving such a reference is other modules' work.

/path/bzImage  ./vmlinux  ~/linux           a file or a directory
host                                        the running kernel
apt:PACKAGE[/SUITE | =VERSION]              the distribution's package
oci:DIR[:TAG]  oci-archive:FILE[:TAG]  docker-archive:FILE[:TAG]
registry/name[:tag][@digest]                an image in a registry
:tag                                        that tag of the configured image
"""

import re
from pathlib import Path
from typing import NamedTuple

from vimto.errors import KernelError

LAYOUT_KINDS = ("oci", "oci-archive", "docker-archive")


class FileKernel(NamedTuple):
    """A kernel image on disk; `path` is absolute."""

    path: Path


class DirectoryKernel(NamedTuple):
    """A tree with a kernel in it, or a build tree; `path` is absolute."""

    path: Path


class HostKernel(NamedTuple):
    """The kernel that runs here, or the newest one installed."""


class AptKernel(NamedTuple):
    """A package of the distribution; at most one of `release` (a suite) and `version` is set."""

    package: str
    release: str = ""
    version: str = ""

    def __str__(self) -> str:
        end = f"/{self.release}" if self.release else f"={self.version}" if self.version else ""
        return f"apt:{self.package}{end}"


class ImageKernel(NamedTuple):
    """An image in a registry; `text` is for `oci.reference` to parse."""

    text: str


class LayoutKernel(NamedTuple):
    """Images in a directory or archive on disk; `tag` may be empty. `path` is absolute."""

    kind: str
    path: Path
    tag: str = ""


KernelReference = FileKernel | DirectoryKernel | HostKernel | AptKernel | ImageKernel | LayoutKernel


def parse_kernel(text: str, *, configured: str = "", directory: Path) -> KernelReference:
    """Return what `text` refers to; relative paths are relative to `directory`.

    `configured` is the reference in the configuration file, whose tag `:tag` replaces. Looks at
    the disk only to tell files from directories. Raises `KernelError` for a path without a file
    and for anything that cannot be a reference.
    """
    if not text:
        raise KernelError("the kernel's name is empty")
    if text == "host":
        return HostKernel()
    if text.startswith("apt:"):
        return _parse_apt(text)
    kind, colon, rest = text.partition(":")
    if colon and kind in LAYOUT_KINDS:
        return _parse_layout(kind, rest, directory)
    if text.startswith(":"):
        return _replace_tag(text, configured)
    if text.startswith(("/", "./", "../", "~")) or text in (".", ".."):
        return _parse_path(text, directory)
    if "/" in text and (directory / text).exists():
        return _parse_path(text, directory)
    if re.fullmatch(r"[\w.:/@+-]+", text, re.ASCII):
        return ImageKernel(text=text)
    raise KernelError(
        f"`{text}` is no kernel reference",
        hint="a file or directory begins with `/` or `./`; see `vimto help kernels`"
        if (directory / text).exists()
        else "it can be a path, an image, `apt:PACKAGE` or `host`",
    )


def _parse_apt(text: str) -> AptKernel:
    # Policy 5.6.1 and 5.6.12; a suite's name may hold a slash in neither.
    found = re.fullmatch(
        r"apt:([a-z0-9][a-z0-9+.-]+)(?:/([A-Za-z0-9.+-]+)|=([A-Za-z0-9.+:~-]+))?", text, re.ASCII
    )
    if not found:
        raise KernelError(
            f"`{text}` is no package",
            hint="`apt:PACKAGE`, `apt:PACKAGE/SUITE` or `apt:PACKAGE=VERSION`, as for apt-get",
        )
    return AptKernel(package=found[1], release=found[2] or "", version=found[3] or "")


def _parse_path(text: str, directory: Path) -> FileKernel | DirectoryKernel:
    path = _absolute(text, directory)
    if path.is_dir():
        return DirectoryKernel(path=path)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise KernelError(
            f"the kernel `{text}` does not exist",
            hint="" if text.startswith("/") else f"it would be `{path}`",
        ) from exc
    except OSError as exc:  # no permission, or a loop of links
        raise KernelError(f"the kernel `{path}` cannot be read: {exc.strerror}") from exc
    return FileKernel(path=path)


def _absolute(text: str, directory: Path) -> Path:
    try:
        return directory.absolute() / Path(text).expanduser()
    except RuntimeError as exc:  # no such user
        raise KernelError(f"the kernel `{text}` does not exist: {exc}") from exc


def _parse_layout(kind: str, rest: str, directory: Path) -> LayoutKernel:
    # A path may hold colons, a docker archive's tag too (`name:tag`): the longest that exists.
    cuts = [len(rest), *(i for i in range(len(rest) - 1, 0, -1) if rest[i] == ":")]
    for cut in cuts if rest else ():
        path = _absolute(rest[:cut], directory)
        if path.exists():
            return LayoutKernel(kind=kind, path=path, tag=rest[cut + 1 :])
    shortest = _absolute(rest[: cuts[-1]], directory)
    raise KernelError(f"`{kind}:{rest}` does not exist", hint=f"it would be `{shortest}`")


def _replace_tag(text: str, configured: str) -> ImageKernel:
    if not re.fullmatch(r":\w[\w.-]{0,127}(@sha256:[0-9a-f]{64})?", text, re.ASCII):
        raise KernelError(f"`{text}` is no tag")
    if not configured:
        raise KernelError(
            f"`{text}` replaces the tag of the configured kernel, and none is configured",
            hint='name one in `.vimto.toml`, as in `kernel = "registry.example/kernels:stable"`',
        )
    other = configured.startswith(("apt:", "/", "./", "../", "~", ":", *LAYOUT_KINDS))
    if other or configured == "host":
        raise KernelError(
            f"`{text}` replaces the tag of an image, and the configured kernel is `{configured}`"
        )
    name = configured.partition("@")[0]
    # A colon before the last slash is a port's.
    head, slash, last = name.rpartition("/")
    return ImageKernel(text=f"{head}{slash}{last.partition(':')[0]}{text}")
