"""The images on this machine: which there are, which is meant, and who is using it.

    images/<64 hex digits>/     an image, named by its manifest's digest: `root/`, `image.json`
    images/tags/<key>.json      what a reference resolved to, and when
    images/work/.<digits>~/     a pull under way

An image appears by one rename and is never changed; locks are those of `cache.entry`. Finding one
imports neither oras nor requests (0.3 s): that is the road of every run but the first.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vimto.cache import entry
from vimto.cache.digest import Table
from vimto.errors import ImageError
from vimto.kernel.reference import ImageReference, LayoutReference, is_digest
from vimto.oci.manifest import host_platform

_FORMAT = 1


class ImageConfig(Protocol):
    """The part of `config.Config` that images need."""

    @property
    def cache_dir(self) -> Path: ...
    @property
    def pull(self) -> str: ...
    @property
    def pull_fresh(self) -> float: ...
    @property
    def image_limit(self) -> int: ...
    @property
    def insecure_registry(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, kw_only=True)
class Image:
    """An unpacked image. `root` is its file system, `reference` what it was first pulled as.

    `size` is in bytes, unpacked; `pulled` and `used` are seconds since the epoch.
    """

    root: Path
    digest: str
    reference: str
    size: int
    pulled: float
    used: float


@dataclass(frozen=True, kw_only=True)
class Tag:
    """What a reference resolved to: `digest` is the image's, `top` that of the first manifest.

    `signature` is the digest of a layout's file, empty for a registry.
    """

    reference: str
    digest: str
    top: str
    checked: float
    signature: str = ""


class Store:
    """The directory `images` below the cache directory."""

    def __init__(self, cache_dir: Path) -> None:
        self.path = cache_dir / "images"

    def entry(self, digest: str) -> Path:
        """Return the directory of the image with `digest`."""
        assert is_digest(digest), digest
        return self.path / digest.removeprefix("sha256:")

    def find(self, digest: str) -> Image | None:
        """Return the image with `digest`, if it is here and nobody else can have altered it."""
        place = self.entry(digest)
        try:
            record = place / "image.json"
            value = json.loads(record.read_bytes())
            found = record.stat()
            if value["format"] != _FORMAT or not (
                entry.is_trusted(found) and entry.is_trusted(place.lstat())
            ):
                return None
            return Image(
                root=place / "root",
                digest=digest,
                reference=str(value["reference"]),
                size=int(value["size"]),
                pulled=float(value["pulled"]),
                used=found.st_mtime,
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def find_meant(self, digest: str) -> Image | None:
        """Return the image that `digest` means: it is its manifest's, or that of an index with it.

        Whatever it was pulled as.
        """
        tops = (
            tag.digest
            for path, tag in self.tags()
            if tag.top == digest and path.stem == self.key(tag.reference)
        )  # of this platform
        found = (self.find(each) for each in (digest, *tops))
        return next((image for image in found if image), None)

    def record(self, made: Path, *, reference: str, size: int) -> None:
        """Write the description of the image that is being made in `made`."""
        value = {"format": _FORMAT, "reference": reference, "size": size, "pulled": time.time()}
        (made / "image.json").write_text(json.dumps(value), "utf-8")

    def key(self, reference: ImageReference | str) -> str:
        """Return the name of a reference's tag and of its lock."""
        text = f"{host_platform()} {reference}"
        return "tag-" + hashlib.sha256(os.fsencode(text)).hexdigest()[:40]

    def read_tag(self, reference: ImageReference) -> Tag | None:
        """Return what `reference` was found to mean, however long ago."""
        return _read_tag(self.path / "tags" / f"{self.key(reference)}.json")

    def write_tag(self, reference: ImageReference, tag: Tag) -> None:
        """Remember what `reference` means."""
        with entry.new_file(self.path / "tags" / f"{self.key(reference)}.json") as temporary:
            temporary.write_text(json.dumps(vars(tag)), "utf-8", "surrogateescape")

    def tags(self) -> Iterator[tuple[Path, Tag]]:
        """Yield all tags with their files."""
        for path in sorted((self.path / "tags").glob("tag-*.json")):
            tag = _read_tag(path)
            if tag is not None:
                yield path, tag

    @contextmanager
    def locked(self, name: str, waiting: str) -> Iterator[None]:
        """Be the only one who pulls what `name` stands for, an entry or a tag, meanwhile."""
        with entry.locked(self.path / name, waiting=waiting):
            yield

    @contextmanager
    def work(self, name: str) -> Iterator[Path]:
        """Make the working directory of `name`, which is gone afterwards; its lock must be held.

        What a killed process left in it is kept, so that its download can go on.
        """
        with entry.workplace(self.path / "work" / f".{name}~") as path:
            yield path


