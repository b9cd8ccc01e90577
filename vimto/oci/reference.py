"""The text that names an image, and what it names: a registry's image or a layout on disk.

The grammar is that of the distribution project (`reference.go`), anchored at both ends: the
pattern of oras 0.2.43 is not, and reads `ghcr.io/..//x` as an image of docker.io.
"""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from vimto.errors import UsageError
from vimto.values import whole_number

_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

# docker.io serves its API under another name, and its official images have no user.
_DOCKER_NAMES = ("docker.io", "index.docker.io", "registry-1.docker.io")

LAYOUT_KINDS = ("oci", "oci-archive", "docker-archive")


def want_digest(text: str) -> bool:
    """Say whether `text` is a sha256 digest, and thus safe as part of a path."""
    return _DIGEST.fullmatch(text) is not None


@dataclass(frozen=True, kw_only=True)
class RegistryReference:
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


@dataclass(frozen=True, kw_only=True)
class LayoutReference:
    """An image on disk: `kind` is one of `LAYOUT_KINDS`, `tag` may be empty."""

    kind: str
    path: Path
    tag: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}" + (f":{self.tag}" if self.tag else "")


Reference = RegistryReference | LayoutReference


def parse_reference(text: str, *, configured: str = "") -> Reference:
    """Read an image's name.

    `:tag` stands for `configured` with that tag in place of its own tag and digest. A name
    without a registry is docker.io's, one without a tag means `latest`. Raises `UsageError` for
    everything that is no image's name; a path never becomes a registry.
    """
    if text.startswith(":"):
        return _replace_tag(text, configured)
    kind, colon, rest = text.partition(":")
    if colon and kind in LAYOUT_KINDS and not rest.startswith("//"):
        return _parse_layout(kind, rest)
    if text.startswith((".", "/", "~")):
        raise UsageError(
            f"`{text}` is a path, not the name of an image",
            hint="an image on disk is named `oci:DIR`, `oci-archive:FILE` or `docker-archive:FILE`",
        )
    return _parse_registry(text)


def _replace_tag(text: str, configured: str) -> Reference:
    tag = text[1:]
    if not _TAG.fullmatch(tag):
        raise UsageError(f"`{text}` is no tag", hint="tags have letters, digits, `_`, `.` and `-`")
    if not configured:
        raise UsageError(
            f"`{text}` replaces the tag of the configured image, but none is configured",
            hint='name the image in `.vimto.toml`: kernel = "registry.example/name:tag"',
        )
    base = parse_reference(configured)
    if isinstance(base, LayoutReference):
        return replace(base, tag=tag)
    return replace(base, tag=tag, digest="")


def _parse_layout(kind: str, rest: str) -> LayoutReference:
    if not rest:
        raise UsageError(f"`{kind}:` needs a path")
    # A path may hold colons, a docker archive's tag too (`name:tag`): the longest that exists.
    cuts = [len(rest)] + [i for i in range(len(rest) - 1, 0, -1) if rest[i] == ":"]
    cut = next((i for i in cuts if os.path.exists(_expand(rest[:i]))), cuts[-1])
    return LayoutReference(kind=kind, path=Path(_expand(rest[:cut])), tag=rest[cut + 1 :])


def _expand(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _parse_registry(text: str) -> RegistryReference:
    def refuse(reason: str, hint: str = "") -> UsageError:
        return UsageError(f"`{text}` is no image reference: {reason}", hint=hint)

    if "://" in text:
        raise refuse("it has a scheme", f"write `{text.partition('://')[2]}`")
    name, at, digest = text.partition("@")
    if at and not want_digest(digest):
        raise refuse("after `@` comes `sha256:` and 64 lower-case hexadecimal digits")
    name, tag = _cut_tag(name)
    if tag is not None and not _TAG.fullmatch(tag):
        raise refuse(f"`{tag}` is no tag")
    registry, repository = _cut_registry(name)
    if not _HOST.fullmatch(registry):
        raise refuse(f"`{registry}` is no host")
    port = registry.rpartition(":")[2] if not registry.endswith("]") else ""
    if port and ":" in registry and not 0 < (whole_number(port) or 0) < 65536:
        raise refuse(f"`{port}` is no port")
    if not repository or len(repository) > 255:
        raise refuse("the part after the host must have 1 to 255 characters")
    for part in repository.split("/"):
        if not _COMPONENT.fullmatch(part):
            hint = "names are in lower case" if part != part.lower() else ""
            raise refuse(f"`{part}` cannot be part of a name", hint)
    if registry in _DOCKER_NAMES:
        registry = "docker.io"
        if "/" not in repository:
            repository = f"library/{repository}"
    if tag is None:
        tag = "" if digest else "latest"
    return RegistryReference(registry=registry, repository=repository, tag=tag, digest=digest)


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


def have_loopback(host: str) -> bool:
    """Say whether `host`, with or without a port, is this machine and nothing but it."""
    if host.startswith("["):
        return host[1:].partition("]")[0] == "::1"
    name = host.rpartition(":")[0] if host.count(":") == 1 else host
    if name in ("localhost", "::1") or name.endswith(".localhost"):
        return True
    parts = name.split(".")
    return len(parts) == 4 and parts[0] == "127" and all(part.isdigit() for part in parts)
