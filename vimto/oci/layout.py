"""Images on disk: an OCI layout (a directory or a tar archive of one), or `docker save`'s archive.

Sources: OCI image specification 1.1, "Image Layout"; the Docker archive has no specification,
its `manifest.json` is what `docker save`, podman and skopeo write.

Both classes have the two methods of `registry.Registry` that a pull needs: `manifest` and `blob`.
"""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from vimto.errors import ImageError, KernelError
from vimto.files import open_file
from vimto.kernel.reference import LayoutReference, is_digest
from vimto.kernel.tree import find_inside
from vimto.oci.manifest import MANIFEST_LIMIT, Descriptor, digest_of, parse_json
from vimto.oci.tar import Kind, TarReader
from vimto.oci.unpack import LayerStream

_PIECE = 1 << 20
_LARGEST = 1 << 40  # `-image-limit` is the limit; no image needs more
_REF_NAME = "org.opencontainers.image.ref.name"
_DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
_MAX_MEMBERS = 100_000
_MAX_LINKS = 40  # as Linux's own limit, path_resolution(7)


class _Place(NamedTuple):
    """Where bytes lie: in the file `path`, from `offset` on."""

    path: Path
    offset: int
    size: int


class Directory:
    """The files of an OCI layout in a directory, which somebody else wrote.

    Links in it are followed inside it: what lies elsewhere on the host is not part of an image.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def find(self, name: str) -> _Place | None:
        """Return where the file `name` lies; only regular files count.

        Raises `ImageError` for a link to what is not in the layout.
        """
        try:
            path = find_inside(self._path, name)
            found = path.lstat() if path else None
        except KernelError as exc:  # a loop
            raise ImageError(exc.message) from exc
        except OSError:
            path = found = None
        if path is None or found is None:
            self._refuse_link(name)
            return None
        return _Place(path, 0, found.st_size) if stat.S_ISREG(found.st_mode) else None

    def _refuse_link(self, name: str) -> None:
        place = self._path / name
        for path in (place, *place.parents):
            if path == self._path:
                return
            if path.is_symlink():
                raise ImageError(
                    f"`{path}` is a link to `{os.readlink(path)}`, which is not in its layout",
                    hint="a copy with the files themselves, `cp -rL`, can be used",
                )


class Archive:
    """The members of a tar archive; a compressed one is unpacked into `work` first."""

    def __init__(self, path: Path, work: Path, limit: int) -> None:
        plain = _decompress(path, work, limit)
        self._members: dict[str, _Place | str] = {}
        with open_file(plain, _LARGEST) as file:
            reader = TarReader(_Bounded(file), f"`{path}`")
            for entry in reader:
                name = os.path.normpath(entry.name)
                if entry.kind is Kind.FILE and entry.parts is None:
                    self._members[name] = _Place(plain, reader.position, entry.size)
                elif entry.kind is Kind.SYMLINK:  # docker save's for a layer that occurs twice
                    self._members[name] = os.path.normpath(
                        os.path.join(os.path.dirname(name), entry.target)
                    )
                elif entry.kind is Kind.HARDLINK:
                    self._members[name] = os.path.normpath(entry.target)
                if len(self._members) > _MAX_MEMBERS:
                    raise ImageError(f"`{path}` has more than {_MAX_MEMBERS} members")

    def find(self, name: str) -> _Place | None:
        """Return where the member `name` lies; links lead to other members only."""
        found = self._members.get(os.path.normpath(name))
        for _ in range(_MAX_LINKS):
            if not isinstance(found, str):
                return found
            found = self._members.get(found)
        return None


class _Bounded:
    """A file that skips by seeking: members are passed over, not read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        return self._file.read(size)

    def skip(self, size: int) -> int:
        here = self._file.tell()
        end = os.fstat(self._file.fileno()).st_size
        self._file.seek(min(here + size, end))
        return self._file.tell() - here


