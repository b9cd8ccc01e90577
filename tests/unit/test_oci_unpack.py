"""Layers on disk: what the image specification says about them, and what hostile ones try."""

import errno
import gzip
import os
import random
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need
from tests.unit.oci_parts import digest, hardlink, make_tar, member, symlink, tree
from vimto import compression
from vimto.errors import ImageError
from vimto.oci.unpack import LayerStream, Unpacker

MIB = 1 << 20


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory beside the root, which nothing may change."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "victim").write_text("untouched")
    yield path
    assert tree(path) == {"victim": "untouched"}
    assert sorted(os.listdir(tmp_path)) == ["layers", "outside", "root"]


def unpack(tmp_path: Path, *layers: bytes, limit: int = 64 * MIB, entries: int = 1000) -> Unpacker:
    root, files = tmp_path / "root", tmp_path / "layers"
    root.mkdir()
    files.mkdir()
    unpacker = Unpacker(root, limit=limit, max_entries=entries)
    for number, layer in enumerate(layers):
        path = files / str(number)
        path.write_bytes(layer)
        unpacker.add_layer(path, f"layer {number}")
    unpacker.finish()
    return unpacker


def test_a_kernel_image(tmp_path: Path) -> None:
    unpack(
        tmp_path,
        make_tar(
            member("./"),
            symlink("./lib", "usr/lib"),
            member("./usr/lib/modules/6.6/modules.dep", b"deps"),
            symlink("./boot/vmlinuz", "/boot/vmlinuz-6.6"),
            member("./boot/vmlinuz-6.6", b"kernel"),
        ),
    )
    assert tree(tmp_path / "root") == {
        "boot": "/",
        "boot/vmlinuz": "-> /boot/vmlinuz-6.6",
        "boot/vmlinuz-6.6": "kernel",
        "lib": "-> usr/lib",
        "usr": "/",
        "usr/lib": "/",
        "usr/lib/modules": "/",
        "usr/lib/modules/6.6": "/",
        "usr/lib/modules/6.6/modules.dep": "deps",
    }


@pytest.mark.parametrize(
    ("upper", "expected"),
    [
        ([member("d/a", b"2")], {"d": "/", "d/a": "2", "d/b": "1"}),
        ([member("d/.wh.a")], {"d": "/", "d/b": "1"}),
        ([member(".wh.d")], {}),
        ([member("d/.wh.missing")], {"d": "/", "d/a": "1", "d/b": "1"}),
        ([member("d/.wh..wh..opq")], {"d": "/"}),
        ([member("d/.wh..wh..opq"), member("d/c", b"2")], {"d": "/", "d/c": "2"}),
        ([member("d/c", b"2"), member("d/.wh..wh..opq")], {"d": "/", "d/c": "2"}),
        ([member("d/c", b"2"), member(".wh.d")], {"d": "/", "d/c": "2"}),
        ([member("d/a", b"2"), member("d/.wh.a")], {"d": "/", "d/a": "2", "d/b": "1"}),
        ([member("d", b"file")], {"d": "file"}),
        ([symlink("d", "/elsewhere")], {"d": "-> /elsewhere"}),
        ([symlink("d/a", "b")], {"d": "/", "d/a": "-> b", "d/b": "1"}),
        ([member("d/a/x", b"2")], {"d": "/", "d/a": "/", "d/a/x": "2", "d/b": "1"}),
        ([hardlink("c", "d/a"), member("d/.wh.a")], {"c": "1", "d": "/", "d/b": "1"}),
        ([member("d/.wh..wh.plnk")], {"d": "/", "d/a": "1", "d/b": "1"}),
    ],
)
def test_upper_layer(
    upper: list[tuple[tarfile.TarInfo, bytes]], expected: dict[str, str], tmp_path: Path
) -> None:
    lower = make_tar(member("d/"), member("d/a", b"1"), member("d/b", b"1"))
    unpack(tmp_path, lower, make_tar(*upper))
    assert tree(tmp_path / "root") == expected


