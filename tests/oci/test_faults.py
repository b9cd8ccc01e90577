"""A network and a registry that fail or mean harm: bounded, clear, and nothing left behind."""

import json
import os
import pty
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from tests.oci.servers import Proxy, Quiet, Reply, Request, Server, proxy, push
from tests.oci.test_pull import PULL, basic, login
from tests.unit.oci_parts import ImageConfig, fetch_image, make_image, make_tar, member
from vimto.errors import ImageError
from vimto.oci import store as images

BIG = make_image(make_tar(member("big", os.urandom(3 << 20))), compress=False)
SIZE = max(len(data) for data in BIG.blobs.values())


@pytest.fixture
def name(hurt: Proxy, registry: str) -> str:
    """The name of an image behind the proxy."""
    push(registry, "faults", "1", BIG)
    return f"{hurt.host}/faults:1"


@pytest.fixture(autouse=True)
def nothing_left(settings: ImageConfig) -> Iterator[None]:
    """Whatever happened, no half image and no working directory remain."""
    yield
    images = settings.cache_dir / "images"
    assert not list(images.glob("work/*"))
    for entry in images.glob("[0-9a-f]*"):
        assert {path.name for path in entry.iterdir()} == {"root", "image.json"}


def is_layer(request: Request, reply: Reply) -> bool:
    return "/blobs/" in request.path and reply.status < 300 and len(reply.body) > 1 << 16


def fetch(name: str, settings: ImageConfig) -> None:
    image = fetch_image(name, settings)
    assert (image.root / "big").stat().st_size == 3 << 20


def test_dropped_connection_is_resumed(hurt: Proxy, name: str, settings: ImageConfig) -> None:
    def drop(request: Request, reply: Reply) -> None:
        if is_layer(request, reply) and len(hurt.seen("/blobs/")) < 5:
            reply.cut = 1 << 20

    hurt.fault = drop
    fetch(name, settings)
    ranges = [request.headers.get("Range", "") for request in hurt.seen("/blobs/")][1:]
    assert ranges == ["", f"bytes={1 << 20}-", f"bytes={2 << 20}-", f"bytes={3 << 20}-"]


def test_server_without_ranges(hurt: Proxy, name: str, settings: ImageConfig) -> None:
    def drop(request: Request, reply: Reply) -> None:
        if "Range" in request.headers:
            whole = Request(method="GET", path=request.path, headers={})
            fresh = hurt.ask(whole)
            reply.status, reply.headers, reply.body = 200, fresh.headers, fresh.body
        elif is_layer(request, reply):
            reply.cut = 1 << 20

    hurt.fault = drop
    fetch(name, settings)


def test_wrong_range(hurt: Proxy, name: str, settings: ImageConfig) -> None:
    def drop(request: Request, reply: Reply) -> None:
        if "Range" in request.headers:
            reply.headers["Content-Range"] = "bytes 5-9/10"
        elif is_layer(request, reply):
            reply.cut = 1 << 20

    hurt.fault = drop
    with pytest.raises(ImageError, match="another part than asked for"):
        fetch(name, settings)


def test_connection_that_always_drops(hurt: Proxy, name: str, settings: ImageConfig) -> None:
    def drop(request: Request, reply: Reply) -> None:
        if is_layer(request, reply):
            reply.cut = 1000

    hurt.fault = drop
    with pytest.raises(ImageError, match="cannot be fetched"):
        fetch(name, settings)
    assert len(hurt.seen("/blobs/")) < 10


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("part", ["/manifests/", "/blobs/"])
def test_busy_server(status: int, part: str, hurt: Proxy, name: str, settings: ImageConfig) -> None:
    def busy(request: Request, reply: Reply) -> None:
        if part in request.path and len(hurt.seen(part)) <= 2:
            reply.status, reply.body = status, b"{}"
            reply.headers["Retry-After"] = "0"

    hurt.fault = busy
    fetch(name, settings)