def _decompress(path: Path, work: Path, limit: int) -> Path:
    try:
        with open_file(path, _LARGEST) as file:
            head = file.read(4)
    except FileNotFoundError:
        raise ImageError(f"there is no `{path}`") from None
    except OSError as exc:
        raise ImageError(f"`{path}` cannot be read: {exc.strerror}") from exc
    if not head.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")):
        return path
    total = 0

    def count(size: int) -> None:
        nonlocal total
        total += size
        if total > limit:
            raise ImageError(f"`{path}` unpacks to more than {limit >> 20} MiB")

    stream = LayerStream(path, f"`{path}`", meter=count)
    try:
        with open(work / "archive.tar", "wb") as out:
            while data := stream.read(_PIECE):
                out.write(data)
    finally:
        stream.close()
    return work / "archive.tar"


def open_layout(reference: LayoutReference, work: Path, limit: int) -> "OCILayout | DockerArchive":
    """Open the layout that `reference` names; `work` may be used until the images are read.

    Raises `ImageError` for what is not there, or is not what its kind says.
    """
    path = reference.path
    try:
        if reference.kind == "oci":
            if not path.is_dir():
                raise ImageError(f"`{path}` is not a directory with an OCI layout")
            return OCILayout(reference, Directory(path))
        archive = Archive(path, work, limit)
    except OSError as exc:
        raise ImageError(f"`{path}` cannot be read: {exc.strerror}") from exc
    if reference.kind == "oci-archive":
        return OCILayout(reference, archive)
    return DockerArchive(reference, archive, work)


class OCILayout:
    """An OCI layout: `index.json` and `blobs/sha256/`."""

    def __init__(self, reference: LayoutReference, files: Directory | Archive) -> None:
        self._reference = reference
        self._files = files

    def manifest(self, target: str = "") -> bytes:
        """Return the manifest or index with the digest `target`, by default the reference's."""
        target = target or self._choose()
        place = self._files.find(_blob_name(target))
        what = f"the manifest {target[:19]}… of `{self._reference}`"
        data = _read(place, what)
        if digest_of(data) != target:
            raise ImageError(f"{what} is damaged")
        return data

    def blob(self, blob: Descriptor, into: Path, progress: Callable[[int], None]) -> Path:
        """Return a file with the blob, verified: its own, or `into` from an archive."""
        place = self._files.find(_blob_name(blob.digest))
        what = f"the blob {blob.digest[:19]}… of `{self._reference}`"
        if place is None:
            raise ImageError(f"{what} is missing")
        if place.size != blob.size:
            raise ImageError(f"{what} has {place.size} bytes instead of {blob.size}")
        copy = into if isinstance(self._files, Archive) else None
        if _copy(place, copy, progress, what) != blob.digest:
            raise ImageError(f"{what} is damaged")
        return copy or place.path

    def _choose(self) -> str:
        what = f"`{self._reference}`"
        place = self._files.find("index.json")
        if place is None:
            raise ImageError(f"{what} is not an OCI layout: it has no `index.json`")
        index = parse_json(_read(place, what), f"the index of {what}")
        names: dict[str, list[str]] = {}
        items = index.get("manifests")
        for item in items if isinstance(items, list) else []:
            if not isinstance(item, dict) or not is_digest(str(item.get("digest"))):
                raise ImageError(f"the index of {what} is malformed")
            notes = item.get("annotations")
            name = str(notes.get(_REF_NAME, "")) if isinstance(notes, dict) else ""
            names.setdefault(name, []).append(item["digest"])
        return _choose_one(names, self._reference)


