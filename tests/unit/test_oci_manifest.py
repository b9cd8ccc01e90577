"""Manifests and indexes that strangers wrote."""

import json
from typing import Any

import pytest

from tests.unit.oci_parts import descriptor, make_image, make_index, make_tar
from vimto.errors import ImageError
from vimto.oci.manifest import (
    DOCKER_LIST,
    Descriptor,
    Index,
    Manifest,
    check_config,
    choose_platform,
    host_platform,
    parse_manifest,
)

GOOD = json.loads(make_image(make_tar()).manifest)


def parse(**changes: Any) -> Manifest | Index:
    return parse_manifest(json.dumps(GOOD | changes).encode(), "`x`")


def test_image() -> None:
    made = make_image(make_tar(), b"another")
    found = parse_manifest(made.manifest, "`x`")
    assert isinstance(found, Manifest)
    assert found.digest == made.digest
    assert [layer.size for layer in found.layers] == [
        len(made.blobs[layer.digest]) for layer in found.layers
    ]


@pytest.mark.parametrize(
    "kind",
    [
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ],
)
def test_layer_types(kind: str) -> None:
    parse(layers=[descriptor(kind, b"")])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"schemaVersion": 1}, "is not an image manifest"),
        ({"schemaVersion": 1, "fsLayers": []}, "schema 1"),
        ({"mediaType": "text/html"}, "unknown type `text/html`"),
        ({"layers": "x"}, "is not an image manifest"),
        ({"layers": None}, "is not an image manifest"),
        ({"layers": [descriptor("application/wasm", b"")]}, "layer of type `application/wasm`"),
        ({"layers": [GOOD["layers"][0] | {"digest": "sha256:../../x"}]}, "malformed digest"),
        ({"layers": [GOOD["layers"][0] | {"digest": None}]}, "malformed digest"),
        ({"layers": [GOOD["layers"][0] | {"size": -1}]}, "malformed size"),
        ({"layers": [GOOD["layers"][0] | {"size": "1"}]}, "malformed size"),
        ({"layers": [GOOD["layers"][0] | {"size": True}]}, "malformed size"),
        ({"layers": [5]}, "malformed descriptor"),
        ({"layers": GOOD["layers"] * 513}, "513 layers"),
        ({"config": None}, "malformed descriptor"),
    ],
)
def test_malformed(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ImageError, match=says):
        parse(**changes)


@pytest.mark.parametrize("data", [b"", b"<!doctype html>", b"[]", b"\xff", b"[" * 100_000])
def test_not_json(data: bytes) -> None:
    with pytest.raises(ImageError, match="JSON"):
        parse_manifest(data, "`x`")


def test_registry_errors_are_shown() -> None:
    data = json.dumps({"errors": [{"code": "DENIED", "message": "not for you"}]}).encode()
    with pytest.raises(ImageError) as caught:
        parse_manifest(data, "`x`")
    assert caught.value.lines == ("not for you",)


@pytest.mark.parametrize("kind", ["application/vnd.oci.image.index.v1+json", DOCKER_LIST])
def test_platform(kind: str) -> None:
    images = {
        "unknown/unknown": make_image(b"attestation"),
        "linux/arm64/v8": make_image(b"arm"),
        "linux/amd64": make_image(b"amd"),
    }
    index = parse_manifest(make_index(images, kind).manifest, "`x`")
    assert isinstance(index, Index)
    assert choose_platform(index, "linux/amd64", "`x`").digest == images["linux/amd64"].digest
    assert choose_platform(index, "linux/arm64", "`x`").digest == images["linux/arm64/v8"].digest
    with pytest.raises(ImageError, match="no image for linux/riscv64") as caught:
        choose_platform(index, "linux/riscv64", "`x`")
    assert caught.value.hint == "it has linux/amd64, linux/arm64/v8"


def test_one_image_without_platform() -> None:
    made = make_image(b"only")
    index = Index(digest=made.digest, entries=(("", Descriptor(**fields(made.manifest))),))
    assert choose_platform(index, "linux/amd64", "`x`").digest == made.digest
    with pytest.raises(ImageError, match="no image for linux/amd64") as caught:
        choose_platform(Index(digest="", entries=()), "linux/amd64", "`x`")
    assert caught.value.hint == "it has none at all"


def fields(data: bytes) -> dict[str, Any]:
    value = descriptor("x", data)
    return {"media_type": value["mediaType"], "digest": value["digest"], "size": value["size"]}


def test_config_of_another_platform() -> None:
    found = parse_manifest(make_image(platform="linux/s390x").manifest, "`x`")
    assert isinstance(found, Manifest)
    data = json.dumps({"os": "linux", "architecture": "s390x"}).encode()
    with pytest.raises(ImageError, match="is for linux/s390x, not for linux/amd64"):
        check_config(found.config, data, "linux/amd64", "`x`")
    check_config(found.config, b"{}", host_platform(), "`x`")