def test_retry_after_is_obeyed(
    hurt: Proxy, name: str, settings: ImageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    wait = threading.Event.wait

    def note(event: threading.Event, limit: float | None = None) -> bool:
        if limit is None:
            return wait(event)
        waits.append(limit)
        return False

    monkeypatch.setattr(threading.Event, "wait", note)

    def busy(request: Request, reply: Reply) -> None:
        if len(hurt.requests) == 1:
            reply.status, reply.headers["Retry-After"] = 429, "7"
        if len(hurt.requests) == 2:
            reply.status, reply.headers["Retry-After"] = 503, "99999"

    hurt.fault = busy
    fetch(name, settings)
    assert waits == [7.0, 60.0]


def test_server_that_stays_busy(hurt: Proxy, name: str, settings: ImageConfig) -> None:
    def busy(_: Request, reply: Reply) -> None:
        reply.status = 503

    hurt.fault = busy
    with pytest.raises(ImageError, match="it answered 503"):
        fetch(name, settings)
    assert len(hurt.requests) == 4


@pytest.mark.parametrize("part", ["/manifests/", "/blobs/"])
def test_stalled_server(part: str, hurt: Proxy, name: str, settings: ImageConfig) -> None:
    def stall(request: Request, reply: Reply) -> None:
        if part in request.path:
            reply.cut, reply.hold = min(10, len(reply.body) - 1), True

    hurt.fault = stall
    with pytest.raises(ImageError, match="stalled"):
        fetch(name, settings)


@pytest.mark.parametrize("part", ["/manifests/", "/blobs/"])
def test_damaged_on_the_way(part: str, hurt: Proxy, name: str, settings: ImageConfig) -> None:
    def damage(request: Request, reply: Reply) -> None:
        if part in request.path:
            reply.body = reply.body[:-1] + bytes([reply.body[-1] ^ 1])

    hurt.fault = damage
    with pytest.raises(ImageError, match="damaged"):
        fetch(name, settings)


def test_another_manifest_than_asked_for(hurt: Proxy, name: str, settings: ImageConfig) -> None:
    def swap(_: Request, reply: Reply) -> None:
        reply.body += b" "
        reply.headers.pop("Docker-Content-Digest", None)

    hurt.fault = swap
    with pytest.raises(ImageError, match=f"is not {BIG.digest}"):
        fetch(f"{hurt.host}/faults@{BIG.digest}", settings)


def test_longer_than_said(hurt: Proxy, name: str, settings: ImageConfig) -> None:
    def lengthen(request: Request, reply: Reply) -> None:
        if is_layer(request, reply):
            reply.body += bytes(10)

    hurt.fault = lengthen
    with pytest.raises(ImageError, match=f"longer than its {SIZE} bytes"):
        fetch(name, settings)


def test_huge_manifest(hurt: Proxy, name: str, settings: ImageConfig) -> None:
    def inflate(request: Request, reply: Reply) -> None:
        reply.body = bytes(100 << 20)
        reply.headers.pop("Docker-Content-Digest", None)

    hurt.fault = inflate
    with pytest.raises(ImageError, match="larger than 4 MiB"):
        fetch(name, settings)


def test_web_page(hurt: Proxy, name: str, settings: ImageConfig) -> None:
    def login_page(_: Request, reply: Reply) -> None:
        reply.body = b"<!doctype html><title>Welcome</title>"
        reply.headers = {"Content-Type": "text/html"}

    hurt.fault = login_page
    with pytest.raises(ImageError, match="is a web page") as caught:
        fetch(name, settings)
    assert "login page" in caught.value.hint

    def unnamed(_: Request, reply: Reply) -> None:
        reply.body, reply.headers = b"<!doctype html>", {}

    hurt.fault = unnamed
    with pytest.raises(ImageError, match=r"is not JSON; it begins with `<!doctype html>`"):
        fetch(name, settings)


@pytest.mark.parametrize("case", ["digest", "size", "count"])
def test_manifest_that_lies(case: str, hurt: Proxy, name: str, settings: ImageConfig) -> None:
    def lie(request: Request, reply: Reply) -> None:
        if "/manifests/" not in request.path:
            return
        value = json.loads(reply.body)
        if case == "digest":
            value["layers"][0]["digest"] = "sha256:../../../../x"
        elif case == "size":
            value["layers"][0]["size"] = 1 << 60
        else:
            value["layers"] *= 100_000
        reply.body = json.dumps(value).encode()[: 100 << 20]
        reply.headers.pop("Docker-Content-Digest", None)

    hurt.fault = lie
    says = {"digest": "malformed digest", "size": "more than 16.0 GiB", "count": "larger than"}
    with pytest.raises(ImageError, match=says[case]):
        fetch(name, settings)
    assert not hurt.seen("/blobs/")


class Storage(Quiet):
    """Where a registry redirects to: serves blobs to whoever asks, and notes the headers."""

    seen: ClassVar[list[dict[str, str]]] = []
    blobs: ClassVar = {digest.removeprefix("sha256:"): data for digest, data in BIG.blobs.items()}
    challenge = ""

    def do_GET(self) -> None:
        self.seen.append(dict(self.headers))
        if self.challenge:
            self.answer(401, b"", WWW_Authenticate=self.challenge)
        else:
            self.answer(200, self.blobs[self.path.rpartition("/")[2]])


@pytest.fixture
def storage() -> Iterator[Server]:
    Storage.seen, Storage.challenge = [], ""
    with Server(Storage) as server:
        yield server


def redirect(hurt: Proxy, target: str) -> None:
    def send_away(request: Request, reply: Reply) -> None:
        if "/blobs/" in request.path:
            digest = request.path.rpartition(":")[2]
            reply.status, reply.body = 307, b""
            reply.headers = {"Location": f"{target}/{digest}"}

    hurt.fault = send_away


def test_redirect_gets_no_credentials(
    guarded: str, storage: Server, settings: ImageConfig, no_credentials: Path
) -> None:
    push(guarded, "faults", "1", BIG, f"Basic {basic('user:pass:word')}")
    with proxy(guarded) as hurt:
        login(no_credentials, hurt.host, auth=basic("user:pass:word"))
        redirect(hurt, f"http://{storage.host}")
        fetch(f"{hurt.host}/faults:1", settings)
        assert any("Authorization" in request.headers for request in hurt.requests)
    assert len(Storage.seen) == 2
    assert not any("Authorization" in headers for headers in Storage.seen)


@pytest.mark.parametrize("scheme", ['Basic realm="x"', 'Bearer realm="{}/token"'])
def test_redirect_that_asks_for_credentials(
    scheme: str, guarded: str, storage: Server, settings: ImageConfig, no_credentials: Path
) -> None:
    push(guarded, "faults", "1", BIG, f"Basic {basic('user:pass:word')}")
    Storage.challenge = scheme.format(f"http://{storage.host}")
    with proxy(guarded) as hurt:
        login(no_credentials, hurt.host, auth=basic("user:pass:word"))
        redirect(hurt, f"http://{storage.host}")
        with pytest.raises(ImageError, match="where it redirects to, wants credentials"):
            fetch(f"{hurt.host}/faults:1", settings)
    assert not any("Authorization" in headers for headers in Storage.seen)


def test_redirect_to_plain_http(hurt: Proxy, name: str, settings: ImageConfig) -> None:
    redirect(hurt, "http://storage.example")
    with pytest.raises(ImageError, match=r"`http://storage.example`, unencrypted") as caught:
        fetch(name, settings)
    assert "-insecure-registry storage.example" in caught.value.hint


def test_redirects_that_go_round(hurt: Proxy, name: str, settings: ImageConfig) -> None:
    def round_and_round(request: Request, reply: Reply) -> None:
        reply.status, reply.headers = 307, {"Location": request.path}

    hurt.fault = round_and_round
    with pytest.raises(ImageError, match="Exceeded 10 redirects"):
        fetch(name, settings)


def test_credentials_go_to_no_plain_token_server(
    hurt: Proxy, name: str, settings: ImageConfig, no_credentials: Path
) -> None:
    login(no_credentials, hurt.host, auth=basic("user:pass"))

    def challenge(_: Request, reply: Reply) -> None:
        reply.status = 401
        reply.headers = {"WWW-Authenticate": 'Bearer realm="http://tokens.example/t",service="x"'}

    hurt.fault = challenge
    with pytest.raises(ImageError, match=r"`http://tokens.example`, unencrypted"):
        fetch(name, settings)


def test_plain_http_is_for_loopback(settings: ImageConfig) -> None:
    from vimto.oci.session import is_plain_http_allowed

    assert is_plain_http_allowed("127.0.0.1:5000", ())
    assert not is_plain_http_allowed("reg.example:5000", ())
    assert is_plain_http_allowed("reg.example:5000", ("reg.example:5000",))
    assert is_plain_http_allowed("reg.example:5000", ("reg.example",))
    assert not is_plain_http_allowed("reg.example", ("reg.example:5000",))


def test_tls_is_spoken_to_all_others(hurt: Proxy, name: str, settings: ImageConfig) -> None:
    # The machine's own name is not a loopback address, whatever it resolves to.
    foreign = name.replace("127.0.0.1", "0.0.0.0")
    with pytest.raises(ImageError, match=r"(?i)ssl|wrong version|record"):
        fetch(foreign, settings)
    assert not hurt.requests
    fetch(foreign, replace(settings, insecure_registry=("0.0.0.0",)))


def test_proxy_is_used(
    hurt: Proxy, registry: str, settings: ImageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forward(Quiet):
        seen: ClassVar[list[str]] = []

        def do_GET(self) -> None:
            self.seen.append(self.path)
            self.answer(418, b"{}")

    with Server(Forward) as server:
        monkeypatch.setenv("http_proxy", f"http://{server.host}")
        fetch(push(registry, "faults", "1", BIG), settings)
        assert not Forward.seen  # loopback needs none
        insecure = replace(settings, insecure_registry=("reg.example",))
        with pytest.raises(ImageError, match="418"):
            fetch("reg.example/name:1", insecure)
        assert Forward.seen == ["http://reg.example/v2/name/manifests/1"]


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'{"token": 5}', b"x" * (2 << 20)])
def test_token_server_that_talks_nonsense(
    answer: bytes, hurt: Proxy, name: str, settings: ImageConfig
) -> None:
    class Nonsense(Quiet):
        def do_GET(self) -> None:
            self.answer(200, answer)

    with Server(Nonsense) as server:

        def challenge(_: Request, reply: Reply) -> None:
            reply.status = 401
            reply.headers = {"WWW-Authenticate": f'Bearer realm="http://{server.host}/t"'}

        hurt.fault = challenge
        with pytest.raises(ImageError):
            fetch(name, settings)


