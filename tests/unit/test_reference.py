"""The grammar of kernels' names: what each means, and what means nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from vimto.errors import KernelError
from vimto.kernel.reference import (
    AptKernel,
    DirectoryKernel,
    FileKernel,
    HostKernel,
    KernelReference,
    LayoutReference,
    RegistryReference,
    parse_image,
    parse_kernel,
)
from vimto.oci.session import is_loopback

DIGEST = "sha256:" + "0a" * 32
HERE = [Path("/nonexistent")]


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
        ("ghcr.io/a/b:6.6", RegistryReference("ghcr.io", "a/b", "6.6")),
        ("localhost:5000/b", RegistryReference("localhost:5000", "b", "latest")),
        ("name", RegistryReference("docker.io", "library/name", "latest")),
    ],
)
def test_references(text: str, expected: KernelReference, tmp_path: Path) -> None:
    assert parse_kernel(text, directories=[tmp_path]) == expected


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("alpine", "docker.io/library/alpine:latest"),
        ("alpine:3", "docker.io/library/alpine:3"),
        ("user/name", "docker.io/user/name:latest"),
        ("docker.io/alpine", "docker.io/library/alpine:latest"),
        ("index.docker.io/user/name:1", "docker.io/user/name:1"),
        ("reg.example/cilium/ci-kernels:6.6", "reg.example/cilium/ci-kernels:6.6"),
        ("reg.example:5000/a/b/c", "reg.example:5000/a/b/c:latest"),
        ("localhost/name:x", "localhost/name:x"),
        ("host:5000/name", "host:5000/name:latest"),
        ("[::1]:5000/name:t", "[::1]:5000/name:t"),
        ("[2001:db8::1]/name", "[2001:db8::1]/name:latest"),
        (f"reg.example/name@{DIGEST}", f"reg.example/name@{DIGEST}"),
        (f"reg.example/name:6.6@{DIGEST}", f"reg.example/name:6.6@{DIGEST}"),
        ("reg.example/a__b/c-d.e:1", "reg.example/a__b/c-d.e:1"),
    ],
)
def test_images(text: str, canonical: str) -> None:
    reference = parse_kernel(text, directories=HERE)
    assert str(reference) == canonical
    assert parse_kernel(canonical, directories=HERE) == reference


NOT_IMAGES = [
    ("ghcr.io/..//x", "cannot be part of a name"),
    ("ghcr.io//x", "cannot be part of a name"),
    ("reg.example/", "1 to 255"),
    ("reg.example/Name", "cannot be part of a name"),
    ("reg.example/name:", "is not a tag"),
    ("reg.example/name:a b", "is not a tag"),
    ("reg.example/name:" + "x" * 129, "is not a tag"),
    ("reg.example/name\n", "cannot be part of a name"),
    ("reg.example/" + "a" * 256, "1 to 255"),
    ("reg_example.x/name", "is not a valid host"),
    ("reg.example:99999/name", "is not a valid port"),
    ("https://reg.example/name", "scheme"),
    ("oci://reg.example/name", "scheme"),
    ("reg.example/name@sha256:12", "64"),
    ("reg.example/name@md5:" + "0" * 64, "64"),
    (f"reg.example/name@{DIGEST.upper()}", "64"),
    ("user@reg.example/name", "64"),
    ("oci:", "needs a path"),
    ("oci::tag", "needs a path"),
    ("a b", "cannot be part of a name"),
    ("ä", "cannot be part of a name"),
    (":", "is not a tag"),
    (":a b", "is not a tag"),
    (":a/b", "is not a tag"),
    (":a@sha256:12", "is not a tag"),
]


@pytest.mark.parametrize("parse", [parse_image, parse_kernel])
@pytest.mark.parametrize(("text", "says"), NOT_IMAGES)
def test_what_is_no_image(parse: Callable[..., object], text: str, says: str) -> None:
    with pytest.raises(KernelError, match=says):
        parse(text, configured="reg.example/name", directories=HERE)


@pytest.mark.parametrize("text", ["./missing", "../up", "/boot/vmlinuz", "~/linux", ".hidden"])
def test_a_path_is_never_an_image(text: str) -> None:
    with pytest.raises(KernelError, match="is a path"):
        parse_image(text)


@pytest.mark.parametrize("text", ["", "apt:", "apt:../x", "apt:a/b/c"])
def test_what_is_no_kernel(text: str) -> None:
    with pytest.raises(KernelError):
        parse_kernel(text, directories=HERE)


def test_paths_are_relative_to_the_directory(place: Path) -> None:
    file = FileKernel(path=place / "sub/bzImage")
    for text in ("./sub/bzImage", "sub/bzImage", str(place / "sub/bzImage")):
        assert parse_kernel(text, directories=[place]) == file
    linux = DirectoryKernel(path=place / "sub/linux")
    assert parse_kernel("./sub/linux", directories=[place]) == linux
    # A bare word could be an image; only a slash makes it a path.
    assert isinstance(parse_kernel("bzimage", directories=[place]), RegistryReference)


def test_a_layout_by_its_whole_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="does not exist") as caught:
        parse_kernel(f"oci:{tmp_path}/nothing", directories=[tmp_path])
    assert caught.value.hint == ""  # nothing that was not written already


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("./bzImage", "bzImage"),
        ("linux/../bzImage", "sub/linux/../bzImage"),
        ("sub/bzImage", "sub/bzImage"),
        ("oci:layout:odd", "layout:odd"),
        ("oci:linux:tag", "sub/linux"),
        ("docker-archive:image.tar:name:1", "image.tar"),
        ("./nothing", None),
        ("oci:nothing:tag", None),
    ],
)
def test_the_first_directory_that_has_it(place: Path, text: str, found: str | None) -> None:
    (place / "sub/bzImage").rename(place / "sub/linux/bzImage")
    (place / "sub/bzImage").symlink_to("linux/bzImage")
    (place / "sub/bzImage").unlink() if text == "./bzImage" else None
    directories = [place / "sub", place]
    if found is None:
        with pytest.raises(KernelError, match="does not exist") as caught:
            parse_kernel(text, directories=directories)
        assert caught.value.hint == f"it would be `{place}/sub/nothing`"
    else:
        reference = parse_kernel(text, directories=directories)
        assert isinstance(reference, FileKernel | DirectoryKernel | LayoutReference)
        assert reference.path == place / found


def test_home_is_expanded(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(place))
    file = FileKernel(path=place / "sub/bzImage")
    assert parse_kernel("~/sub/bzImage", directories=HERE) == file


@pytest.mark.parametrize("text", ["/nonexistent/bzImage", "./nothing", "../nothing", "~/nothing"])
def test_a_path_without_a_file_is_never_an_image(text: str, tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="does not exist"):
        parse_kernel(text, directories=[tmp_path])


def test_the_home_directory_of_nobody(tmp_path: Path) -> None:
    with pytest.raises(KernelError) as caught:
        parse_kernel("~no-such-user/bzImage", directories=[tmp_path])
    assert caught.value.message == "the kernel `~no-such-user/bzImage` does not exist"
    assert caught.value.hint.startswith("`~no-such-user` is not the home directory of a user")


@pytest.mark.parametrize(
    ("text", "kind", "path", "tag"),
    [
        ("oci:sub", "oci", "sub", ""),
        ("oci:sub/../sub", "oci", "sub", ""),
        ("oci:sub:6.6", "oci", "sub", "6.6"),
        ("oci:layout:odd", "oci", "layout:odd", ""),
        ("oci:layout:odd:1", "oci", "layout:odd", "1"),
        ("docker-archive:image.tar:name:1", "docker-archive", "image.tar", "name:1"),
        ("oci-archive:image.tar:x", "oci-archive", "image.tar", "x"),
    ],
)
def test_layouts(place: Path, text: str, kind: str, path: str, tag: str) -> None:
    expected = LayoutReference(kind=kind, path=place / path, tag=tag)
    assert parse_kernel(text, directories=[place]) == expected


def test_a_layout_that_is_gone_has_a_name_still(place: Path) -> None:
    with pytest.raises(KernelError, match="does not exist"):
        parse_kernel("docker-archive:nothing.tar:x", directories=[place])
    gone = LayoutReference(kind="docker-archive", path=place / "nothing.tar", tag="x")
    assert parse_image("docker-archive:nothing.tar:x", directories=[place]) == gone


@pytest.mark.parametrize(
    ("text", "configured", "expected"),
    [
        (":6.6", "ghcr.io/a/b:stable", "ghcr.io/a/b:6.6"),
        (":6.6", "ghcr.io/a/b", "ghcr.io/a/b:6.6"),
        (":6.6", "localhost:5000/b", "localhost:5000/b:6.6"),
        (":6.6", "localhost:5000/b:x", "localhost:5000/b:6.6"),
        (":6.6", f"ghcr.io/a/b:x@{DIGEST}", "ghcr.io/a/b:6.6"),
        (":6.6", f"ghcr.io/a/b@{DIGEST}", "ghcr.io/a/b:6.6"),
        (f":6.6@{DIGEST}", "a/b", f"docker.io/a/b:6.6@{DIGEST}"),
        (":6.6", "oci:/nonexistent/sub:x", "oci:/nonexistent/sub:6.6"),
        (":6.6", "docker-archive:/x:a/b:stable", "docker-archive:/x:a/b:6.6"),
        (":6.6", "docker-archive:/x:stable", "docker-archive:/x:6.6"),
        (":6.6", "docker-archive:/x", "docker-archive:/x:6.6"),
    ],
)
def test_a_tag_replaces_the_configured_one(text: str, configured: str, expected: str) -> None:
    assert str(parse_image(text, configured=configured, directories=HERE)) == expected


@pytest.mark.parametrize(
    "configured", ["", "host", "/boot/vmlinuz", "./x", "apt:linux-image-amd64", ":5"]
)
def test_a_tag_needs_a_configured_image(configured: str, tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="configured") as caught:
        parse_kernel(":6.6", configured=configured, directories=[tmp_path])
    assert configured or ".vimto.toml" in caught.value.hint


def test_an_image_on_disk_has_no_digest_to_replace() -> None:
    """Asked for by digest, it could be another one that has the tag."""
    with pytest.raises(KernelError, match="has a digest, and the configured kernel `oci:/x:a` is"):
        parse_image(f":6.6@{DIGEST}", configured="oci:/x:a", directories=HERE)


def test_docker_io_has_another_host() -> None:
    reference = parse_image("alpine")
    assert isinstance(reference, RegistryReference)
    assert reference.api_host == "registry-1.docker.io"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("reg.localhost", True),
        ("127.0.0.1:5000", True),
        ("127.8.9.10", True),
        ("[::1]:5000", True),
        ("127.0.0.1.example", False),
        ("127.example", False),
        ("localhost.example", False),
        ("10.0.0.1", False),
        ("[::2]", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
