"""Registries for the tests: Debian's docker-registry, a token server, and a proxy that hurts."""

import base64
import http.client
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from tests.unit.oci_parts import Made, digest


@contextmanager
def docker_registry(directory: Path, auth: str = "") -> Iterator[str]:
    """Run docker-registry on a loopback port of its own; gives `127.0.0.1:PORT`.

    `auth` is the part of its configuration below `auth:`.
    """
    config = directory / "config.yml"
    config.write_text(
        "version: 0.1\n"
        "log: {level: info}\n"
        f"storage: {{filesystem: {{rootdirectory: {directory}/data}}}}\n"
        'http: {addr: "127.0.0.1:0", secret: test}\n' + (f"auth:\n{auth}" if auth else "")
    )
    with subprocess.Popen(
        ["docker-registry", "serve", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            yield _read_address(process.stderr)
        finally:
            process.kill()
            process.wait()


def _read_address(log: Any) -> str:
    for line in log:
        if "listening on " in line:
            address = line.partition("listening on ")[2].split('"')[0].split(",")[0]
            # Whatever else it logs must be read, or it would block.
            threading.Thread(target=log.read, daemon=True).start()
            return str(address)
    raise AssertionError("docker-registry did not start")


def push(host: str, repository: str, tag: str, image: Made, authorization: str = "") -> str:
    """Push an image or an index with its images; return its reference."""
    headers = {"Authorization": authorization} if authorization else {}
    connection = http.client.HTTPConnection(host)

    def send(method: str, url: str, data: bytes = b"", kind: str = "") -> dict[str, str]:
        sent = headers | ({"Content-Type": kind} if kind else {})
        connection.request(method, url, data, sent)
        response = connection.getresponse()
        body = response.read()
        assert response.status < 300, body
        return dict(response.getheaders())

    manifests = []
    for name, data in image.blobs.items():
        if data.startswith(b'{"schemaVersion"'):
            manifests.append((name, data))
            continue
        location = urlsplit(send("POST", f"/v2/{repository}/blobs/uploads/")["Location"])
        url = f"{location.path}?{location.query}&digest={quote(name)}"
        send("PUT", url, data, "application/octet-stream")
    for name, data in sorted(manifests, key=lambda item: b'"manifests"' in item[1]):
        kind = json.loads(data)["mediaType"]
        send("PUT", f"/v2/{repository}/manifests/{name}", data, kind)
        if name == digest(image.manifest):
            send("PUT", f"/v2/{repository}/manifests/{tag}", data, kind)
    connection.close()
    return f"{host}/{repository}:{tag}"


class Quiet(BaseHTTPRequestHandler):
    """A handler without a log."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """A server on a loopback port of its own. A context manager."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, handler: type[Quiet]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.host = f"127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> "Server":
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        pass  # clients hang up on us: that is what is tested


@dataclass(kw_only=True)
class Request:
    """What the proxy saw of one request."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass(kw_only=True)
class Reply:
    """What the registry said, for a fault to change. `cut` ends the connection after that many
    bytes of the body, `hold` waits there for the proxy's end instead.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    cut: int = -1
    hold: bool = False


Fault = Callable[[Request, Reply], None]


@dataclass(kw_only=True)
class Proxy:
    """A server before a registry that notes each request and applies `fault` to each reply."""

    upstream: str
    host: str = ""
    fault: Fault = lambda _request, _reply: None
    requests: list[Request] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)
    holding: threading.Event = field(default_factory=threading.Event)

    def seen(self, part: str) -> list[Request]:
        """Return the requests whose path contains `part`."""
        return [request for request in self.requests if part in request.path]

    def ask(self, request: Request) -> Reply:
        """Forward a request as it is."""
        connection = http.client.HTTPConnection(self.upstream)
        try:
            connection.request(request.method, request.path, headers=request.headers)
            response = connection.getresponse()
            headers = {
                name: value
                for name, value in response.getheaders()
                if name.lower() not in ("content-length", "connection", "transfer-encoding")
            }
            return Reply(status=response.status, headers=headers, body=response.read())
        finally:
            connection.close()


@contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    """Run a proxy before the registry `upstream`."""
    state = Proxy(upstream=upstream)

    class Handler(Quiet):
        def do_GET(self) -> None:
            request = Request(method=self.command, path=self.path, headers=dict(self.headers))
            state.requests.append(request)
            reply = state.ask(request)
            state.fault(request, reply)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            if reply.cut < 0:
                self.wfile.write(reply.body)
                return
            self.wfile.write(reply.body[: reply.cut])
            self.wfile.flush()
            if reply.hold:
                state.holding.set()
                state.done.wait(60)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        do_HEAD = do_GET

    with Server(Handler) as server:
        state.host = server.host
        try:
            yield state
        finally:
            state.done.set()


@dataclass(kw_only=True)
class TokenServer:
    """Gives signed tokens for a registry. `users` are `user:password`, `identities` tokens.

    With `anonymous` whoever asks may pull. The first `useless` tokens are good for nothing.
    """

    directory: Path
    anonymous: bool = True
    users: tuple[str, ...] = ()
    identities: tuple[str, ...] = ()
    useless: int = 0
    url: str = ""
    asked: list[str] = field(default_factory=list)

    @property
    def auth(self) -> str:
        """The registry's configuration."""
        return (
            f"  token:\n    realm: {self.url}\n    service: test\n    issuer: test\n"
            f"    rootcertbundle: {self.directory}/cert.pem\n"
        )

    def token(self, scope: str) -> str:
        """Return a JSON web token for a scope such as `repository:name:pull`."""
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        if self.useless:
            self.useless -= 1
            name = "another"
        certificate = subprocess.run(
            ["openssl", "x509", "-in", self.directory / "cert.pem", "-outform", "DER"],
            capture_output=True,
            check=True,
        ).stdout
        now = int(time.time())
        head = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(certificate).decode()]}
        claims = {
            "iss": "test",
            "sub": "",
            "aud": "test",
            "exp": now + 300,
            "nbf": now - 10,
            "iat": now - 10,
            "jti": "1",
            "access": [{"type": kind, "name": name, "actions": actions.split(",")}],
        }
        text = b".".join(_base64(json.dumps(part).encode()) for part in (head, claims))
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self.directory / "key.pem"],
            input=text,
            capture_output=True,
            check=True,
        ).stdout
        return (text + b"." + _base64(signature)).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@contextmanager
def token_server(directory: Path) -> Iterator[TokenServer]:
    """Run a token server with a key of its own."""
    state = TokenServer(directory=directory)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj",
         "/CN=test", "-keyout", directory / "key.pem", "-out", directory / "cert.pem"],
        capture_output=True,
        check=True,
    )  # fmt: skip

    class Handler(Quiet):
        def do_GET(self) -> None:
            scheme, _, secret = self.headers.get("Authorization", "").partition(" ")
            user = base64.b64decode(secret).decode() if scheme == "Basic" else ""
            state.asked.append(user or "anonymous")
            if not (user in state.users if user else state.anonymous):
                self.answer(401, b"{}")
                return
            scope = parse_qs(urlsplit(self.path).query).get("scope", [""])[0]
            self.answer(200, json.dumps({"token": state.token(scope)}).encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = {key: values[0] for key, values in parse_qs(body).items()}
            state.asked.append(f"{form.get('grant_type')} {form.get('refresh_token')}")
            if form.get("refresh_token") not in state.identities:
                self.answer(401, b"{}")
                return
            token = state.token(form["scope"])
            self.answer(200, json.dumps({"access_token": token}).encode())

    with Server(Handler) as server:
        state.url = f"http://{server.host}/token"
        yield state
