"""Images on disk: OCI layouts and Docker archives, sound and damaged."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.oci_parts import (
    ImageConfig,
    archive_of,
    digest,
    fetch_image,
    hardlink,
    make_image,
    make_tar,
    member,
    symlink,
    tree,
    write_layout,
)
from vimto.errors import ImageError
from vimto.oci.manifest import host_platform

IMAGE = make_image(make_tar(member("a", b"1")), make_tar(member("b", b"2")))
OTHER = make_image(make_tar(member("c", b"3")))
FILES = {"a": "1", "b": "2"}


def fetch(tmp_path: Path, name: str) -> dict[str, str]:
    image = fetch_image(name, ImageConfig(cache_dir=tmp_path / "cache"))
    assert not list((tmp_path / "cache/images/work").iterdir())
    return tree(image.root)


def test_directory(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "l", {"one": IMAGE, "two": OTHER})
    before = tree(layout)
    assert fetch(tmp_path, f"oci:{layout}:one") == FILES
    assert fetch(tmp_path, f"oci:{layout}:two") == {"c": "3"}
    assert tree(layout) == before


def test_only_image_needs_no_tag(tmp_path: Path) -> None:
    assert fetch(tmp_path, f"oci:{write_layout(tmp_path / 'l', {'': IMAGE})}") == FILES
    assert fetch(tmp_path, f"oci:{write_layout(tmp_path / 'm', {'x': IMAGE})}") == FILES


def test_which_image(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "l", {"one": IMAGE, "two": OTHER})
    with pytest.raises(ImageError, match="has 2 images; name one") as caught:
        fetch(tmp_path, f"oci:{layout}")
    assert caught.value.hint == "it has `one`, `two`"
    with pytest.raises(ImageError, match="has no such image"):
        fetch(tmp_path, f"oci:{layout}:three")


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress], ids=["plain", "gzip"])
def test_archive(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "l", {"one": IMAGE})
    path = tmp_path / "archive.tar"
    path.write_bytes(pack(archive_of(layout)))
    assert fetch(tmp_path, f"oci-archive:{path}:one") == FILES


def blobs_of(layout: Path) -> list[Path]:
    return sorted((layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), "is damaged"),
        (lambda path: path.write_bytes(b""), "has 0 bytes instead|is damaged"),
        (lambda path: path.unlink(), "is missing"),
    ],
)
def test_damaged_blobs(damage: Callable[[Path], Any], says: str, tmp_path: Path) -> None:
    for number in range(len(IMAGE.blobs)):
        layout = write_layout(tmp_path / f"l{number}", {"": IMAGE})
        damage(blobs_of(layout)[number])
        with pytest.raises(ImageError, match=says):
            fetch(tmp_path, f"oci:{layout}")


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ("{", "is not JSON"),
        ("{}", "no such image"),
        ('{"manifests": [1]}', "is malformed"),
        ('{"manifests": [{"digest": "sha256:../../../etc/passwd"}]}', "is malformed"),
    ],
)
def test_malformed_index(index: str, says: str, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "l", {"": IMAGE})
    (layout / "index.json").write_text(index)
    with pytest.raises(ImageError, match=says):
        fetch(tmp_path, f"oci:{layout}")


def move_out(path: Path, target: Path) -> None:
    """Leave a link at `path` to what was there."""
    path.rename(target)
    path.symlink_to(target)


@pytest.mark.parametrize(
    "name", ["index.json", "blobs", "blobs/sha256", "blobs/sha256/MANIFEST", "blobs/sha256/LAYER"]
)
@pytest.mark.parametrize("relative", [False, True])
def test_what_links_out_of_the_layout_is_not_read(
    tmp_path: Path, name: str, relative: bool
) -> None:
    layout = write_layout(tmp_path / "l", {"": IMAGE})
    layer = next(value for value in IMAGE.blobs if value != IMAGE.digest)
    for word, value in (("MANIFEST", IMAGE.digest), ("LAYER", layer)):
        name = name.replace(word, value.removeprefix("sha256:"))
    path, target = layout / name, tmp_path / "outside"
    move_out(path, target)
    if relative:
        path.unlink()
        path.symlink_to(f"{'../' * len(Path(name).parts)}outside")
    with pytest.raises(ImageError, match="which is not in its layout") as caught:
        fetch(tmp_path, f"oci:{layout}")
    assert str(path) in caught.value.message
    assert "cp -rL" in caught.value.hint


def test_links_inside_the_layout_are_followed(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "l", {"": IMAGE})
    move_out(layout / "blobs/sha256", layout / "store")
    (layout / "blobs/sha256").unlink()
    (layout / "blobs/sha256").symlink_to("../store")
    (layout / "index.json").rename(layout / "real.json")
    (layout / "index.json").symlink_to("/real.json")  # as if the layout were `/`
    assert fetch(tmp_path, f"oci:{layout}") == FILES


@pytest.mark.parametrize("kind", ["directory", "pipe", "loop"])
def test_what_is_no_file_in_a_layout(tmp_path: Path, kind: str) -> None:
    layout = write_layout(tmp_path / "l", {"": IMAGE})
    for name in ("index.json", f"blobs/sha256/{IMAGE.digest.removeprefix('sha256:')}"):
        path = layout / name
        data = path.read_bytes()
        path.unlink()
        if kind == "directory":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(path.name)
        with pytest.raises(ImageError, match=r"is missing|has no `index.json`|is a loop"):
            fetch(tmp_path, f"oci:{layout}")
        path.rmdir() if kind == "directory" else path.unlink()
        path.write_bytes(data)
    assert fetch(tmp_path, f"oci:{layout}") == FILES


@pytest.mark.parametrize("link", [symlink, hardlink])
def test_an_archive_s_links_lead_to_members_only(
    tmp_path: Path, link: Callable[..., tuple[Any, bytes]]
) -> None:
    layout = write_layout(tmp_path / "l", {"": IMAGE})
    path, outside = tmp_path / "x.tar", tmp_path / "outside"
    outside.write_bytes((layout / "index.json").read_bytes())
    for target in (str(outside), "../outside", "index.json", "a"):
        path.write_bytes(make_tar(link("index.json", target), link("a", "index.json")))
        with pytest.raises(ImageError, match=r"no `index.json`"):
            fetch(tmp_path, f"oci-archive:{path}")
    files = [(p, str(p.relative_to(layout))) for p in layout.rglob("*") if p.is_file()]
    members = [member(f"r/{name}", p.read_bytes()) for p, name in files]
    links = [link(name, target) for _, name in files for target in [f"s/{name}"]]
    more = [symlink(f"s/{name}", os.path.relpath(f"r/{name}", f"s/{name}/..")) for _, name in files]
    if link is symlink:
        links = [symlink(name, os.path.relpath(f"s/{name}", f"{name}/..")) for _, name in files]
    path.write_bytes(make_tar(*members, *more, *links))
    assert fetch(tmp_path, f"oci-archive:{path}") == FILES


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_an_archive_that_is_no_file(tmp_path: Path, kind: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(ImageError, match=r"it is a (FIFO|directory)"):
            fetch(tmp_path, f"{kind}:{tmp_path}/{name}")


@pytest.mark.parametrize("kind", ["oci", "oci-archive", "docker-archive"])
def test_not_there(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"is not a directory|there is no"):
        fetch(tmp_path, f"{kind}:{tmp_path}/none")


@pytest.mark.parametrize(
    ("kind", "says"), [("oci-archive", "no `index.json`"), ("docker-archive", "no `manifest.json`")]
)
def test_another_archive(kind: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(make_tar(member("x", b"")))
    with pytest.raises(ImageError, match=says):
        fetch(tmp_path, f"{kind}:{path}")


def docker_archive(path: Path, *, layers: list[bytes], diff_ids: list[str], tag: str) -> Path:
    system, architecture = host_platform().split("/")
    config = {
        "os": system,
        "architecture": architecture,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    entry = {
        "Config": "config.json",
        "RepoTags": [tag],
        "Layers": [f"{number}/layer.tar" for number in range(len(layers))],
    }
    path.write_bytes(
        make_tar(
            member("config.json", json.dumps(config).encode()),
            *(member(f"{n}/layer.tar", data) for n, data in enumerate(layers) if data),
            *(
                symlink(f"{n}/layer.tar", "../0/layer.tar")
                for n, data in enumerate(layers)
                if not data
            ),
            member("manifest.json", json.dumps([entry]).encode()),
        )
    )
    return path


LOWER, UPPER = make_tar(member("a", b"1")), make_tar(member("b", b"2"))


@pytest.mark.parametrize("tag", ["", ":1.0", ":name:1.0"])
def test_docker_archive(tag: str, tmp_path: Path) -> None:
    path = docker_archive(
        tmp_path / "x.tar",
        layers=[LOWER, gzip.compress(UPPER), b""],
        diff_ids=[digest(LOWER), digest(UPPER), digest(LOWER)],
        tag="name:1.0",
    )
    assert fetch(tmp_path, f"docker-archive:{path}{tag}") == FILES


def test_damaged_docker_archive(tmp_path: Path) -> None:
    ids = [digest(LOWER), digest(UPPER)]
    path = docker_archive(tmp_path / "x.tar", layers=[LOWER, LOWER], diff_ids=ids, tag="x:1")
    with pytest.raises(ImageError, match="is damaged"):
        fetch(tmp_path, f"docker-archive:{path}")
    path = docker_archive(tmp_path / "y.tar", layers=[LOWER], diff_ids=ids, tag="x:1")
    with pytest.raises(ImageError, match="does not fit its 1 layers"):
        fetch(tmp_path, f"docker-archive:{path}")
