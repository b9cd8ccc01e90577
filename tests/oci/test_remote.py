"""`vimto kernel ls -remote`: tags, sizes and platforms of a repository."""

import json
import threading
from pathlib import Path
from unittest.mock import ANY
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.oci.servers import Proxy, Reply, Request, push
from tests.unit.oci_parts import make_image, make_index, make_tar, member
from vimto import cli, console
from vimto.commands import listing
from vimto.oci import remote
from vimto.oci.manifest import host_platform
from vimto.oci.progress import show_bytes
from vimto.oci.remote import by_version

IMAGE = make_image(make_tar(member("a", bytes(3000))), compress=False)
FOREIGN = make_image(make_tar(member("b", b"x")), platform="linux/s390x")
BYTES = sum(map(len, IMAGE.blobs.values())) - len(IMAGE.manifest)
SIZE = show_bytes(BYTES)
INDEX = make_index({"linux/s390x": FOREIGN, host_platform(): IMAGE, "unknown/unknown": FOREIGN})


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(console, "_verbosity", [0])
    monkeypatch.chdir(tmp_path)


def push_all(host: str, repository: str) -> str:
    for tag in ("6.9", "6.12", "6.12-rc1", "stable", "6.12.1"):
        push(host, repository, tag, IMAGE)
    push(host, repository, "multi", INDEX)
    push(host, repository, "foreign", make_index({"linux/s390x": FOREIGN}))
    push(host, repository, "sha256-" + "0" * 64 + ".sig", IMAGE)
    return f"{host}/{repository}"


def in_pages(request: Request, reply: Reply) -> None:
    """Cut the list of tags into pages, as the distribution specification says, by `n` and `last`.

    Debian's docker-registry does so with lists of repositories only.
    """
    url = urlsplit(request.path)
    if url.path.endswith("/tags/list"):
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        whole = sorted(json.loads(reply.body)["tags"])
        left = [tag for tag in whole if tag > query.get("last", "")]
        page = left[: int(query["n"])]
        reply.body = json.dumps({"tags": page}).encode()
        if len(left) > len(page):
            reply.headers["Link"] = f'<{url.path}?n={query["n"]}&last={page[-1]}>; rel="next"'


def ls(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[list[str]], str]:
    """Return status, the columns of each line of stdout, and stderr."""
    status = cli.run(["kernel", "ls", *words])
    out, err = capfd.readouterr()
    return status, [line.split("  ") for line in out.splitlines()], err


def table(lines: list[list[str]]) -> list[list[str]]:
    return [[cell.strip() for cell in line if cell.strip()] for line in lines]


