"""Pulling from a real registry: kinds of images, credentials, and the cache before it."""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import need
from tests.oci.servers import Proxy, TokenServer, docker_registry, push
from tests.unit.oci_parts import (
    ImageConfig,
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
from vimto.errors import ImageError
from vimto.kernel.reference import RegistryReference, parse_image
from vimto.oci.manifest import DOCKER_LIST, host_platform
from vimto.oci.pull import look_up_image

IMAGE = make_image(
    make_tar(member("a", b"old"), member("gone", b""), symlink("lib", "usr/lib")),
    make_tar(member("a", b"new"), member(".wh.gone"), member("lib/m", b"module")),
)
FILES = {"a": "new", "lib": "-> usr/lib", "usr": "/", "usr/lib": "/", "usr/lib/m": "module"}
OTHER = make_image(make_tar(member("b", b"other")))


def test_image(registry: str, settings: ImageConfig, capfd: pytest.CaptureFixture[str]) -> None:
    name = push(registry, "kinds/image", "1", IMAGE)
    image = fetch_image(name, settings)
    assert image.digest == IMAGE.digest
    assert tree(image.root) == FILES
    assert f"pulling {name}" in capfd.readouterr().err
    assert find_image(name, settings) == image
    assert fetch_image(name, settings).root == image.root
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["application/vnd.oci.image.index.v1+json", DOCKER_LIST])
def test_index(kind: str, registry: str, settings: ImageConfig) -> None:
    images = {"linux/s390x": OTHER, host_platform(): IMAGE}
    index = make_index(images, kind)
    name = push(registry, "kinds/index", str(len(kind)), index)
    assert fetch_image(name, settings).digest == IMAGE.digest
    # By the digest of the index, and by that of the image in it.
    for digest in (index.digest, IMAGE.digest):
        named = f"{registry}/kinds/index@{digest}"
        assert fetch_image(named, settings).digest == IMAGE.digest


def test_what_is_looked_up_is_found_when_it_has_come_from_elsewhere(
    registry: str, settings: ImageConfig, hurt: Proxy, tmp_path: Path
) -> None:
    """As it does from a CI's cache, whose key has the digest."""
    push(registry, "kinds/known", "1", make_index({host_platform(): IMAGE}))
    reference = parse_image(f"{hurt.host}/kinds/known:1")
    assert isinstance(reference, RegistryReference)
    assert look_up_image(reference, settings) == IMAGE.digest
    assert hurt.seen("/blobs/") == []
    assert find_image(str(reference), settings) is None
    elsewhere = replace(settings, cache_dir=tmp_path / "elsewhere")
    place = fetch_image(str(reference), elsewhere).root.parent
    shutil.copytree(place, settings.cache_dir / "images" / place.name, symlinks=True)
    asked = len(hurt.requests)
    found = fetch_image(str(reference), settings)
    assert found.digest == IMAGE.digest and tree(found.root) == FILES
    assert len(hurt.requests) == asked


def test_platform_that_is_missing(registry: str, settings: ImageConfig) -> None:
    name = push(registry, "kinds/foreign", "1", make_index({"linux/s390x": OTHER}))
    with pytest.raises(ImageError, match="has no image for") as caught:
        fetch_image(name, settings)
    assert caught.value.hint == "it has linux/s390x"


@pytest.mark.parametrize(
    "words",
    [
        ["--format", "v2s2"],
        ["--format", "oci"],
        ["--dest-compress-format", "zstd", "--format", "oci"],
        ["--dest-decompress", "--format", "oci"],
    ],
    ids=["docker", "oci", "zstd", "plain"],
)
def test_made_by_skopeo(
    words: list[str], registry: str, settings: ImageConfig, tmp_path: Path
) -> None:
    need("skopeo")
    layout = write_layout(tmp_path / "l", {"1": IMAGE})
    copy = tmp_path / "copy"
    copied = [f"oci:{layout}:1", f"oci:{copy}:1" if "v2s2" not in words else f"dir:{copy}"]
    subprocess.run(["skopeo", "copy", "-q", *words, *copied], check=True)
    name = f"{registry}/skopeo/{'-'.join(words).strip('-')}:1"
    target = ["--dest-tls-verify=false", copied[1], f"docker://{name}"]
    subprocess.run(["skopeo", "copy", "-q", *target], check=True)
    assert tree(fetch_image(name, settings).root) == FILES


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_archives_made_by_skopeo(kind: str, settings: ImageConfig, tmp_path: Path) -> None:
    need("skopeo")
    layout = write_layout(tmp_path / "l", {"1": IMAGE})
    archive = f"{kind}:{tmp_path}/archive.tar:name:1"
    subprocess.run(["skopeo", "copy", "-q", f"oci:{layout}:1", archive], check=True)
    assert tree(fetch_image(archive, settings).root) == FILES


