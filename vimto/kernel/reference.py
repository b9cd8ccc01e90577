"""The one grammar of what a kernel may be called; finding what is meant is other modules' work.

/path/bzImage  ./vmlinux  ~/linux           a file or a directory
host                                        the running kernel
apt:PACKAGE[/SUITE | =VERSION]              the distribution's package
oci:DIR[:TAG]  oci-archive:FILE[:TAG]  docker-archive:FILE[:TAG]
registry/name[:tag][@digest]                an image in a registry
:tag[@digest]                               that tag of the configured image

An image's name follows the distribution project (`reference.go`), anchored at both ends: the
pattern of oras 0.2.43 is not, and reads `ghcr.io/..//x` as an image of docker.io.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vimto.errors import KernelError
from vimto.values import whole_number

LAYOUT_KINDS = ("oci", "oci-archive", "docker-archive")


class FileKernel(NamedTuple):
    """A kernel image on disk; `path` is absolute."""

    path: Path


class DirectoryKernel(NamedTuple):
    """A tree with a kernel in it, or a build tree; `path` is absolute."""

    path: Path


class HostKernel(NamedTuple):
    """The kernel that runs here, or the newest one installed."""


class PinnedPackage(NamedTuple):
    """A package as an archive's index has it: its `sha256` is that of the `.deb`."""

    name: str
    version: str
    architecture: str
    sha256: str


class AptKernel(NamedTuple):
    """A package of the distribution; at most one of `release` (a suite) and `version` is set.

    `pinned` are the packages that this means and no other, that with the kernel's image first; or
    it means what the archive has.
    """

    package: str
    release: str = ""
    version: str = ""
    pinned: tuple[PinnedPackage, ...] = ()

    def __str__(self) -> str:
        if self.pinned:
            return f"apt:{self.pinned[0].name}={self.pinned[0].version}"
        end = f"/{self.release}" if self.release else f"={self.version}" if self.version else ""
        return f"apt:{self.package}{end}"


class RegistryReference(NamedTuple):
    """An image in a registry; a digest, where there is one, wins over the tag.

    `registry` is the host with its port as the user knows it, `repository` the path below it.
    """

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"

    @property
    def api_host(self) -> str:
        """The host, with its port, that answers the registry's API."""
        return "registry-1.docker.io" if self.registry == "docker.io" else self.registry

    @property
    def target(self) -> str:
        """What a manifest is asked for by: the digest, else the tag."""
        return self.digest or self.tag


class LayoutReference(NamedTuple):
    """An image on disk: `kind` is one of `LAYOUT_KINDS`, `path` absolute, `tag` may be empty."""

    kind: str
    path: Path
    tag: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}" + (f":{self.tag}" if self.tag else "")


ImageReference = RegistryReference | LayoutReference
KernelReference = FileKernel | DirectoryKernel | HostKernel | AptKernel | ImageReference

# Patterns are compiled when first used: most runs have no image, or one.
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"sha256:[0-9a-f]{64}"
# Policy 5.6.1 and 5.6.12; a suite's name may hold a slash in neither.
_PACKAGE_NAME = r"[a-z0-9][a-z0-9+.-]+"
_VERSION = r"[A-Za-z0-9.+:~-]+"
_PACKAGE = rf"apt:({_PACKAGE_NAME})(?:/([A-Za-z0-9.+-]+)|=({_VERSION}))?"
_PATH_BEGINS = ("/", "./", "../", "~")
# docker.io serves its API under another name, and its official images have no user.
_DOCKER_NAMES = ("docker.io", "index.docker.io", "registry-1.docker.io")


def is_digest(text: str) -> bool:
    """Say whether `text` is a sha256 digest, and thus safe as part of a path."""
    return re.fullmatch(_DIGEST, text) is not None


def is_package(package: PinnedPackage) -> bool:
    """Say whether each field may be what it is called, and thus is safe as part of a path."""
    forms = (_PACKAGE_NAME, _VERSION, "[a-z0-9-]+", "[0-9a-f]{64}")
    pairs = zip(forms, package, strict=True)
    return all(re.fullmatch(form, text, re.ASCII) is not None for form, text in pairs)


