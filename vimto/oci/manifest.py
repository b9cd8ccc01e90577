"""Manifests and indexes, of the OCI image specification 1.1 and of Docker's schema 2.

Everything here comes from a stranger: nothing is used before its type was looked at.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from typing import Any

from vimto.errors import ImageError
from vimto.kernel.reference import is_digest

# The limit that the distribution specification asks registries to accept.
MANIFEST_LIMIT = 4 << 20
# Docker builds stop at 127 layers.
MAX_LAYERS = 512

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
ACCEPT = (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST)

_CONFIGS = (OCI_CONFIG, "application/vnd.docker.container.image.v1+json")
_LAYERS = (
    OCI_LAYER,
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.docker.container.image.rootfs.diff.tar",
)
_COMPRESSIONS = ("", "+gzip", "+zstd", ".gzip", ".zstd")


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """A blob: `size` in bytes, `digest` checked to be `sha256:` and 64 hexadecimal digits."""

    media_type: str
    digest: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One image for one platform; `layers` lowest first."""

    digest: str
    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def size(self) -> int:
        """Bytes to download: configuration and compressed layers."""
        return self.config.size + sum(layer.size for layer in self.layers)


@dataclass(frozen=True, kw_only=True)
class Index:
    """Images for several platforms, each named `os/architecture[/variant]`."""

    digest: str
    entries: tuple[tuple[str, Descriptor], ...]


def digest_of(data: bytes) -> str:
    """Return the digest of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def host_platform() -> str:
    """Return the platform of this machine, which is the guest's: `linux/amd64`."""
    machine = os.uname().machine
    return "linux/" + {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """Read a JSON object that a stranger wrote; `what` names it in the error."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as exc:
        start = data[:60].decode("utf-8", "replace").split("\n")[0]
        raise ImageError(f"{what} is not JSON; it begins with `{start}`") from exc
    if not isinstance(value, dict):
        raise ImageError(f"{what} is not a JSON object")
    return value


def parse_manifest(data: bytes, what: str) -> Manifest | Index:
    """Read a manifest or an index; `what` names it in the error."""
    value = parse_json(data, what)
    kind = value.get("mediaType", "")
    if value.get("schemaVersion") != 2:
        if "fsLayers" in value:
            raise ImageError(f"{what} has Docker's schema 1, which vimto does not read")
        raise ImageError(f"{what} is not an image manifest", lines=_registry_errors(value))
    if kind in (OCI_INDEX, DOCKER_LIST) or (not kind and "manifests" in value):
        return _parse_index(data, value, what)
    if kind not in ("", OCI_MANIFEST, DOCKER_MANIFEST):
        raise ImageError(f"{what} has the unknown type `{kind}`")
    layers = _list(value.get("layers"), what)
    if len(layers) > MAX_LAYERS:
        raise ImageError(f"{what} has {len(layers)} layers; the limit is {MAX_LAYERS}")
    manifest = Manifest(
        digest=digest_of(data),
        config=_parse_descriptor(value.get("config"), what),
        layers=tuple(_parse_descriptor(layer, what) for layer in layers),
    )
    for layer in manifest.layers:
        _check_layer(layer, what)
    return manifest


def _parse_index(data: bytes, value: dict[str, Any], what: str) -> Index:
    entries = []
    for item in _list(value.get("manifests"), what):
        descriptor = _parse_descriptor(item, what)
        platform = item.get("platform") or {}
        if not isinstance(platform, dict):
            raise ImageError(f"{what} has a malformed platform")
        words = (platform.get("os"), platform.get("architecture"), platform.get("variant"))
        name = "/".join(str(word) for word in words if word)
        entries.append((name, descriptor))
    return Index(digest=digest_of(data), entries=tuple(entries))


def choose_platform(index: Index, platform: str, what: str) -> Descriptor:
    """Return the entry of `index` for `platform`, with or without a variant.

    An entry without a platform is taken when it is the only one. Raises `ImageError` that
    lists the platforms there are; attestations (`unknown/unknown`) are not images.
    """
    images = [entry for entry in index.entries if entry[0] != "unknown/unknown"]
    for name, descriptor in images:
        if is_platform(name, platform):
            return descriptor
    if len(images) == 1 and not images[0][0]:
        return images[0][1]
    have = ", ".join(sorted({name or "an unnamed one" for name, _ in images})) or "none at all"
    raise ImageError(f"{what} has no image for {platform}", hint=f"it has {have}")


def is_platform(name: str, platform: str) -> bool:
    """Say whether an index's entry `name` is for `platform`, with or without a variant."""
    return name == platform or name.startswith(f"{platform}/")


def _check_layer(layer: Descriptor, what: str) -> None:
    for name in _LAYERS:
        if layer.media_type.removeprefix(name) in _COMPRESSIONS:
            return
    raise ImageError(
        f"{what} is not an image of files: it has a layer of type `{layer.media_type}`",
    )


def check_config(config: Descriptor, data: bytes, platform: str, what: str) -> None:
    """Raise `ImageError` unless the image's configuration fits `platform`."""
    found = config_platform(config, data, what)
    if found and found != platform:
        raise ImageError(f"{what} is for {found}, not for {platform}")


def config_platform(config: Descriptor, data: bytes, what: str) -> str:
    """Return the platform that an image's configuration names, "" without one.

    One that is not an image's (an artefact's) has none: kernels are published as artefacts too.
    """
    if config.media_type not in _CONFIGS:
        return ""
    value = parse_json(data, f"the configuration of {what}")
    system, architecture = value.get("os") or "linux", value.get("architecture")
    return f"{system}/{architecture}" if architecture else ""


def _parse_descriptor(value: Any, what: str) -> Descriptor:
    if not isinstance(value, dict):
        raise ImageError(f"{what} has a malformed descriptor")
    kind, digest, size = value.get("mediaType", ""), value.get("digest"), value.get("size")
    if not isinstance(digest, str) or not is_digest(digest):
        raise ImageError(f"{what} has the malformed digest `{str(digest)[:80]}`")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ImageError(f"{what} has the malformed size `{str(size)[:80]}`")
    return Descriptor(media_type=str(kind), digest=digest, size=size)


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ImageError(f"{what} is not an image manifest")
    return value


def _registry_errors(value: dict[str, Any]) -> tuple[str, ...]:
    errors = value.get("errors")
    if not isinstance(errors, list):
        return ()
    return tuple(str(e.get("message", ""))[:200] for e in errors[:3] if isinstance(e, dict))