def _read_tag(path: Path) -> Tag | None:
    try:
        tag = Tag(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    return tag if is_digest(tag.digest) else None


def find_image(reference: ImageReference, config: ImageConfig) -> Image | None:
    """Return the image that `reference` means if it is here and needs no asking, else None.

    A tag needs asking with `-pull always`, and once it is older than `pull_fresh`; a digest
    never does. A layout on disk counts as long as its file is the same.
    """
    if config.pull == "always" and not isinstance(reference, LayoutReference):
        return None
    return find_known(reference, config, not_before=time.time() - config.pull_fresh)


def find_known(
    reference: ImageReference, config: ImageConfig, *, not_before: float
) -> Image | None:
    """Return the image of a reference that was resolved after `not_before`."""
    store = Store(config.cache_dir)
    tag = store.read_tag(reference)
    if tag is None:
        digest = "" if isinstance(reference, LayoutReference) else reference.digest
        return store.find_meant(digest) if digest else None
    if isinstance(reference, LayoutReference):
        good = tag.signature == layout_signature(reference, config)
    elif reference.digest or config.pull == "never":
        good = True
    else:  # a time ahead of ours is a clock's that was set back since: not to be believed
        good = not_before <= tag.checked <= time.time() + 1
    return store.find(tag.digest) if good else None


def layout_signature(reference: LayoutReference, config: ImageConfig) -> str:
    """Return the digest of the file that a layout's images depend on, empty without one."""
    path = reference.path / "index.json" if reference.kind == "oci" else reference.path
    try:
        return Table(config.cache_dir).digest(path)
    except OSError:
        return ""


@contextmanager
def hold(image: Image) -> Iterator[Image]:
    """Keep `image` from being removed, and note that it was used.

    Raises `ImageError` if it was removed since it was found.
    """
    place = image.root.parent
    with contextlib.ExitStack() as stack:
        try:
            stack.callback(os.close, entry.hold(place))
            os.utime(place / "image.json")
        except FileNotFoundError:
            raise ImageError(f"the image `{image.reference}` was just removed") from None
        except OSError:  # root's cache: only root removes anything from it
            pass
        yield image


def list_images(cache_dir: Path) -> list[tuple[Image, list[Tag]]]:
    """Return all images with the references that mean them, the latest used first."""
    store = Store(cache_dir)
    tags: dict[str, list[Tag]] = {}
    for _, tag in store.tags():
        tags.setdefault(tag.digest, []).append(tag)
    images = []
    for path in store.path.iterdir() if store.path.is_dir() else ():
        digest = f"sha256:{path.name}"
        image = store.find(digest) if is_digest(digest) else None
        if image is not None:
            images.append((image, tags.get(digest, [])))
    return sorted(images, key=lambda pair: -pair[0].used)


def remove_image(cache_dir: Path, digest: str) -> bool:
    """Remove an image and its tags; return False if it is in use, and leave it then."""
    store = Store(cache_dir)
    if not entry.remove(store.entry(digest)):
        return False
    for path, tag in store.tags():
        if tag.digest == digest:
            path.unlink(missing_ok=True)
    return True


def sweep(cache_dir: Path) -> None:
    """Remove what killed processes left, and tags whose image is gone."""
    store = Store(cache_dir)
    for directory in (store.path, store.path / "tags", store.path / "work"):
        entry.sweep(directory)
    for path, tag in store.tags():
        if not store.entry(tag.digest).exists():
            path.unlink(missing_ok=True)