@pytest.mark.parametrize(
    ("upper", "expected"),
    [
        ([member("lib/x", b"2")], {"lib": "-> usr/lib", "usr/lib/x": "2", "usr/lib/y": "1"}),
        ([member("lib/"), member("lib/x", b"2")], {"lib": "/", "lib/x": "2", "usr/lib/y": "1"}),
        ([member(".wh.lib")], {"usr/lib/y": "1"}),
        ([member("lib/.wh.y")], {"lib": "-> usr/lib"}),
        ([hardlink("z", "lib/y")], {"lib": "-> usr/lib", "usr/lib/y": "1", "z": "1"}),
        ([hardlink("l", "lib")], {"lib": "-> usr/lib", "l": "-> usr/lib", "usr/lib/y": "1"}),
        ([member("lib", b"2")], {"lib": "2", "usr/lib/y": "1"}),
        ([member(".wh..wh..opq")], {}),
    ],
)
def test_through_a_link(
    upper: list[tuple[tarfile.TarInfo, bytes]], expected: dict[str, str], tmp_path: Path
) -> None:
    lower = make_tar(symlink("lib", "usr/lib"), member("usr/lib/y", b"1"))
    unpack(tmp_path, lower, make_tar(*upper))
    found = tree(tmp_path / "root")
    assert {k: v for k, v in found.items() if k not in ("usr", "usr/lib")} == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [("/e", "e/x"), ("../e", "e/x"), ("e", "d/e/x"), ("../../../e/../f", "f/x"), (".", "d/x")],
)
def test_where_a_link_leads(target: str, expected: str, tmp_path: Path) -> None:
    unpack(tmp_path, make_tar(symlink("d/l", target), member("d/l/x", b"1")))
    assert tree(tmp_path / "root")[expected] == "1"


def test_a_replaced_file_stays_under_its_other_name(tmp_path: Path) -> None:
    lower = make_tar(member("a", b"old"), hardlink("b", "a"))
    unpack(tmp_path, lower, make_tar(member("a", b"new")))
    assert tree(tmp_path / "root") == {"a": "new", "b": "old"}


def test_modes(tmp_path: Path) -> None:
    unpack(
        tmp_path,
        make_tar(
            member("su", b"", mode=0o6755),
            member("secret", b"", mode=0),
            member("tmp/", mode=0o1777),
            member("closed/", mode=0),
            member("closed/file", b""),
        ),
    )
    root = tmp_path / "root"
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in root.rglob("*")}
    # No set-id bits; all can be read by QEMU and removed by us.
    assert modes["su"] == 0o755
    assert modes["secret"] == 0o400
    assert modes["tmp"] == 0o1777
    assert modes["closed"] == 0o700


def test_devices_are_left_out(tmp_path: Path) -> None:
    layer = make_tar(
        member("dev/sda", type=tarfile.BLKTYPE, devmajor=8),
        member("pipe", type=tarfile.FIFOTYPE),
        member("file", b"x"),
    )
    assert unpack(tmp_path, layer).left_out == ["dev/sda", "pipe"]
    assert tree(tmp_path / "root") == {"file": "x"}


LONG = "d" * 200
ESCAPES = {
    "dots": [member("../outside/victim", b"evil")],
    "inner dots": [member("a/b/../../../outside/victim", b"evil")],
    "dots in a hard link": [hardlink("x", "../outside/victim")],
    "dots in a whiteout": [member("../outside/.wh.victim")],
    "whiteout of dots": [member("a/.wh...")],
    "whiteout of nothing": [member("a/.wh.")],
    "hard link out": [hardlink("x", "{outside}/victim")],
    "hard link through a link": [symlink("l", "{outside}"), hardlink("x", "l/victim")],
    "hard link to a link": [symlink("l", "{outside}/victim"), hardlink("x", "l"),
                            hardlink("x/y", "l/z")],
    "loop": [symlink("a", "b"), symlink("b", "a"), member("a/x", b"evil")],
    "empty link": [symlink("a", "")],
    "too deep": [member("d/" * 200 + "x", b"")],
    "too long": [member("/".join([LONG] * 30), b"")],
    "long chain": [
        *(symlink("/".join([LONG] * n + ["l"]), LONG) for n in range(12)),
        member("/".join(["l"] * 12 + ["x"]), b"evil"),
    ],
    "hard link to itself below": [member("a", b""), hardlink("a/b", "a")],
}  # fmt: skip


@pytest.mark.parametrize("case", ESCAPES)
def test_escapes_are_errors(case: str, tmp_path: Path, outside: Path) -> None:
    members = ESCAPES[case]
    for info, _ in members:
        info.linkname = info.linkname.replace("{outside}", str(outside))
    with pytest.raises(ImageError, match="layer 0"):
        unpack(tmp_path, make_tar(*members))


def test_links_lead_nowhere_while_unpacking(tmp_path: Path, outside: Path) -> None:
    unpack(
        tmp_path,
        make_tar(
            symlink("absolute", str(outside)),
            member("absolute/victim", b"evil"),
            symlink("up", "../outside"),
            member("up/victim", b"evil"),
            symlink("file", f"{outside}/victim"),
            member("file", b"evil"),
            member(f"{outside}/victim", b"evil"),
            symlink("late/dir", str(outside)),
        ),
        make_tar(member("late/dir/victim", b"evil"), member("up/.wh.victim")),
        make_tar(member("absolute/.wh..wh..opq"), member("late/dir/.wh..wh..opq")),
    )
    assert (tmp_path / "root/file").read_text() == "evil"
    assert not (tmp_path / "root/outside/victim").exists()