def test_made_by_umoci(registry: str, settings: ImageConfig, tmp_path: Path) -> None:
    need("skopeo", "umoci")
    layout, bundle = tmp_path / "l", tmp_path / "bundle"

    def umoci(*words: str) -> None:
        # `repack` knows from the bundle how it was unpacked.
        root = ["--rootless"] if os.geteuid() != 0 and words[0] == "unpack" else []
        subprocess.run(["umoci", words[0], *root, *words[1:]], check=True, capture_output=True)

    umoci("init", "--layout", str(layout))
    umoci("new", "--image", f"{layout}:1")
    umoci("unpack", "--image", f"{layout}:1", str(bundle))
    root = bundle / "rootfs"
    (root / "d/sub").mkdir(parents=True)
    (root / "d/sub/file").write_text("x")
    (root / "keep").write_text("first")
    os.link(root / "keep", root / "again")
    umoci("repack", "--refresh-bundle", "--image", f"{layout}:1", str(bundle))
    (root / "d/sub/file").unlink()
    (root / "d/sub").rmdir()
    (root / "keep").unlink()
    (root / "keep").write_text("second")
    umoci("repack", "--image", f"{layout}:1", str(bundle))
    name = f"{registry}/umoci:1"
    target = ["--dest-tls-verify=false", f"oci:{layout}:1", f"docker://{name}"]
    subprocess.run(["skopeo", "copy", "-q", *target], check=True)
    expected = {"again": "first", "d": "/", "keep": "second"}
    assert tree(fetch_image(name, settings).root) == expected
    assert tree(fetch_image(f"oci:{layout}:1", settings).root) == expected


@pytest.mark.parametrize(
    "missing", ["other:1", "kinds/image:none", "kinds/image@sha256:" + "0" * 64]
)
def test_not_there(missing: str, registry: str, settings: ImageConfig) -> None:
    push(registry, "kinds/image", "1", IMAGE)
    with pytest.raises(ImageError, match="does not exist in the registry"):
        fetch_image(f"{registry}/{missing}", settings)


def login(home: Path, host: str, **entry: str) -> None:
    (home / "config.json").write_text(json.dumps({"auths": {host: entry}}))


