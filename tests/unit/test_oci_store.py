"""The cache of images: freshness, locks, removal; filled from layouts, without a registry."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.oci_parts import (
    ImageConfig,
    Made,
    fetch_image,
    find_image,
    make_image,
    make_index,
    make_tar,
    member,
    symlink,
    tree,
    write_layout,
)
from vimto.errors import CacheError, ImageError
from vimto.kernel.reference import parse_image
from vimto.oci import store as images
from vimto.oci.manifest import Descriptor, host_platform
from vimto.oci.pull import _Pull, show_age

IMAGE = make_image(make_tar(member("boot/vmlinuz", b"kernel"), symlink("lib", "usr/lib")))
OTHER = make_image(make_tar(member("boot/vmlinuz", b"another")))
NAME = "reg.example/name:1"


@pytest.fixture
def settings(tmp_path: Path) -> ImageConfig:
    return ImageConfig(cache_dir=tmp_path / "cache")


class InMemory:
    """A source of images in memory that counts what is asked of it."""

    def __init__(self, image: Made) -> None:
        self.image = image
        self.blobs = 0

    def manifest(self, target: str = "") -> bytes:
        return self.image.blobs[target] if target else self.image.manifest

    def blob(self, blob: Descriptor, into: Path, progress: Callable[[int], None]) -> Path:
        self.blobs += 1
        into.write_bytes(self.image.blobs[blob.digest])
        progress(blob.size)
        return into


def pull(settings: ImageConfig, image: Made = IMAGE, name: str = NAME) -> images.Image:
    store = images.Store(settings.cache_dir)
    return _Pull(parse_image(name), InMemory(image), settings, store).run()


def age(settings: ImageConfig, seconds: float, name: str = NAME) -> None:
    store = images.Store(settings.cache_dir)
    reference = parse_image(name)
    tag = store.read_tag(reference)
    assert tag is not None
    store.write_tag(reference, replace(tag, checked=tag.checked - seconds))


def names(settings: ImageConfig) -> list[str]:
    return sorted(os.listdir(settings.cache_dir / "images"))


def test_pulled_and_found(settings: ImageConfig) -> None:
    assert find_image(NAME, settings) is None
    image = pull(settings)
    assert image.digest == IMAGE.digest
    assert tree(image.root) == {"boot": "/", "boot/vmlinuz": "kernel", "lib": "-> usr/lib"}
    assert find_image(NAME, settings) == image
    assert names(settings) == [image.digest.removeprefix("sha256:"), "tags", "work"]
    assert not os.listdir(settings.cache_dir / "images/work")


@pytest.mark.parametrize(
    ("changes", "seconds", "found"),
    [
        ({}, 0, True),
        ({}, 86300, True),
        ({}, 86500, False),
        ({}, -100, False),
        ({"pull_fresh": 10.0}, 11, False),
        ({"pull": "never"}, 1e9, True),
        ({"pull": "always"}, 0, False),
    ],
)
def test_freshness(
    changes: Mapping[str, object], seconds: float, found: bool, settings: ImageConfig
) -> None:
    pull(settings)
    age(settings, seconds)
    assert (find_image(NAME, replace(settings, **changes)) is not None) is found


def test_digest_stays_fresh(settings: ImageConfig) -> None:
    name = f"reg.example/name@{IMAGE.digest}"
    pull(settings, name=name)
    age(settings, 1e9, name)
    assert find_image(name, settings) is not None


def test_one_image_of_two_names_is_kept_once(settings: ImageConfig) -> None:
    first, second = pull(settings), pull(settings, name="reg.example/name:2")
    assert first.root == second.root
    [(image, tags)] = images.list_images(settings.cache_dir)
    assert image.root == first.root
    assert sorted(tag.reference for tag in tags) == [NAME, "reg.example/name:2"]


def test_moved_tag(settings: ImageConfig) -> None:
    old, new = pull(settings), pull(settings, OTHER)
    assert old.root != new.root
    assert find_image(NAME, settings) == new
    assert (old.root / "boot/vmlinuz").read_text() == "kernel"  # a running machine may use it


def test_index(settings: ImageConfig) -> None:
    images = {"linux/s390x": OTHER, host_platform(): IMAGE, "unknown/unknown": OTHER}
    assert pull(settings, make_index(images)).digest == IMAGE.digest
    with pytest.raises(ImageError, match="no image for") as caught:
        pull(settings, make_index({"linux/s390x": OTHER}))
    assert caught.value.hint == "it has linux/s390x"


def test_nested_indexes_end(settings: ImageConfig) -> None:
    nested = IMAGE
    for _ in range(4):
        nested = make_index({host_platform(): nested})
    with pytest.raises(ImageError, match="index of indexes"):
        pull(settings, nested)


@pytest.mark.parametrize(
    ("image", "limit", "says"),
    [
        (make_image(make_tar(member("../x", b""))), 1 << 20, "leads out"),
        (make_image(make_tar(member("x", bytes(2 << 20)))), 1 << 20, "unpacks to more than 1 MiB"),
        (make_image(os.urandom(2 << 20)), 1 << 20, "more than 1.0 MiB"),
        (make_image(make_tar(), platform="linux/s390x"), 1 << 20, "is for linux/s390x"),
    ],
)
def test_failure_leaves_nothing(image: Made, limit: int, says: str, settings: ImageConfig) -> None:
    with pytest.raises(ImageError, match=says):
        pull(replace(settings, image_limit=limit), image)
    assert not list((settings.cache_dir / "images").glob("work/*"))
    assert images.list_images(settings.cache_dir) == []
    assert not any(len(name) == 64 for name in names(settings))


def test_disk_too_small(settings: ImageConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: _Free())
    with pytest.raises(ImageError, match="and 10 B are free"):
        pull(settings)


class _Free:
    free = 10


def test_what_a_killed_pull_left_is_used_or_swept(settings: ImageConfig) -> None:
    work = settings.cache_dir / "images/work"
    name = IMAGE.digest.removeprefix("sha256:")
    (work / f".{name}~" / "entry/root/half").mkdir(parents=True)
    (work / ".another~" / "entry").mkdir(parents=True)
    image = pull(settings)
    assert "half" not in tree(image.root)
    images.sweep(settings.cache_dir)
    assert not os.listdir(work)


def test_sweep_leaves_the_living_alone(settings: ImageConfig) -> None:
    store = images.Store(settings.cache_dir)
    with store.locked("busy", "waiting"), store.work("busy") as path:
        images.sweep(settings.cache_dir)
        assert path.is_dir()
    assert not path.exists()


def test_held_image_is_not_removed(settings: ImageConfig) -> None:
    image = pull(settings)
    with images.hold(image):
        assert not images.remove_image(settings.cache_dir, image.digest)
        assert image.root.is_dir()
    assert images.remove_image(settings.cache_dir, image.digest)
    assert images.list_images(settings.cache_dir) == []
    assert find_image(NAME, settings) is None
    assert os.listdir(settings.cache_dir / "images/tags") == []
    with pytest.raises(ImageError, match="was just removed"), images.hold(image):
        pass


def test_holding_counts_as_use(settings: ImageConfig) -> None:
    image = pull(settings)
    os.utime(image.root.parent / "image.json", (1, 1))
    with images.hold(image):
        pass
    [(listed, _)] = images.list_images(settings.cache_dir)
    assert listed.used > 1


def test_damaged_records_are_no_images(settings: ImageConfig) -> None:
    image = pull(settings)
    (image.root.parent / "image.json").write_text("{")
    assert find_image(NAME, settings) is None
    assert pull(settings).root == image.root
    for path in (settings.cache_dir / "images/tags").iterdir():
        path.write_text('{"digest": "sha256:../.."}')
    assert find_image(NAME, settings) is None


def test_many_at_once_pull_once(settings: ImageConfig, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", {"1": IMAGE})
    pulls = []
    original = _Pull._make

    def count(self: _Pull, *arguments: object) -> images.Image:
        pulls.append(threading.get_ident())
        return original(self, *arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(20) as pool:
        patch.setattr(_Pull, "_make", count)
        pulled = list(pool.map(lambda _: fetch_image(f"oci:{layout}:1", settings), range(20)))
    assert len(pulls) == 1
    assert len({image.root for image in pulled}) == 1


def test_layout_is_looked_at_again_when_it_changes(settings: ImageConfig, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", {"1": IMAGE})
    name = f"oci:{layout}:1"
    assert fetch_image(name, settings).digest == IMAGE.digest
    assert find_image(name, settings) is not None
    assert find_image(name, replace(settings, pull="always")) is not None
    (layout / "index.json").unlink()  # not written over: within one tick of the clock
    write_layout(layout, {"1": OTHER})
    assert find_image(name, settings) is None
    assert fetch_image(name, settings).digest == OTHER.digest


def test_cache_that_cannot_be_used(settings: ImageConfig, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", {"1": IMAGE})
    settings.cache_dir.write_text("a file")
    with pytest.raises(CacheError, match="cannot be written") as caught:
        fetch_image(f"oci:{layout}:1", settings)
    assert "cache_dir" in caught.value.hint
    settings.cache_dir.unlink()
    (settings.cache_dir / "images").mkdir(parents=True)
    (settings.cache_dir / "images/tags").write_text("a file")
    with pytest.raises(CacheError, match="cannot be written"):
        fetch_image(f"oci:{layout}:1", settings)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("place", ["", "image.json"])
def test_an_image_of_somebody_else_is_pulled_again(settings: ImageConfig, place: str) -> None:
    image = pull(settings)
    os.chown(image.root.parent / place, 12345, 12345)
    assert find_image(NAME, settings) is None
    assert pull(settings).root == image.root
    assert (image.root.parent / place).stat().st_uid == 0
    assert find_image(NAME, settings) is not None


def test_never(settings: ImageConfig) -> None:
    with pytest.raises(ImageError, match="`-pull never` is in effect"):
        fetch_image(NAME, replace(settings, pull="never"))


def test_waiting_ends_with_the_other(settings: ImageConfig) -> None:
    store = images.Store(settings.cache_dir)
    order = []

    def second() -> None:
        with store.locked("name", "waiting"):
            order.append("second")

    with store.locked("name", "waiting"):
        thread = threading.Thread(target=second)
        thread.start()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_finding_is_light() -> None:
    code = "import sys, vimto.oci.store; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"oras", "requests", "urllib3", "sh", "concurrent.futures", "tarfile"}
    assert not heavy & set(out.stdout.split())


def test_age() -> None:
    assert [show_age(seconds) for seconds in (0, 1, 119, 7300, 86400, 3e6)] == [
        "0 seconds",
        "1 second",
        "1 minute",
        "2 hours",
        "1 day",
        "34 days",
    ]
    assert time.time() > 0
