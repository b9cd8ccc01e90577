"""From a reference to an image in the cache: resolve, download, verify, unpack, rename."""

import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from vimto import console
from vimto.cache.entry import delete, remove
from vimto.errors import ImageError
from vimto.kernel.reference import ImageReference, LayoutReference, RegistryReference
from vimto.oci.manifest import (
    Descriptor,
    Index,
    Manifest,
    check_config,
    choose_platform,
    digest_of,
    host_platform,
    parse_manifest,
)
from vimto.oci.progress import PullProgress, show_bytes
from vimto.oci.store import Image, ImageConfig, Store, Tag, find_known, layout_signature, sweep
from vimto.oci.unpack import Unpacker

# Docker's own number; more makes no faster and looks like an attack to some registries.
_PARALLEL = 3
_NESTED = 3


class Source(Protocol):
    """A registry's repository, or a layout on disk."""

    def manifest(self, target: str = "", /) -> bytes: ...
    def blob(self, blob: Descriptor, into: Path, progress: Callable[[int], None], /) -> Path: ...


def fetch_image(reference: ImageReference, config: ImageConfig) -> Image:
    """Return the image that `reference` means, asking its registry and pulling it as need be.

    However many processes ask at once, one pulls. An image that is here serves when the registry
    cannot be reached, with a warning. Raises `ImageError`.
    """
    store = Store(config.cache_dir)
    try:
        return _pull_once(reference, config, store)
    except OSError as exc:
        raise ImageError(
            f"the image cache `{store.path}` cannot be used: {exc.strerror or exc}",
            hint="`-cache-dir` names another place",
        ) from exc


def look_up_image(reference: RegistryReference, config: ImageConfig) -> str:
    """Return the digest of the image that `reference` means now, and note it; nothing is pulled.

    So the image need not be there: once it comes from elsewhere, as from a CI's cache, it is found
    without asking. Raises `ImageError`.
    """
    from vimto.oci.registry import Registry

    store = Store(config.cache_dir)
    with (
        store.locked(store.key(reference), f"another vimto pulls `{reference}`"),
        Registry(reference, insecure=config.insecure_registry) as registry,
    ):
        pull = _Pull(reference, registry, config, store)
        manifest, tag = pull.look_up()
        store.write_tag(reference, tag)
    return manifest.digest


def _pull_once(reference: ImageReference, config: ImageConfig, store: Store) -> Image:
    asked = time.time()
    with store.locked(store.key(reference), f"another vimto pulls `{reference}`"):
        always = config.pull == "always" and isinstance(reference, RegistryReference)
        not_before = asked if always else asked - config.pull_fresh
        known = find_known(reference, config, not_before=not_before)
        if known is not None:
            return known
        if isinstance(reference, LayoutReference):
            return _pull_layout(reference, config, store)
        if config.pull == "never":
            raise ImageError(
                f"the image `{reference}` is not in the cache, and `-pull never` is in effect",
                hint=f"`vimto -pull missing kernel pull {reference}` fetches it",
            )
        return _pull_registry(reference, config, store)


def _pull_layout(reference: LayoutReference, config: ImageConfig, store: Store) -> Image:
    from vimto.oci.layout import open_layout

    signature = layout_signature(reference, config)
    with store.work(store.key(reference)) as work:
        source = open_layout(reference, work, config.image_limit)
        return _Pull(reference, source, config, store, signature).run()


def _pull_registry(reference: RegistryReference, config: ImageConfig, store: Store) -> Image:
    from vimto.oci.registry import Registry, UnreachableError

    try:
        with Registry(reference, insecure=config.insecure_registry) as registry:
            pull = _Pull(reference, registry, config, store)
            registry.stop, registry.say = pull.stop, lambda text: pull.say(text)
            return pull.run()
    except UnreachableError as exc:
        tag = store.read_tag(reference)
        image = store.find(tag.digest) if tag else None
        if tag is None or image is None:
            raise
        age = show_age(time.time() - tag.checked)
        console.warn(f"{exc.message}; using the image that `{reference}` was {age} ago")
        return image