def basic(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_basic_auth(guarded: str, settings: ImageConfig, no_credentials: Path) -> None:
    name = push(guarded, "private", "1", IMAGE, f"Basic {basic('user:pass:word')}")
    with pytest.raises(ImageError, match="denies access to `private`") as caught:
        fetch_image(name, settings)
    assert f"docker login {guarded}" in caught.value.hint
    login(no_credentials, guarded, auth=basic("user:wrong"))
    with pytest.raises(ImageError, match="denies access") as caught:
        fetch_image(name, settings)
    assert str(no_credentials / "config.json") in caught.value.hint
    login(no_credentials, guarded, auth=basic("user:pass:word"))
    assert tree(fetch_image(name, settings).root) == FILES


def test_netrc_does_not_interfere(
    guarded: str, settings: ImageConfig, no_credentials: Path
) -> None:
    name = push(guarded, "netrc", "1", IMAGE, f"Basic {basic('user:pass:word')}")
    netrc = no_credentials / ".netrc"
    netrc.write_text(f"machine {guarded.partition(':')[0]} login user password wrong\n")
    netrc.chmod(0o600)
    login(no_credentials, guarded, auth=basic("user:pass:word"))
    assert tree(fetch_image(name, settings).root) == FILES


@pytest.fixture
def private(tokens: TokenServer, tmp_path: Path) -> object:
    need("docker-registry")
    directory = tmp_path / "registry"
    directory.mkdir()
    with docker_registry(directory, tokens.auth) as host:
        yield host


def push_with_token(host: str, tokens: TokenServer) -> str:
    token = tokens.token("repository:some/name:pull,push")
    return push(host, "some/name", "1", IMAGE, f"Bearer {token}")


def test_anonymous_token(private: str, tokens: TokenServer, settings: ImageConfig) -> None:
    name = push_with_token(private, tokens)
    assert tree(fetch_image(name, settings).root) == FILES
    assert tokens.asked == ["anonymous"]  # once, for the manifest and all blobs


def test_token_for_a_user(
    private: str, tokens: TokenServer, settings: ImageConfig, no_credentials: Path
) -> None:
    name = push_with_token(private, tokens)
    tokens.anonymous, tokens.users = False, ("me:secret",)
    with pytest.raises(ImageError, match="denies access"):
        fetch_image(name, settings)
    login(no_credentials, private, auth=basic("me:secret"))
    assert tree(fetch_image(name, settings).root) == FILES
    assert tokens.asked == ["anonymous", "me:secret"]


def test_identity_token(
    private: str, tokens: TokenServer, settings: ImageConfig, no_credentials: Path
) -> None:
    name = push_with_token(private, tokens)
    tokens.anonymous, tokens.identities = False, ("id",)
    login(no_credentials, private, identitytoken="id")
    assert tree(fetch_image(name, settings).root) == FILES
    assert tokens.asked == ["refresh_token id"]


def test_ready_token(
    private: str, tokens: TokenServer, settings: ImageConfig, no_credentials: Path
) -> None:
    name = push_with_token(private, tokens)
    tokens.anonymous = False
    login(no_credentials, private, registrytoken=tokens.token("repository:some/name:pull"))
    assert tree(fetch_image(name, settings).root) == FILES
    assert tokens.asked == []


def test_token_that_has_become_useless(
    private: str, tokens: TokenServer, settings: ImageConfig, no_credentials: Path
) -> None:
    name = push_with_token(private, tokens)
    tokens.useless = 1
    login(no_credentials, private, registrytoken=tokens.token("repository:some/name:pull"))
    assert tree(fetch_image(name, settings).root) == FILES
    assert tokens.asked == ["anonymous"]


def test_moving_tag(hurt: Proxy, registry: str, settings: ImageConfig) -> None:
    push(registry, "moving", "1", IMAGE)
    name = f"{hurt.host}/moving:1"
    old = fetch_image(name, settings)
    push(registry, "moving", "1", OTHER)
    assert fetch_image(name, settings) == replace(old, used=old.used)
    always = replace(settings, pull="always")
    assert fetch_image(name, always).digest == OTHER.digest
    before = len(hurt.requests)
    assert fetch_image(name, always).digest == OTHER.digest
    assert [request.path for request in hurt.requests[before:]] == ["/v2/moving/manifests/1"]
    push(registry, "moving", "1", IMAGE)
    stale = replace(settings, pull_fresh=0.0)
    assert find_image(name, stale) is None
    assert fetch_image(name, stale).root == old.root


def test_offline(
    registry: str, settings: ImageConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "registry"
    directory.mkdir()
    with docker_registry(directory) as host:
        name = push(host, "offline", "1", IMAGE)
        image = fetch_image(name, settings)
    stale = replace(settings, pull_fresh=0.0)
    capfd.readouterr()
    assert fetch_image(name, stale).root == image.root
    assert "Connection refused; using the image" in capfd.readouterr().err
    with pytest.raises(ImageError, match="Connection refused"):
        fetch_image(f"{host}/another:1", settings)


PULL = """
import sys
from pathlib import Path
from tests.unit.oci_parts import ImageConfig, fetch_image, find_image
from vimto.errors import VimtoError
settings = ImageConfig(cache_dir=Path(sys.argv[1]))
try:
    image = find_image(sys.argv[2], settings) or fetch_image(sys.argv[2], settings)
except VimtoError as exc:
    sys.exit(exc.message)
print(image.digest)
"""


def start(settings: ImageConfig, name: str) -> "subprocess.Popen[bytes]":
    words = [sys.executable, "-c", PULL, str(settings.cache_dir), name]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(processes: Sequence["subprocess.Popen[bytes]"]) -> set[bytes]:
    return {process.communicate()[0] for process in processes}


def test_forty_at_once_pull_once(hurt: Proxy, registry: str, settings: ImageConfig) -> None:
    push(registry, "forty", "1", IMAGE)
    processes = [start(settings, f"{hurt.host}/forty:1") for _ in range(40)]
    assert finish(processes) == {IMAGE.digest.encode() + b"\n"}
    assert len(hurt.seen("/manifests/")) == 1
    assert len(hurt.seen("/blobs/")) == 3


BIG = make_image(make_tar(member("big", os.urandom(3 << 20))), compress=False)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed(how: signal.Signals, hurt: Proxy, registry: str, settings: ImageConfig) -> None:
    push(registry, "killed", "1", BIG)

    def hold(request: object, reply: object) -> None:
        if len(reply.body) > 3 << 20:  # type: ignore[attr-defined]
            reply.cut, reply.hold = 2 << 20, True  # type: ignore[attr-defined]

    hurt.fault = hold
    name = f"{hurt.host}/killed:1"
    process = start(settings, name)
    assert hurt.holding.wait(60)
    images = settings.cache_dir / "images"
    [partial] = images.glob("work/*/*.partial")
    while partial.stat().st_size < 1 << 20:
        assert process.poll() is None
    process.send_signal(how)
    hurt.done.set()
    process.communicate()
    assert find_image(name, settings) is None
    if how == signal.SIGINT:
        assert not list(images.glob("work/*"))
    hurt.fault = lambda _request, _reply: None
    assert (fetch_image(name, settings).root / "big").stat().st_size == 3 << 20
    resumed = [r.headers["Range"] for r in hurt.seen("/blobs/") if "Range" in r.headers]
    # (The interrupted one may have asked again itself, before it heard of the signal.)
    assert resumed or how == signal.SIGINT
    assert not list(images.glob("work/*"))