class DockerArchive:
    """What `docker save` writes, shown as one image manifest whose layers are plain tar files."""

    def __init__(self, reference: LayoutReference, files: Archive, work: Path) -> None:
        self._reference = reference
        self._files = files
        self._work = work
        self._places: dict[str, str] = {}

    def manifest(self, target: str = "") -> bytes:
        """Return a manifest that names each layer by the digest of its content."""
        what = f"`{self._reference}`"
        image = self._choose(what)
        name, layers = image.get("Config"), image.get("Layers")
        if not isinstance(name, str) or not isinstance(layers, list):
            raise ImageError(f"the manifest of {what} is malformed")
        data = _read(self._files.find(name), f"the configuration of {what}")
        config = {"mediaType": _DOCKER_CONFIG, "digest": digest_of(data), "size": len(data)}
        self._places = {config["digest"]: name}  # type: ignore[dict-item]
        rootfs = parse_json(data, f"the configuration of {what}").get("rootfs")
        digests = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
        if not isinstance(digests, list) or len(digests) != len(layers):
            raise ImageError(f"the configuration of {what} does not fit its {len(layers)} layers")
        entries = list(self._layers(layers, digests, what))
        return json.dumps({"schemaVersion": 2, "config": config, "layers": entries}).encode()

    def _layers(self, layers: list[Any], digests: list[Any], what: str) -> Iterator[dict[str, Any]]:
        for layer, digest in zip(layers, digests, strict=True):
            place = self._files.find(str(layer))
            if place is None:
                raise ImageError(f"the layer `{str(layer)[:100]}` of {what} is missing")
            self._places[str(digest)] = str(layer)
            yield {"mediaType": _DOCKER_LAYER, "digest": digest, "size": place.size}

    def blob(self, blob: Descriptor, into: Path, progress: Callable[[int], None]) -> Path:
        """Return `into` with the blob, verified; a compressed layer by its content."""
        what = f"the blob {blob.digest[:19]}… of `{self._reference}`"
        place = self._files.find(self._places[blob.digest])
        if place is None:
            raise ImageError(f"{what} is missing")
        if _copy(place, into, progress, what) == blob.digest:
            return into
        stream = LayerStream(into, what, meter=lambda _: None, want_digest=True)
        try:
            if stream.digest() != blob.digest:
                raise ImageError(f"{what} is damaged")
        finally:
            stream.close()
        return into

    def _choose(self, what: str) -> dict[str, Any]:
        place = self._files.find("manifest.json")
        if place is None:
            raise ImageError(f"{what} is not a Docker archive: it has no `manifest.json`")
        try:
            images = json.loads(_read(place, what))
        except (ValueError, RecursionError) as exc:
            raise ImageError(f"the manifest of {what} is not JSON") from exc
        if not isinstance(images, list) or not all(isinstance(item, dict) for item in images):
            raise ImageError(f"the manifest of {what} is malformed")
        names: dict[str, list[str]] = {}
        for number, image in enumerate(images):
            for tag in image.get("RepoTags") or [""]:
                # skopeo writes `docker.io/library/name:1` where docker writes `name:1`.
                short = str(tag).removeprefix("docker.io/").removeprefix("library/")
                for name in {str(tag), short, short.rpartition(":")[2]}:
                    names.setdefault(name, []).append(str(number))
        if not self._reference.tag and len(images) == 1:
            return dict(images[0])
        return dict(images[int(_choose_one(names, self._reference))])


def _choose_one(names: dict[str, list[str]], reference: LayoutReference) -> str:
    """Return the only thing that the reference's tag, or no tag, can mean."""
    everything = {item for items in names.values() for item in items}
    found = names.get(reference.tag, []) if reference.tag else sorted(everything)
    if len(set(found)) == 1:
        return found[0]
    have = ", ".join(sorted(f"`{name}`" for name in names if name)) or "none that has a tag"
    hint = f"it has {have}"
    if not found:
        raise ImageError(f"`{reference}` has no such image", hint=hint)
    raise ImageError(f"`{reference}` has {len(set(found))} images; name one", hint=hint)


def _blob_name(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _read(place: _Place | None, what: str) -> bytes:
    if place is None:
        raise ImageError(f"{what} is missing")
    if place.size > MANIFEST_LIMIT:
        raise ImageError(f"{what} is larger than {MANIFEST_LIMIT >> 20} MiB")
    try:
        with open_file(place.path, _LARGEST) as file:
            file.seek(place.offset)
            return file.read(place.size)
    except OSError as exc:
        raise ImageError(f"{what} cannot be read: {exc.strerror}") from exc


def _copy(place: _Place, into: Path | None, progress: Callable[[int], None], what: str) -> str:
    """Return the digest of what lies at `place`, copying it to `into` if that is given."""
    digest, left = hashlib.sha256(), place.size
    try:
        with open_file(place.path, _LARGEST) as file, open(into or os.devnull, "wb") as out:
            file.seek(place.offset)
            while left and (data := file.read(min(left, _PIECE))):
                digest.update(data)
                if into:
                    out.write(data)
                progress(len(data))
                left -= len(data)
    except OSError as exc:
        raise ImageError(f"{what} cannot be copied: {exc.strerror}") from exc
    return f"sha256:{digest.hexdigest()}"
