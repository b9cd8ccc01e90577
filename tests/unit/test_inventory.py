"""What is in the cache, of whatever kind: listed, named, removed, kept within limits."""

import importlib
import json
import math
import os
import re
import time
from pathlib import Path

import pytest

from tests.unit.oci_parts import ImageConfig, make_image, make_tar, member
from tests.unit.test_oci_store import pull
from vimto import inventory
from vimto.cache import entry, place
from vimto.cache.digest import local_directory
from vimto.cache.place import KINDS, Limits, is_unmeasured
from vimto.cache.snapshots import new_snapshot
from vimto.commands import catalog
from vimto.config import load_config
from vimto.errors import VimtoError

KEY = "0123456789abcdef" * 2
PACKAGE = "linux-image-6.1.0-1-amd64_1%3a6.1.1-2_amd64"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with an entry of each kind."""
    found = tmp_path / "cache"
    for kind, name in (
        ("vmlinux", KEY),
        ("initramfs", f"{KEY}.cpio"),
        ("modules", KEY),
        ("agent", "amd64-0123-4567"),
        ("gdb-index", f"{KEY}.gdb-index"),
        ("links", f"{KEY}-one"),
        ("links", f"{KEY}-two"),
    ):
        with entry.new_file(found / kind / name) as path:
            path.write_bytes(b"x" * 5000)
    for directory in (PACKAGE, PACKAGE.replace("_", "-dbg_", 1), "state/own", "index"):
        (found / "apt" / directory).mkdir(parents=True)
    (found / "apt/index/apt%3Alinux-image-amd64-x86_64.json").write_text(
        json.dumps({"directory": PACKAGE})
    )
    with new_snapshot(
        str(found / "snapshots"), KEY, {"kernel": "Linux (`/x`)", "memory": 64}
    ) as aside:
        Path(aside, "ram").write_bytes(b"x" * 9000)
        Path(aside, "state").write_bytes(b"devices")
    pull(ImageConfig(cache_dir=found), make_image(make_tar(member("boot/vmlinuz", b"kernel"))))
    with entry.new_file(Path(local_directory(found), "resolved", "r.json")) as path:
        path.write_text(json.dumps({"entries": [str(found / "vmlinux" / KEY)]}))
    return found


NAMES = [
    "agent:amd64-0123-4567",
    "apt-lists:own",
    "apt:linux-image-6.1.0-1-amd64-dbg=1:6.1.1-2",
    "apt:linux-image-6.1.0-1-amd64=1:6.1.1-2",
    f"gdb-index:{KEY[:12]}",
    f"initramfs:{KEY[:12]}",
    "links",
    f"modules:{KEY[:12]}",
    "reg.example/name:1",
    f"snapshot:{KEY[:12]}",
    f"vmlinux:{KEY[:12]}",
]


def shown(cache: Path) -> list[str]:
    return sorted(name for item in inventory.list_items(cache) for name in item.shown)


def vimto(cache: Path, *words: str) -> None:
    config = load_config({}, {"VIMTO_CACHE_DIR": str(cache)}, "/")
    row = catalog.find_command([words[0]]) or catalog.find_command(["kernel", words[0]])
    assert row
    module, _, name = row.run.partition(":")
    getattr(importlib.import_module(module), name)(config, list(words[1:]))


def test_all_kinds_are_listed(cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert shown(cache) == NAMES
    vimto(cache, "ls")
    out = capfd.readouterr().out
    assert all(name in out for name in NAMES)
    assert "snapshot of Linux, 64 MiB" in out
    assert out.splitlines()[-1].endswith(f" of at most 20.0 GiB in {cache}")


def test_what_is_listed_can_be_removed(cache: Path) -> None:
    for name in NAMES:
        vimto(cache, "rm", name)
        assert name not in shown(cache)
    assert shown(cache) == []


def test_other_names(cache: Path) -> None:
    vimto(cache, "rm", "apt:linux-image-amd64", f"snapshot:{KEY}", f"vmlinux:{KEY[:6]}")
    [image] = [item for item in inventory.list_items(cache) if item.what.startswith("image")]
    vimto(cache, "rm", image.names[-1][:8])
    assert len(shown(cache)) == len(NAMES) - 4


@pytest.mark.parametrize("kind", ["vmlinux", "initramfs", "modules", "gdb-index", "snapshot"])
def test_a_key_is_named_by_its_beginning(cache: Path, kind: str) -> None:
    with pytest.raises(VimtoError, match=f"there is no `{kind}:ffffff` in the cache"):
        vimto(cache, "rm", f"{kind}:ffffff")
    vimto(cache, "rm", f"{kind}:{KEY[:6]}")
    assert len(shown(cache)) == len(NAMES) - 1


def test_links_have_one_name(cache: Path) -> None:
    vimto(cache, "rm", "links")
    assert shown(cache) == [name for name in NAMES if name != "links"]
    assert list((cache / "links").iterdir()) == []
    with pytest.raises(VimtoError, match="there is no `links` in the cache"):
        vimto(cache, "rm", "links")


def test_a_tag_is_not_named_by_its_beginning(cache: Path) -> None:
    image = make_image(make_tar(member("boot/vmlinuz", b"other")))
    pull(ImageConfig(cache_dir=cache), image, "reg.example/name:123456789")
    with pytest.raises(VimtoError, match="is not on this machine"):
        vimto(cache, "rm", "reg.example/name:1234567")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("snapshot:nothing", "no `snapshot:nothing` in the cache"),
        ("apt:other", "no `apt:other` in the cache"),
        ("reg.example/other", "is not on this machine"),
        ("initramfs:", "no `initramfs:` in the cache"),
    ],
)
def test_what_is_not_there(cache: Path, name: str, says: str) -> None:
    with pytest.raises(VimtoError, match=says):
        vimto(cache, "rm", "agent:amd64-0123-4567", name)
    assert shown(cache) == NAMES


def test_flush_cache_frees_all_but_what_is_in_use(
    cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    held = [entry.hold(cache / "apt" / PACKAGE), entry.hold(cache / "vmlinux" / KEY)]
    with entry.locked(cache / "apt/state/own", waiting=""):
        vimto(cache, "flush-cache")
    kept = ["apt-lists:own", "apt:linux-image-6.1.0-1-amd64=1:6.1.1-2", f"vmlinux:{KEY[:12]}"]
    assert shown(cache) == kept
    out, err = capfd.readouterr()
    assert sorted(err.splitlines()) == [f"vimto: `{name}` is in use" for name in kept]
    assert out.splitlines()[-1].endswith(" freed")
    for fd in held:
        os.close(fd)
    vimto(cache, "flush-cache")
    left = [str(path.relative_to(cache)) for path in cache.rglob("*") if not path.is_dir()]
    assert left == ["apt/index/apt%3Alinux-image-amd64-x86_64.json"]


def test_the_use_of_a_kernel_counts_for_its_parts(cache: Path) -> None:
    old = time.time() - 40 * 86400
    for path in (cache / "vmlinux" / KEY, cache / "initramfs" / f"{KEY}.cpio"):
        os.utime(path, (old, old))
    vimto(cache, "prune")
    assert f"vmlinux:{KEY[:12]}" in shown(cache)
    assert f"initramfs:{KEY[:12]}" not in shown(cache)


def test_the_longest_unused_are_removed_past_the_limit(cache: Path) -> None:
    items = inventory.list_items(cache)
    for age, item in enumerate(reversed(items)):
        assert item.used <= time.time()
        assert age or item.used == min(other.used for other in items)
    total = sum(item.size for item in items)
    limits = Limits(total, snapshots=1 << 30, links=1 << 30)

    def prune(**changes: int) -> list[str]:
        changed = limits._replace(**changes)
        return [item.names[0] for item in inventory.prune_items(cache, changed, before=0.0)]

    assert prune(total=total - 1) == [items[-1].names[0]]
    assert prune() == []
    assert prune(snapshots=0) == [f"snapshot:{KEY[:12]}"]
    os.utime(cache / "links" / f"{KEY}-one", (1, 1))
    assert prune(links=8192) == ["links"]
    assert entry.entries(cache / "links") == [f"{KEY}-two"]
    assert prune(links=8191) == ["links"]
    assert "links" not in shown(cache)


def test_the_limit_is_looked_at_when_something_was_made(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(1 << 30, 1 << 30, 1 << 30)
    assert is_unmeasured(cache, limits)
    inventory.keep_limit(cache, limits, since=math.inf)
    assert shown(cache) == NAMES
    for kind in KINDS:  # the last of them changed within the same tick of the clock
        os.utime(cache / kind, (1, 1))
    assert not is_unmeasured(cache, limits)
    assert is_unmeasured(cache, Limits(0, 0, 0))
    with entry.new_file(cache / "links/another") as path:
        path.write_bytes(b"x" * 5000)
    assert not is_unmeasured(cache, limits)  # one link does not count
    monkeypatch.setattr(place, "_LINKS_STEP", 1000)
    assert is_unmeasured(cache, limits)
    monkeypatch.undo()
    with entry.new_file(cache / "vmlinux/another") as path:
        path.write_bytes(b"x" * 5000)
    assert is_unmeasured(cache, limits)
    os.utime(cache / "snapshots" / KEY, (1, 1))
    inventory.keep_limit(cache, Limits(0, 0, 0), since=2)
    gone = {*NAMES, "vmlinux:another"} - set(shown(cache))
    assert sorted(gone) == ["links", f"snapshot:{KEY[:12]}"]
    inventory.keep_limit(cache, Limits(0, 0, 0), since=math.inf)
    assert shown(cache) == []


def test_leftovers_of_all_kinds_are_swept(cache: Path) -> None:
    kinds = ("vmlinux", "apt", "images", "links", "snapshots")
    left = [cache / kind / ".x.01234567~" for kind in kinds]
    for path in left:
        path.mkdir()
    limits = Limits(1 << 40, 1 << 40, 1 << 40)
    assert list(inventory.prune_items(cache, limits, before=0.0)) == []
    assert not any(path.exists() for path in left)


def test_a_damaged_image_is_listed(cache: Path) -> None:
    [item] = [item for item in inventory.list_items(cache) if item.what.startswith("image ")]
    digest = item.names[-1]
    (cache / "images" / digest / "image.json").unlink()
    assert f"image:{digest[:12]}" in shown(cache)
    vimto(cache, "rm", f"image:{digest[:12]}")
    assert not (cache / "images" / digest).exists()


def test_what_is_not_ours_is_not_touched(cache: Path) -> None:
    (cache / "precious").write_text("x")
    (cache / "home").mkdir()
    (cache / "home/file").write_text("x")
    inventory.forget(cache, before=math.inf)
    vimto(cache, "flush-cache")
    assert (cache / "precious").exists()
    assert (cache / "home/file").exists()


def test_each_kind_is_in_the_reference() -> None:
    page = Path(__file__).parents[2].joinpath("docs/cache.md").read_text()
    rows = re.findall(r"(?m)^\| `([^`]+)` \|", page)
    assert set(KINDS) | {"qemus", "builtin", "local/HOST"} == set(rows)
