"""HTTP to strangers: time limits, proxies, certificates, and where credentials may go."""

import email.utils
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from vimto.errors import ImageError
from vimto.values import whole_number

# What a broken connection looks like; anything else is not worth another attempt.
BROKEN = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
)


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long we wait, in seconds, and how often we try.

    A server that delivers less than `slowest` bytes a second over `read` seconds has stalled.
    `attempts` counts from the last time a blob grew by at least a MiB.
    """

    connect: float = 10.0
    read: float = 20.0
    attempts: int = 4
    pause: float = 0.5
    longest_pause: float = 60.0
    slowest: int = 256

    def pause_after(self, attempt: int, retry_after: str) -> float:
        """Return how long to wait after a failed attempt, 1 the first; the server may ask."""
        wanted = wanted_pause(retry_after)
        if wanted is None:
            wanted = self.pause * 2 ** (attempt - 1)
        return max(0.0, min(wanted, self.longest_pause))


def wanted_pause(retry_after: str) -> float | None:
    """Return the seconds that a server's `Retry-After` asks for; None where it is nonsense."""
    seconds = whole_number(retry_after)
    if seconds is not None:
        return float(seconds)
    try:
        return email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
    except ValueError:
        return None


class Pace:
    """Notice a server that sends a byte now and then, which no read timeout does."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._since = time.monotonic()
        self._bytes = 0

    def count(self, size: int) -> None:
        self._bytes += size
        passed = time.monotonic() - self._since
        if passed < self._patience.read:
            return
        if self._bytes < self._patience.slowest * passed:
            raise requests.Timeout("the server has stalled")
        self._since, self._bytes = time.monotonic(), 0


class Session(requests.Session):
    """A session with time limits, without netrc(5), and with an eye on where it is sent.

    A `~/.netrc` would silently override our tokens.
    """

    def __init__(self, insecure: tuple[str, ...], patience: Patience) -> None:
        super().__init__()
        self._insecure = insecure
        self.auth = lambda request: request
        self.max_redirects = 10
        adapter = _Adapter(patience)
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def merge_environment_settings(  # type: ignore[no-untyped-def]
        self, url, proxies, stream, verify, cert
    ):
        """As in requests, but no proxy stands between us and ourselves."""
        settings = super().merge_environment_settings(url, proxies, stream, verify, cert)
        if is_loopback(urlsplit(url).netloc):
            settings["proxies"] = {}
        return settings

    def rebuild_auth(self, prepared_request: Any, response: Any) -> None:
        """Drop the credentials on the way to another host, and refuse plain http there."""
        old, new = response.request.url, prepared_request.url
        self.check_url(new)
        if self.should_strip_auth(old, new):
            prepared_request.headers.pop("Authorization", None)

    def check_url(self, url: str) -> None:
        """Raise `ImageError` where `url` is plain http to a host that was not allowed it."""
        parts = urlsplit(url)
        if parts.scheme != "https" and not is_plain_http_allowed(parts.netloc, self._insecure):
            raise ImageError(
                f"the registry sends us to `{parts.scheme}://{parts.netloc}`, unencrypted",
                hint=f"allow it with `-insecure-registry {parts.netloc}`",
            )


class _Adapter(HTTPAdapter):
    def __init__(self, patience: Patience) -> None:
        self._limits = (patience.connect, patience.read)
        super().__init__(pool_maxsize=8)

    def send(self, request, *arguments, **options):  # type: ignore[no-untyped-def]
        options["timeout"] = options.get("timeout") or self._limits
        return super().send(request, *arguments, **options)


def read_some(response: requests.Response, size: int) -> bytes:
    """Return what has come of a body, at most `size` bytes; none at its end.

    Not `read`, which waits for all of `size`: on a server that trickles, for hours.
    """
    data: bytes = response.raw.read1(size)
    return data


def is_plain_http_allowed(host: str, insecure: tuple[str, ...]) -> bool:
    """Say whether `host`, with or without a port, may be asked over plain http."""
    return is_loopback(host) or host in insecure or host.rpartition(":")[0] in insecure


def is_loopback(host: str) -> bool:
    """Say whether `host`, with or without a port, is this machine and nothing but it."""
    if host.startswith("["):
        return host[1:].partition("]")[0] == "::1"
    name = host.rpartition(":")[0] if host.count(":") == 1 else host
    if name in ("localhost", "::1") or name.endswith(".localhost"):
        return True
    parts = name.split(".")
    return len(parts) == 4 and parts[0] == "127" and all(part.isdigit() for part in parts)


def find_certificates(environ: Mapping[str, str]) -> str | bool:
    """Return the system's certificates: those of certifi lack what a company has installed."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        if environ.get(name):
            return environ[name]
    for path in ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"):
        if os.path.exists(path):
            return path
    return True


def is_final(exc: Exception) -> bool:
    """Say whether another attempt would end the same way: a wrong name or certificate."""
    cause = exc.args[0] if exc.args else None
    cause = getattr(cause, "reason", cause)
    return isinstance(exc, requests.exceptions.SSLError) or isinstance(
        cause, urllib3.exceptions.NameResolutionError
    )


def show_reason(exc: Exception) -> str:
    """Return what a nest of requests', urllib3's and the system's exceptions says, in brief."""
    cause: Any = exc
    while True:
        inner = getattr(cause, "reason", None)
        if not isinstance(inner, Exception):
            inner = cause.args[0] if cause.args else None
        if not isinstance(inner, Exception):
            break
        cause = inner
    if isinstance(exc, (requests.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError)):
        return "it does not answer"
    if isinstance(exc, (requests.Timeout, urllib3.exceptions.ReadTimeoutError)):
        return "it has stalled"
    system = exc
    while system is not None and not (isinstance(system, OSError) and system.strerror):
        system = system.__context__  # type: ignore[assignment]
    if isinstance(system, OSError) and system.strerror:
        return str(system.strerror)
    return str(cause)[:200]