def is_tag(text: str) -> bool:
    """Say whether `text` may be the tag of an image."""
    return re.fullmatch(_TAG, text) is not None


def parse_kernel(
    text: str, *, configured: str = "", directories: Sequence[Path]
) -> KernelReference:
    """Return what `text` refers to.

    A relative path is that in the first of `directories` in which it exists. `configured` is the
    reference whose tag `:tag` replaces, with its digest. A name without a registry is docker.io's,
    one without a tag means `latest`. Looks at the disk only for paths. Raises `KernelError` for a
    path without a file and for anything that cannot be a reference.
    """
    if not text:
        raise KernelError("the kernel's name is empty")
    if text == "host":
        return HostKernel()
    if text.startswith("apt:"):
        return _parse_apt(text)
    if text.startswith(_PATH_BEGINS) or text in (".", ".."):
        return _parse_path(text, directories)
    if "/" in text and any(os.path.lexists(directory / text) for directory in directories):
        return _parse_path(text, directories)
    image = parse_image(text, configured=configured, directories=directories)
    if isinstance(image, LayoutReference) and not os.path.exists(image.path):
        place = os.fspath(image.path)
        hint = "" if place in text else f"it would be `{place}`"
        raise KernelError(f"`{text}` does not exist", hint=hint)
    return image


def parse_image(
    text: str, *, configured: str = "", directories: Sequence[Path] = ()
) -> ImageReference:
    """Return what an image's name refers to, as `parse_kernel` does.

    A path never becomes a registry; one in a layout's name need not exist.
    """
    if text.startswith(":"):
        return _replace_tag(text, configured, directories)
    kind, colon, rest = text.partition(":")
    if colon and kind in LAYOUT_KINDS and not rest.startswith("//"):
        return _parse_layout(kind, rest, directories)
    if text.startswith((".", *_PATH_BEGINS)):
        raise _refusal(
            text,
            "it is a path",
            "an image on disk is named `oci:DIR`, `oci-archive:FILE` or `docker-archive:FILE`",
        )
    return _parse_registry(text)


def _refusal(text: str, reason: str, hint: str = "") -> KernelError:
    default = "a path begins with `/` or `./`; `vimto help kernels` shows how a kernel is named"
    return KernelError(f"`{text}` is not an image's name: {reason}", hint=hint or default)


def _parse_apt(text: str) -> AptKernel:
    found = re.fullmatch(_PACKAGE, text, re.ASCII)
    if not found:
        raise KernelError(
            f"`{text}` is not a package's name",
            hint="`apt:PACKAGE`, `apt:PACKAGE/SUITE` or `apt:PACKAGE=VERSION`, as for apt-get",
        )
    return AptKernel(package=found[1], release=found[2] or "", version=found[3] or "")


def _parse_path(text: str, directories: Sequence[Path]) -> FileKernel | DirectoryKernel:
    paths = [_absolute(text, directory) for directory in directories]
    path = next((path for path in paths if os.path.lexists(path)), paths[0])
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise KernelError(
            f"the kernel `{text}` does not exist",
            hint="" if text.startswith("/") else f"it would be `{path}`",
        ) from exc
    except OSError as exc:  # no permission, or a loop of links
        raise KernelError(f"the kernel `{path}` cannot be read: {exc.strerror}") from exc
    return DirectoryKernel(path) if path.is_dir() else FileKernel(path)


def _absolute(text: str, directory: Path) -> Path:
    try:
        return directory.absolute() / Path(text).expanduser()
    except RuntimeError as exc:  # pathlib's own words are "Could not determine home directory."
        user = text.partition("/")[0]
        raise KernelError(
            f"the kernel `{text}` does not exist",
            hint=f"`{user}` is not the home directory of a user of this host; `./{text}` is a file",
        ) from exc


def _normal(path: Path) -> Path:
    """Return `path` without `..`: one layout has one name."""
    return Path(os.path.normpath(path))