def show_age(seconds: float) -> str:
    """Return a span of time for a reader, in its largest unit: `3 days`."""
    units = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))
    unit, length = next((pair for pair in units if seconds >= pair[1]), units[-1])
    count = max(0, int(seconds // length))
    return f"{count} {unit}" + ("" if count == 1 else "s")


class _Pull:
    """One image on its way from `source` into the store."""

    def __init__(
        self,
        reference: ImageReference,
        source: Source,
        config: ImageConfig,
        store: Store,
        signature: str = "",
    ) -> None:
        self._reference = reference
        self._source = source
        self._config = config
        self._store = store
        self._signature = signature
        self._what = f"`{reference}`"
        self.stop = threading.Event()
        self.say: Callable[[str], None] = console.note

    def run(self) -> Image:
        """Return the image, pulled unless it is here under another name."""
        manifest, tag = self.look_up()
        place = self._store.entry(manifest.digest)
        image = self._store.find(manifest.digest)
        if image is None:
            with self._store.locked(place.name, f"another vimto pulls {self._what}"):
                image = self._store.find(manifest.digest) or self._make(manifest, place)
        self._store.write_tag(self._reference, tag)
        return image

    def look_up(self) -> tuple[Manifest, Tag]:
        """Ask the source which image is meant."""
        top = self._source.manifest()
        manifest = self._choose(parse_manifest(top, f"the manifest of {self._what}"))
        tag = Tag(
            reference=str(self._reference),
            digest=manifest.digest,
            top=digest_of(top),
            checked=time.time(),
            signature=self._signature,
        )
        return manifest, tag

    def _choose(self, found: Manifest | Index) -> Manifest:
        what = f"the manifest of {self._what}"
        for _ in range(_NESTED):
            if isinstance(found, Manifest):
                return found
            chosen = choose_platform(found, host_platform(), self._what)
            found = parse_manifest(self._source.manifest(chosen.digest), what)
        raise ImageError(f"{self._what} is an index of indexes of indexes")

    def _make(self, manifest: Manifest, place: Path) -> Image:
        self._check_size(manifest)
        with self._store.work(place.name) as work:
            sweep(self._config.cache_dir)  # but ours, which is locked: its download goes on
            made = work / "entry"
            delete(os.fspath(made))  # of a process that was killed while it unpacked
            (made / "root").mkdir(parents=True)
            made.chmod(0o755)
            try:
                size = self._fill(manifest, work, made / "root")
                self._store.record(made, reference=str(self._reference), size=size)
                remove(place)  # of another format, or somebody else's
                made.rename(place)
            except OSError as exc:
                raise ImageError(f"{self._what} cannot be stored: {exc.strerror}") from exc
        image = self._store.find(manifest.digest)
        assert image is not None, "an image was made but cannot be found"
        return image

    def _check_size(self, manifest: Manifest) -> None:
        limit, free = self._config.image_limit, shutil.disk_usage(self._store.path).free
        if manifest.size > limit:
            raise ImageError(
                f"{self._what} has {show_bytes(manifest.size)}, more than {show_bytes(limit)}",
                hint="raise the limit with `-image-limit` if you trust it",
            )
        if manifest.size > free:
            raise ImageError(
                f"{self._what} has {show_bytes(manifest.size)}, and {show_bytes(free)} are free",
                hint=f"free some space on the disk of `{self._store.path}`",
            )

    def _fill(self, manifest: Manifest, work: Path, root: Path) -> int:
        unpacker = Unpacker(root, limit=self._config.image_limit)
        pool = ThreadPoolExecutor(_PARALLEL)
        with PullProgress(str(self._reference), manifest.size) as progress:
            self.say = progress.say

            def count(size: int) -> None:
                if self.stop.is_set():
                    raise ImageError("the pull was given up")
                progress.add(size)

            try:
                config = self._source.blob(manifest.config, work / "config", count)
                check_config(manifest.config, _read(config), host_platform(), self._what)
                files: dict[str, Future[Path]] = {}
                for layer in manifest.layers:
                    if layer.digest not in files:
                        path = work / layer.digest.removeprefix("sha256:")
                        files[layer.digest] = pool.submit(self._source.blob, layer, path, count)
                for number, layer in enumerate(manifest.layers, 1):
                    path = files[layer.digest].result()
                    if number == len(manifest.layers):
                        progress.unpacking()
                    unpacker.add_layer(path, f"layer {number} of {self._what}")
                unpacker.finish()
            except BaseException:
                # Nobody waits for them: one may be in the middle of a request that is not answered.
                self.stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            pool.shutdown()
        self._report(unpacker)
        return unpacker.size

    def _report(self, unpacker: Unpacker) -> None:
        left_out = unpacker.left_out
        if left_out:
            names = ", ".join(f"`{name[:60]}`" for name in left_out[:3])
            more = f" and {len(left_out) - 3} more" if len(left_out) > 3 else ""
            console.warn(f"devices of {self._what} were left out: {names}{more}")


def _read(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(os.fstat(file.fileno()).st_size)