def test_a_repository(
    hurt: Proxy, registry: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    push_all(registry, "remote/all")
    monkeypatch.setattr(remote, "_PAGE", 3)
    hurt.fault = in_pages
    name = f"{hurt.host}/remote/all"
    status, lines, err = ls(capfd, "-remote", name)
    assert (status, err) == (0, "")
    here = host_platform()
    expected = [
        ["TAG", "SIZE", "PLATFORMS"],
        ["foreign", "-", "linux/s390x"],
        ["multi", SIZE, f"linux/s390x {here}"],
        ["stable", SIZE, here],
        *([tag, SIZE, here] for tag in ("6.9", "6.12-rc1", "6.12", "6.12.1")),
    ]
    assert table(lines) == expected
    assert len(hurt.seen("/tags/list")) == 3  # of eight
    assert len(hurt.seen("/manifests/")) == 8  # one more for the index, none for a signature
    for words in (("--remote", f"{name}:any"), (f"-remote={name}",)):
        assert table(ls(capfd, *words)[1]) == expected
    status, lines, _ = ls(capfd, "-remote", name, "-match", "6.12*")
    assert [row[0] for row in table(lines)] == ["TAG", "6.12-rc1", "6.12", "6.12.1"]
    assert cli.run(["kernel", "ls", "-json", "-match=multi", "-remote", name]) == 0
    assert json.loads(capfd.readouterr().out) == [
        {
            "tag": "multi",
            "digest": INDEX.digest,
            "size": BYTES,
            "platforms": ["linux/s390x", here],
        }
    ]


def test_the_configured_one(registry: str, capfd: pytest.CaptureFixture[str]) -> None:
    push(registry, "remote/configured", "1", IMAGE)
    Path(".vimto.toml").write_text(f'kernel = "{registry}/remote/configured:nothing"\n')
    status, lines, _ = ls(capfd, "-remote")
    assert status == 0 and [row[0] for row in table(lines)] == ["TAG", "1"]
    Path(".vimto.toml").write_text('kernel = "apt:linux-image-amd64"\n')
    assert "`apt:linux-image-amd64` is not in a registry" in ls(capfd, "-remote")[2]
    Path(".vimto.toml").unlink()
    assert "which repository? no kernel is configured" in ls(capfd, "-remote")[2]


def test_a_large_repository(
    hurt: Proxy, registry: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_DESCRIBED", 10)
    for number in range(30):
        push(registry, "remote/large", f"6.{number}", IMAGE)
    most, now, lock = [0], [0], threading.Lock()

    def count(request: Request, _: Reply) -> None:
        if "/manifests/" in request.path:
            with lock:
                now[0] += 1
                most[0] = max(now[0], most[0])
            threading.Event().wait(0.02)
            with lock:
                now[0] -= 1

    hurt.fault = count
    status, lines, err = ls(capfd, "-remote", f"{hurt.host}/remote/large")
    rows = table(lines)[1:]
    assert status == 0 and [row[0] for row in rows] == [f"6.{number}" for number in range(30)]
    assert [len(row) for row in rows] == [1] * 20 + [3] * 10
    assert "30 tags; the sizes of the last 10 are looked up" in err
    assert len(hurt.seen("/manifests/")) == 10 and 1 < most[0] <= remote._PARALLEL


def test_what_is_not_an_image(
    registry: str, hurt: Proxy, capfd: pytest.CaptureFixture[str]
) -> None:
    push(registry, "remote/odd", "1", IMAGE)
    push(registry, "remote/odd", "2", FOREIGN)

    def spoil(request: Request, reply: Reply) -> None:
        if request.path.endswith("/manifests/1"):
            reply.body = b"{}"
            reply.headers.pop("Docker-Content-Digest")

    hurt.fault = spoil
    status, lines, _ = ls(capfd, "-remote", f"{hurt.host}/remote/odd")
    assert status == 0
    assert table(lines)[1:] == [["1", "-", "not an image"], ["2", ANY, "linux/s390x"]]


@pytest.mark.parametrize(
    ("link", "tags", "said"),
    [
        ("<http://127.0.0.1:1/v2/x>; rel=next", None, "goes on at another host"),
        ("<//other.example/v2/x>; rel=next", None, "goes on at another host"),
        ("</v2/remote/links/tags/list>; rel=next", None, ""),  # round and round
        ("", "x", "is malformed"),
        ("", ["good", "../bad", 7, "bad\x1b[1m"], ""),
    ],
)
def test_a_list_of_tags_that_means_harm(
    link: str,
    tags: object,
    said: str,
    registry: str,
    hurt: Proxy,
    capfd: pytest.CaptureFixture[str],
) -> None:
    push(registry, "remote/links", "good", IMAGE)

    def lie(request: Request, reply: Reply) -> None:
        if "/tags/list" in request.path:
            reply.headers |= {"Link": link} if link else {}
            reply.body = reply.body if tags is None else json.dumps({"tags": tags}).encode()

    hurt.fault = lie
    status, lines, err = ls(capfd, "-remote", f"{hurt.host}/remote/links")
    if said:
        assert status == 125 and said in err and lines == []
    else:
        assert status == 0 and [row[0] for row in table(lines)] == ["TAG", "good"]
    assert len(hurt.seen("/tags/list")) <= 2


def test_a_repository_that_is_not_there(registry: str, capfd: pytest.CaptureFixture[str]) -> None:
    status, lines, err = ls(capfd, "-remote", f"{registry}/remote/missing")
    assert (status, lines) == (125, []) and "does not exist in the registry" in err


def test_a_registry_that_has_had_enough(
    registry: str, hurt: Proxy, capfd: pytest.CaptureFixture[str]
) -> None:
    for tag in ("1", "2", "3"):
        push(registry, "remote/enough", tag, IMAGE)

    def refuse(request: Request, reply: Reply) -> None:
        if request.path.endswith("/manifests/2"):
            reply.status, reply.headers["Retry-After"] = 429, "7200"

    hurt.fault = refuse
    status, lines, err = ls(capfd, "-remote", f"{hurt.host}/remote/enough")
    assert status == 125 and "too many requests" in err and "docker login" in err
    assert [row[0] for row in table(lines)] == ["TAG", "1"]  # what it had said until then


@pytest.mark.parametrize(
    "words",
    [("x",), ("-remote", "a/b", "c/d"), ("-match",), ("-remote=",), ("-all",), ("-json=x",), ("",)],
)
def test_mistakes(words: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    status, lines, err = ls(capfd, *words)
    assert (status, lines) == (125, []) and "usage: vimto [flags] kernel ls" in err


def test_the_cache_as_json(
    registry: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    name = push(registry, "remote/here", "1", IMAGE)
    flags = ["-cache-dir", str(tmp_path / "cache")]
    assert cli.run([*flags, "kernel", "pull", name]) == 0
    capfd.readouterr()
    assert cli.run([*flags, "kernel", "ls", "-json", "-match", "*remote*"]) == 0
    (item,) = json.loads(capfd.readouterr().out)
    assert item["name"] == name and item["size"] == 4096 and item["busy"] is False


def test_versions_are_sorted_as_versions() -> None:
    tags = ["bpf-next", "stable", "v5.9", "5.10", "6.12-rc1", "6.12-rc10", "6.12", "6.12-debug",
            "6.12.1", "20240101"]  # fmt: skip
    assert sorted(sorted(tags), key=by_version) == tags