def test_full_disk(hurt: Proxy, name: str, settings: ImageConfig) -> None:
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({1 << 20}, -1))\n{PULL}"
    words = [sys.executable, "-c", code, str(settings.cache_dir), name]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cannot be stored: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1 << 20


HOSTILE = {
    "up": member("../../../../x", b"evil"),
    "bomb": member("bomb", bytes(8 << 20)),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_layer(case: str, registry: str, settings: ImageConfig, tmp_path: Path) -> None:
    name = push(registry, f"hostile/{case}", "1", make_image(make_tar(HOSTILE[case])))
    with pytest.raises(ImageError):
        fetch_image(name, replace(settings, image_limit=4 << 20))
    assert images.list_images(settings.cache_dir) == []
    assert not list(tmp_path.rglob("x"))


def pull_on_terminal(settings: ImageConfig, name: str) -> bytes:
    """Pull with a terminal for stderr and return what it saw."""
    ours, theirs = pty.openpty()
    environ = {**os.environ, "VIMTO_CACHE_DIR": str(settings.cache_dir), "TERM": "xterm"}
    words = [sys.executable, "-m", "vimto", "kernel", "pull", name]
    process = subprocess.Popen(words, stderr=theirs, stdout=subprocess.DEVNULL, env=environ)
    os.close(theirs)
    seen = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # EIO: the other side is closed
            break
        if not data:
            break
        seen += data
    os.close(ours)
    assert process.wait() == 0
    return seen


def test_progress_on_a_terminal(hurt: Proxy, name: str, settings: ImageConfig) -> None:
    seen = pull_on_terminal(settings, name)
    assert b"\r\x1b[K[" in seen
    assert b"of 3.0 MiB" in seen
    assert b"unpacking" in seen
    assert seen.endswith(b"\r\x1b[K")  # nothing of it stays on the screen
    assert pull_on_terminal(settings, name) == b""


INTERRUPTED = """
import os, sys
from pathlib import Path
from tests.unit.oci_parts import ImageConfig, fetch_image
from vimto import cli
from vimto.vm.signals import end_by_exception

end_by_exception()
try:
    fetch_image(sys.argv[1], ImageConfig(cache_dir=Path(sys.argv[2])))
except BaseException as exc:
    print(type(exc).__name__, flush=True)
os._exit(9)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("part", ["manifest", "config", "layer", "stall"])
def test_a_pull_can_be_interrupted(
    part: str, number: int, hurt: Proxy, name: str, settings: ImageConfig
) -> None:
    """The registry asks for patience, or says nothing: a signal ends the wait all the same."""
    asked = threading.Event()

    def busy(request: Request, reply: Reply) -> None:
        blobs = len(hurt.seen("/blobs/"))
        if {"manifest": True, "config": blobs == 1}.get(part, blobs > 1):
            asked.set()
            if part == "stall":
                reply.cut, reply.hold = 1, True
            else:
                reply.status, reply.headers["Retry-After"] = 503, "60"

    hurt.fault = busy
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, name, str(settings.cache_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout and process.stderr
        assert asked.wait(60)
        if part != "stall":
            for line in process.stderr:
                if b"it answered 503 Service Unavailable; again in 60 s" in line:
                    break
        process.send_signal(number)
        wanted = {signal.SIGINT: b"KeyboardInterrupt\n", signal.SIGTERM: b"Interrupted\n"}
        assert process.communicate(timeout=30)[0] == wanted[signal.Signals(number)]
    assert process.returncode == 9
