"""Names of images: what they mean, and what is none."""

from pathlib import Path

import pytest

from vimto.errors import UsageError
from vimto.oci.reference import LayoutReference, have_loopback, parse_reference

DIGEST = "sha256:" + "0a" * 32


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
def test_registry(text: str, canonical: str) -> None:
    reference = parse_reference(text)
    assert str(reference) == canonical
    assert parse_reference(canonical) == reference


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("./missing", "is a path"),
        ("../up", "is a path"),
        ("/boot/vmlinuz", "is a path"),
        ("~/linux", "is a path"),
        ("ghcr.io/..//x", "cannot be part of a name"),
        ("ghcr.io//x", "cannot be part of a name"),
        ("reg.example/", "1 to 255"),
        ("", "1 to 255"),
        ("reg.example/Name", "cannot be part of a name"),
        ("reg.example/name:", "is no tag"),
        ("reg.example/name:a b", "is no tag"),
        ("reg.example/name:" + "x" * 129, "is no tag"),
        ("reg.example/name\n", "cannot be part of a name"),
        ("reg.example/" + "a" * 256, "1 to 255"),
        ("reg_example.x/name", "is no host"),
        ("reg.example:99999/name", "is no port"),
        ("https://reg.example/name", "scheme"),
        ("reg.example/name@sha256:12", "64"),
        ("reg.example/name@md5:" + "0" * 64, "64"),
        (f"reg.example/name@{DIGEST.upper()}", "64"),
        ("user@reg.example/name", "64"),
        ("oci:", "needs a path"),
    ],
)
def test_not_a_reference(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_reference(text)


@pytest.mark.parametrize(
    ("configured", "canonical"),
    [
        ("reg.example:5000/name:6.6", "reg.example:5000/name:5.15"),
        (f"reg.example/name:1@{DIGEST}", "reg.example/name:5.15"),
        ("reg.example/name", "reg.example/name:5.15"),
    ],
)
def test_tag_replaces(configured: str, canonical: str) -> None:
    assert str(parse_reference(":5.15", configured=configured)) == canonical


def test_tag_replaces_nothing() -> None:
    with pytest.raises(UsageError, match="none is configured") as caught:
        parse_reference(":5.15")
    assert ".vimto.toml" in caught.value.hint
    with pytest.raises(UsageError, match="is no tag"):
        parse_reference(":a/b", configured="reg.example/name")


def test_layouts(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    (tmp_path / "file.tar").touch()
    assert parse_reference(f"oci:{tmp_path}/a:b") == LayoutReference(
        kind="oci", path=tmp_path / "a:b"
    )
    assert parse_reference(f"oci:{tmp_path}/a:b:1") == LayoutReference(
        kind="oci", path=tmp_path / "a:b", tag="1"
    )
    assert parse_reference(f"docker-archive:{tmp_path}/file.tar:name:tag") == LayoutReference(
        kind="docker-archive", path=tmp_path / "file.tar", tag="name:tag"
    )
    missing = parse_reference(f"oci-archive:{tmp_path}/none:1")
    assert missing == LayoutReference(kind="oci-archive", path=tmp_path / "none", tag="1")


def test_layout_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_reference("oci:layout") == LayoutReference(kind="oci", path=tmp_path / "layout")


def test_docker_io_has_another_host() -> None:
    reference = parse_reference("alpine")
    assert not isinstance(reference, LayoutReference)
    assert reference.api_host == "registry-1.docker.io"


@pytest.mark.parametrize(
    ("host", "is_loopback"),
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
def test_loopback(host: str, is_loopback: bool) -> None:
    assert have_loopback(host) is is_loopback
