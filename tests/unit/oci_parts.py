"""Small images for the tests of `vimto.oci`: layers, layouts and archives made in memory."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vimto.kernel.reference import parse_image
from vimto.oci import pull, store
from vimto.oci.manifest import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, host_platform

REF_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """What `vimto.oci.store` wants of the configuration."""

    cache_dir: Path
    pull: str = "missing"
    pull_fresh: float = 86400.0
    image_limit: int = 16 << 30
    insecure_registry: tuple[str, ...] = ()


def member(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """Return a member for `make_tar`; a name with a slash at its end is a directory's."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    if name.endswith("/"):
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def symlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.SYMTYPE, linkname=target)


def hardlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.LNKTYPE, linkname=target)


def make_tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """Return a tar archive, as the standard library writes it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def descriptor(kind: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest(data), "size": len(data)}


@dataclass(frozen=True, kw_only=True)
class Made:
    """An image in memory: its manifest, and all blobs (the manifest too) by digest."""

    manifest: bytes
    blobs: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        return digest(self.manifest)


def make_image(*layers: bytes, platform: str = "", compress: bool = True) -> Made:
    """Return an image of tar archives, gzipped if `compress`."""
    system, architecture = (platform or host_platform()).split("/")
    config = json.dumps(
        {
            "os": system,
            "architecture": architecture,
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        }
    ).encode()
    kind = OCI_LAYER + ("+gzip" if compress else "")
    packed = [gzip.compress(layer, 1, mtime=0) if compress else layer for layer in layers]
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI_CONFIG, config),
            "layers": [descriptor(kind, data) for data in packed],
        }
    ).encode()
    return Made(manifest=manifest, blobs={digest(b): b for b in [manifest, config, *packed]})


def make_index(images: Mapping[str, Made], kind: str = OCI_INDEX) -> Made:
    """Return an index of images by platform."""
    entries = []
    blobs: dict[str, bytes] = {}
    for platform, image in images.items():
        words = platform.split("/")
        entry = descriptor(OCI_MANIFEST, image.manifest)
        entry["platform"] = dict(zip(("os", "architecture", "variant"), words, strict=False))
        entries.append(entry)
        blobs |= image.blobs
    data = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode()
    return Made(manifest=data, blobs=blobs | {digest(data): data})


def write_layout(path: Path, images: Mapping[str, Made]) -> Path:
    """Write an OCI layout of images by tag; an empty tag is none."""
    blobs = path / "blobs/sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    entries = []
    for tag, image in images.items():
        for name, data in image.blobs.items():
            (blobs / name.removeprefix("sha256:")).write_bytes(data)
        entry = descriptor(OCI_MANIFEST, image.manifest)
        if tag:
            entry["annotations"] = {REF_NAME: tag}
        entries.append(entry)
    (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    return path


def archive_of(directory: Path) -> bytes:
    """Return a directory's files as a tar archive."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return make_tar(*(member(str(p.relative_to(directory)), p.read_bytes()) for p in files))


def tree(root: Path) -> dict[str, str]:
    """Return what is below `root`: the text of files, `-> target` of links, `/` of directories."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_dir():
            found[name] = "/"
        else:
            found[name] = path.read_text("latin-1")
    return found


def find_image(name: str, settings: ImageConfig) -> store.Image | None:
    return store.find_image(parse_image(name), settings)


def fetch_image(name: str, settings: ImageConfig) -> store.Image:
    return pull.fetch_image(parse_image(name), settings)