def _parse_layout(kind: str, rest: str, directories: Sequence[Path]) -> LayoutReference:
    if not rest.partition(":")[0]:
        raise _refusal(f"{kind}:{rest}", f"`{kind}:` needs a path")
    # A path may hold colons, a docker archive's tag too (`name:tag`): the longest that exists.
    cuts = [len(rest), *(i for i in range(len(rest) - 1, 0, -1) if rest[i] == ":")]
    candidates = [
        LayoutReference(kind, _normal(_absolute(rest[:cut], directory)), rest[cut + 1 :])
        for directory in directories or (Path.cwd(),)
        for cut in cuts
    ]
    return next((one for one in candidates if os.path.exists(one.path)), candidates[len(cuts) - 1])


def _replace_tag(text: str, configured: str, directories: Sequence[Path]) -> ImageReference:
    tag, at, digest = text[1:].partition("@")
    if not is_tag(tag) or (at and not is_digest(digest)):
        raise KernelError(
            f"`{text}` is not a tag", hint="tags have letters, digits, `_`, `.` and `-`"
        )
    if not configured:
        raise KernelError(
            f"`{text}` replaces the tag of the configured kernel, and none is configured",
            hint='name one in `.vimto.toml`, as in `kernel = "registry.example/kernels:stable"`',
        )
    if configured == "host" or configured.startswith(("apt:", ":", *_PATH_BEGINS)):
        raise KernelError(
            f"`{text}` replaces the tag of an image, and the configured kernel is `{configured}`"
        )
    match parse_image(configured, directories=directories):
        case RegistryReference() as image:
            return image._replace(tag=tag, digest=digest)
        case LayoutReference() as layout:
            if digest:
                raise KernelError(
                    f"`{text}` has a digest, and the configured kernel `{configured}` is an image"
                    " on disk, which has a tag alone"
                )
            name, colon, _ = layout.tag.rpartition(":")  # that of one of an archive's images
            return layout._replace(tag=f"{name}{colon}{tag}")


def _parse_registry(text: str) -> RegistryReference:
    if "://" in text:
        raise _refusal(text, "it has a scheme", f"write `{text.partition('://')[2]}`")
    name, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise _refusal(text, "after `@` comes `sha256:` and 64 lower-case hexadecimal digits")
    name, tag = _cut_tag(name)
    if tag is not None and not is_tag(tag):
        raise _refusal(text, f"`{tag}` is not a tag")
    registry, repository = _cut_registry(name)
    _check_host(text, registry)
    if not repository or len(repository) > 255:
        raise _refusal(text, "the part after the host must have 1 to 255 characters")
    for part in repository.split("/"):
        if not re.fullmatch(_COMPONENT, part):
            hint = "names are in lower case" if part != part.lower() else ""
            raise _refusal(text, f"`{part}` cannot be part of a name", hint)
    if registry in _DOCKER_NAMES:
        registry = "docker.io"
        if "/" not in repository:
            repository = f"library/{repository}"
    if tag is None:
        tag = "" if digest else "latest"
    return RegistryReference(registry, repository, tag, digest)


def _check_host(text: str, registry: str) -> None:
    if not re.fullmatch(_HOST, registry):
        raise _refusal(text, f"`{registry}` is not a valid host")
    port = registry.rpartition(":")[2] if not registry.endswith("]") else ""
    if port and ":" in registry and not 0 < (whole_number(port) or 0) < 65536:
        raise _refusal(text, f"`{port}` is not a valid port")


def _cut_tag(name: str) -> tuple[str, str | None]:
    """Split off what follows the last colon, unless that colon belongs to a host's port."""
    head, colon, tail = name.rpartition(":")
    if colon and "/" not in tail:
        return head, tail
    return name, None


def _cut_registry(name: str) -> tuple[str, str]:
    """Split off the host, which differs from a user's name by a dot, a colon or `localhost`."""
    first, slash, rest = name.partition("/")
    if slash and (first == "localhost" or any(mark in first for mark in ".:[")):
        return first, rest
    return "docker.io", name
