from pathlib import Path

import pytest

from vimto.errors import KernelError
from vimto.kernel.reference import (
    AptKernel,
    DirectoryKernel,
    FileKernel,
    HostKernel,
    ImageKernel,
    KernelReference,
    LayoutKernel,
    parse_kernel,
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "sub/linux").mkdir(parents=True)
    (tmp_path / "sub/bzImage").write_text("")
    (tmp_path / "layout:odd").mkdir()
    (tmp_path / "image.tar").write_text("")
    (tmp_path / "bzImage").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host", HostKernel()),
        ("apt:linux-image-amd64", AptKernel(package="linux-image-amd64")),
        ("apt:linux-image-amd64/sid", AptKernel(package="linux-image-amd64", release="sid")),
        (
            "apt:linux-image-6.12.117+deb12-amd64=6.12.117-1~deb12u1",
            AptKernel(package="linux-image-6.12.117+deb12-amd64", version="6.12.117-1~deb12u1"),
        ),
        ("ghcr.io/a/b:6.6", ImageKernel(text="ghcr.io/a/b:6.6")),
        ("localhost:5000/b", ImageKernel(text="localhost:5000/b")),
        ("name", ImageKernel(text="name")),
    ],
)
def test_references(text: str, expected: KernelReference, tmp_path: Path) -> None:
    assert parse_kernel(text, directory=tmp_path) == expected


def test_paths_are_relative_to_the_directory(place: Path) -> None:
    file = FileKernel(path=place / "sub/bzImage")
    assert parse_kernel("./sub/bzImage", directory=place) == file
    assert parse_kernel("sub/bzImage", directory=place) == file
    assert parse_kernel(str(place / "sub/bzImage"), directory=Path("/")) == file
    assert parse_kernel("./sub/linux", directory=place) == DirectoryKernel(path=place / "sub/linux")
    # A bare word could be an image; only a slash makes it a path.
    assert parse_kernel("bzImage", directory=place) == ImageKernel(text="bzImage")


def test_home_is_expanded(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(place))
    assert parse_kernel("~/sub/bzImage", directory=Path("/")) == FileKernel(
        path=place / "sub/bzImage"
    )


@pytest.mark.parametrize("text", ["/nonexistent/bzImage", "./nothing", "../nothing", "~/nothing"])
def test_a_path_without_a_file_is_never_an_image(text: str, tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="does not exist"):
        parse_kernel(text, directory=tmp_path)


def test_layouts(place: Path) -> None:
    sub = place / "sub"
    assert parse_kernel("oci:sub", directory=place) == LayoutKernel(kind="oci", path=sub)
    assert parse_kernel("oci:sub:6.6", directory=place) == LayoutKernel(
        kind="oci", path=sub, tag="6.6"
    )
    assert parse_kernel("oci:layout:odd", directory=place) == LayoutKernel(
        kind="oci", path=place / "layout:odd"
    )
    archive = place / "image.tar"
    assert parse_kernel("docker-archive:image.tar:name:1", directory=place) == LayoutKernel(
        kind="docker-archive", path=archive, tag="name:1"
    )
    assert parse_kernel("oci-archive:image.tar:x", directory=place) == LayoutKernel(
        kind="oci-archive", path=place / "image.tar", tag="x"
    )
    with pytest.raises(KernelError, match="does not exist"):
        parse_kernel("docker-archive:nothing.tar:x", directory=place)


@pytest.mark.parametrize(
    ("text", "configured", "expected"),
    [
        (":6.6", "ghcr.io/a/b:stable", "ghcr.io/a/b:6.6"),
        (":6.6", "ghcr.io/a/b", "ghcr.io/a/b:6.6"),
        (":6.6", "localhost:5000/b", "localhost:5000/b:6.6"),
        (":6.6", "localhost:5000/b:x", "localhost:5000/b:6.6"),
        (":6.6", f"ghcr.io/a/b:x@sha256:{'a' * 64}", "ghcr.io/a/b:6.6"),
        (":6.6", f"ghcr.io/a/b@sha256:{'a' * 64}", "ghcr.io/a/b:6.6"),
        (f":6.6@sha256:{'b' * 64}", "a/b", f"a/b:6.6@sha256:{'b' * 64}"),
    ],
)
def test_a_tag_replaces_the_configured_one(
    text: str, configured: str, expected: str, tmp_path: Path
) -> None:
    found = parse_kernel(text, configured=configured, directory=tmp_path)
    assert found == ImageKernel(text=expected)


@pytest.mark.parametrize("configured", ["", "host", "/boot/vmlinuz", "apt:linux-image-amd64"])
def test_a_tag_needs_a_configured_image(configured: str, tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="configured"):
        parse_kernel(":6.6", configured=configured, directory=tmp_path)


@pytest.mark.parametrize("text", ["", "a b", "apt:", "apt:../x", "apt:a/b/c", ":", ":a b", "ä"])
def test_nonsense_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(KernelError):
        parse_kernel(text, configured="a/b", directory=tmp_path)