def test_random_layers_stay_inside(tmp_path: Path, outside: Path) -> None:
    names = ["a", "b", "a/b", "b/a", "a/b/a", "l", "l/a", "a/l", "b/l/a", "l/l"]
    targets = [str(outside), "../outside", "..", "/", "a", "/a/b", "l", "../../../../..", "b/l"]
    marks = ["a/.wh.b", "l/.wh.a", "a/.wh..wh..opq", ".wh.l", "a/l/.wh.victim"]
    root, layer = tmp_path / "root", tmp_path / "layers"
    for seed in range(300):
        choice = random.Random(seed).choice
        members = []
        for _ in range(12):
            name = choice(names)
            members.append(
                choice(
                    [
                        member(name, b"evil"),
                        member(f"{name}/victim", b"evil"),
                        member(name + "/"),
                        symlink(name, choice(targets)),
                        hardlink(name, choice(names)),
                        member(choice(marks)),
                    ]
                )
            )
        root.mkdir()
        layer.write_bytes(make_tar(*members))
        unpacker = Unpacker(root, limit=MIB)
        try:
            unpacker.add_layer(layer, "layer")
            unpacker.add_layer(layer, "layer")
            unpacker.finish()
        except ImageError:
            pass
        assert tree(outside) == {"victim": "untouched"}, seed
        subprocess.run(["rm", "-rf", root], check=True)
    root.mkdir()


def bomb() -> bytes:
    return gzip.compress(make_tar(member("bomb", bytes(32 * MIB))), 1)


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (bomb(), "more than 16 MiB"),
        (gzip.compress(make_tar(member("x", b"x")) + bytes(32 * MIB)), ""),
        (make_tar(*(member(f"f{n}", b"") for n in range(1001))), "more than 1000 files"),
        (b"\x1f\x8b junk", "cannot be decompressed"),
        (bomb()[:1000], "cannot be decompressed: it is cut off"),
        (b"\x28\xb5\x2f\xfd junk", "cannot be decompressed"),
        (b"<html>" + bytes(1000), "not a sound tar archive"),
        (b"", ""),
    ],
)
def test_bombs_and_junk(layer: bytes, says: str, tmp_path: Path) -> None:
    if not says:
        unpack(tmp_path, layer, limit=16 * MIB)
        return
    with pytest.raises(ImageError, match=says):
        unpack(tmp_path, layer, limit=16 * MIB)


def test_sparse_file(tmp_path: Path) -> None:
    need("tar")
    path = tmp_path / "holes"
    with path.open("wb") as file:
        file.seek(40 * MIB)
        file.write(b"end")
    layer = subprocess.run(
        ["tar", "-C", tmp_path, "-Sc", "holes"], capture_output=True, check=True
    ).stdout
    unpack(tmp_path, layer)
    made = tmp_path / "root/holes"
    assert made.read_bytes() == path.read_bytes()
    assert made.stat().st_blocks < 1000
    with pytest.raises(ImageError, match="more than 32 MiB"):  # whoever copies it writes holes
        unpack(tmp_path / "layers", layer, limit=32 * MIB)


@pytest.mark.parametrize("how", ["gzip", "zstd", "plain"])
def test_compressions(how: str, tmp_path: Path) -> None:
    content = random.Random(1).randbytes(3 * MIB)
    plain = make_tar(member("f", content), member("g", bytes(3 * MIB)))
    half = len(plain) // 2
    if how == "gzip":  # of several members, as pigz and estargz write
        layer = gzip.compress(plain[:half]) + gzip.compress(plain[half:]) + bytes(100)
    elif how == "zstd":
        zstd = compression.zstd()
        skipped = b"\x50\x2a\x4d\x18\x04\0\0\0skip"
        layer = skipped + zstd.compress(plain[:half]) + skipped + zstd.compress(plain[half:])
    else:
        layer = plain
    unpack(tmp_path, layer)
    assert (tmp_path / "root/f").read_bytes() == content
    stream = LayerStream(tmp_path / "layers/0", "x", meter=lambda _: None, want_digest=True)
    assert stream.digest() == digest(plain)
    stream.close()


def test_diff_id(tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    layer.write_bytes(make_tar(member("f", b"x")))
    root = tmp_path / "root"
    root.mkdir()
    Unpacker(root, limit=MIB).add_layer(layer, "layer", diff_id=digest(layer.read_bytes()))
    (root / "f").unlink()
    with pytest.raises(ImageError, match="is damaged"):
        Unpacker(root, limit=MIB).add_layer(layer, "layer", diff_id=digest(b""))


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(ImageError, match="No space left") as caught:
        unpack(tmp_path, make_tar(member("f", b"x")))
    assert "free some space" in caught.value.hint
