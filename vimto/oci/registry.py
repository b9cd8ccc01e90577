"""A registry over HTTP, by the OCI distribution specification 1.1.

oras gives the dance of being refused and asking again with a token, and what it takes to push.
Pulling is ours: oras 0.2.43 has no time limits, retries for 131 s in silence, and never checks a
digest. Its `do_request` is where a provider may differ, and all else of it goes through that.
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import oras.auth
import oras.container
import oras.provider
import requests

from vimto import console
from vimto.errors import ImageError
from vimto.kernel.reference import RegistryReference
from vimto.oci.credentials import GITHUB_REGISTRY, Credentials, find_credentials
from vimto.oci.download import Download
from vimto.oci.manifest import ACCEPT, MANIFEST_LIMIT, Descriptor, digest_of, parse_json
from vimto.oci.session import (
    BROKEN,
    Pace,
    Patience,
    Session,
    find_certificates,
    is_final,
    is_loopback,
    is_plain_http_allowed,
    read_some,
    show_reason,
    wanted_pause,
)
from vimto.waiting import interruptible

_RETRY_STATUS = (408, 425, 429, 500, 502, 503, 504)
_TOKEN_LIMIT = 1 << 20
_CLIENT = "vimto"
# A pause that somebody at a terminal wonders about, in seconds.
_NOTICED = 2.0


class Registry(oras.provider.Registry):  # type: ignore[misc]
    """The repository of one reference. Close it when done (it is a context manager).

    It may be used by several threads at once.
    """

    def __init__(
        self,
        reference: RegistryReference,
        *,
        insecure: tuple[str, ...] = (),
        environ: Mapping[str, str] | None = None,
        patience: Patience | None = None,
    ) -> None:
        environ = os.environ if environ is None else environ
        logging.getLogger("oras.logger").setLevel(logging.CRITICAL)
        plain = is_plain_http_allowed(reference.api_host, insecure)
        loopback = is_loopback(reference.api_host)
        super().__init__(hostname=reference.api_host, insecure=plain)
        self.reference = reference
        self.patience = patience or Patience()
        self.credentials = find_credentials(reference, environ)
        if plain and not loopback and self.credentials and self.credentials.guess:
            self.credentials = None  # nobody has said that it may be seen on the way
        self.session = Session(insecure, self.patience)
        self.session.verify = find_certificates(environ)
        self.auth = _Auth(self)
        self.stop = threading.Event()  # set by whoever gives up what other threads do here
        self.say: Callable[[str], None] = console.note

    def __enter__(self) -> "Registry":
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()

    def container(self) -> oras.container.Container:
        """Return the repository as oras's own methods want it.

        Not parsed by oras, which takes `my.org/x` without a host for the registry `my.org`.
        """
        namespace, _, name = self.reference.repository.rpartition("/")
        container = oras.container.Container(name, registry=self.reference.api_host)
        container.namespace = namespace
        return container

    def do_request(
        self,
        url: str,
        method: str = "GET",
        data: Any = None,
        headers: dict[str, str] | None = None,
        json: Any = None,
        stream: bool = True,
    ) -> requests.Response:
        """Send a request until it is answered; the body has not been read.

        Raises `ImageError` when there is no answer, or no permission. `data` must be bytes.
        """
        renewed = False
        for attempt in range(1, self.patience.attempts + 1):
            retry_after = ""
            sent = {"User-Agent": _CLIENT, "Accept-Encoding": "identity"} | dict(headers or {})
            sent |= self.auth.known_header()
            try:
                response: requests.Response = interruptible(
                    partial(
                        self._send, method, url, data=data, headers=sent, json=json, stream=stream
                    )
                )
            except _ThrottledError as exc:
                error, retry_after = self._throttled(exc), exc.retry_after
                if (wanted_pause(retry_after) or 0) > self.patience.longest_pause:
                    raise error from exc  # docker.io's limit counts hours
            except BROKEN as exc:
                error = self._unreachable(show_reason(exc))
                if is_final(exc):
                    raise error from exc
            except _DeniedError as exc:
                raise self._refused(None) from exc
            except (requests.RequestException, ValueError) as exc:
                raise self._refused(exc) from exc
            else:
                status = response.status_code
                if status == 401 and self.auth.token and not renewed:
                    renewed, self.auth.token = True, None
                    response.close()
                    error = self._unreachable("the token was refused")
                    continue
                if status not in _RETRY_STATUS:
                    return response
                error = self._unreachable(f"it answered {status} {response.reason}")
                retry_after = response.headers.get("Retry-After", "")
                response.close()
            if attempt < self.patience.attempts:
                self.pause(error.message, attempt, retry_after)
        raise error

    def _send(self, method: str, url: str, **options: Any) -> requests.Response:
        """Send a request, and again with credentials where they are asked for."""
        response = self.session.request(method, url, **options)
        if response.status_code not in (401, 403):
            return self._allowed(response)
        headers, changed = self.auth.authenticate_request(response, options.pop("headers"))
        if not changed:
            raise _DeniedError
        response = self.session.request(method, url, headers=headers, **options)
        if response.status_code == 403:  # the token was given for less than we ask now
            headers, _ = self.auth.authenticate_request(response, headers, refresh=True)
            response = self.session.request(method, url, headers=headers, **options)
        if response.status_code in (401, 403) and self.auth.forget_guess():
            headers, _ = self.auth.authenticate_request(response, headers, refresh=True)
            response = self.session.request(method, url, headers=headers, **options)
        return self._allowed(response)

    def _allowed(self, response: requests.Response) -> requests.Response:
        """Return `response`; raises `_ThrottledError` if it says that we ask too often."""
        if response.status_code != 429:
            return response
        with response:
            retry_after = response.headers.get("Retry-After", "")
            raise _ThrottledError(retry_after, self.messages(response))

    def pause(self, failure: str, attempt: int, retry_after: str = "") -> None:
        """Wait before the next attempt; a user who would notice is told why.

        Ends early, by `ImageError`, when `stop` is set.
        """
        seconds = self.patience.pause_after(attempt, retry_after)
        say = self.say if seconds >= _NOTICED else console.debug
        say(f"{failure}; again in {seconds:.0f} s" if seconds >= 1 else f"{failure}; again")
        if self.stop.wait(seconds):
            raise ImageError("the pull was given up")

    def manifest(self, target: str = "") -> bytes:
        """Fetch a manifest or index by tag or digest, by default the reference's own."""
        target = target or self.reference.target
        what = f"the manifest of `{self.reference}`"
        response = self.do_request(
            f"{self.prefix}://{self.container().manifest_url(target)}",
            headers={"Accept": ", ".join(ACCEPT)},
        )
        with response:
            self.check(response, what)
            data = self.read(response, MANIFEST_LIMIT, what)
            kind = response.headers.get("Content-Type", "")
            claimed = response.headers.get("Docker-Content-Digest", "")
        digest = digest_of(data)
        if target.startswith("sha256:") and digest != target:
            raise ImageError(f"{what} is not {target}", hint=f"it is {digest}")
        if claimed.startswith("sha256:") and claimed != digest:
            raise ImageError(f"{what} was damaged on its way: it is not {claimed}")
        if "html" in kind:
            raise ImageError(
                f"{what} is a web page",
                hint=f"is `{self.reference.registry}` a registry, or a proxy's login page?",
            )
        return data

    def blob(self, blob: Descriptor, into: Path, progress: Callable[[int], None]) -> Path:
        """Fetch a blob into the file `into` and return that; it is verified, or does not exist.

        What `into.partial` has is continued. `progress` gets the bytes as they come, a negative
        number when some have to be fetched again.
        """
        unfinished = into.with_name(into.name + ".partial")
        with open(unfinished, "a+b") as file:
            Download(self, blob, file, progress).run()
        unfinished.rename(into)
        return into

    def get_blob_at(self, digest: str, start: int) -> requests.Response:
        """Ask for the bytes of a blob from `start` on."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        url = f"{self.prefix}://{self.container().get_blob_url(digest)}"
        return self.do_request(url, headers=headers)

    def read(self, response: requests.Response, limit: int, what: str) -> bytes:
        """Read a short body."""
        data = bytearray()
        pace = Pace(self.patience)
        try:
            while piece := read_some(response, 64 << 10):
                data += piece
                pace.count(len(piece))
                if len(data) > limit:
                    raise ImageError(f"{what} is larger than {limit >> 20} MiB")
        except BROKEN as exc:
            raise ImageError(f"{what} ended too early: {show_reason(exc)}") from exc
        return bytes(data)

    def check(self, response: requests.Response, what: str) -> None:
        """Raise `ImageError` unless the request succeeded."""
        status = response.status_code
        if status < 300:
            return
        lines = self.messages(response)
        if status == 404:
            raise MissingError(f"{what} does not exist in the registry", lines=lines)
        if status in (401, 403):
            raise self._refused(None, lines)
        raise ImageError(f"{what}: the registry answered {status} {response.reason}", lines=lines)

    def messages(self, response: requests.Response) -> tuple[str, ...]:
        """Return what a refusal says, by the distribution specification's "Error Codes"."""
        try:
            data = self.read(response, 64 << 10, "the answer")
            errors = parse_json(data, "the answer").get("errors", [])
            return tuple(str(error["message"])[:200] for error in errors[:3])
        except (ImageError, KeyError, TypeError):
            return ()

    def _refused(self, exc: Exception | None, lines: tuple[str, ...] = ()) -> ImageError:
        registry = self.reference.registry
        if self.credentials is None:
            hint = f"no credentials for it were found; {self._way_to_log_in()}"
        elif self.auth.forgotten:
            hint = (
                f"it refuses what is in `{self.credentials.origin}`, and denies this without, too"
            )
        else:
            hint = f"the credentials come from `{self.credentials.origin}`"
        if exc is not None:
            return ImageError(f"the registry `{registry}` cannot be used: {exc}", lines=lines)
        return ImageError(
            f"the registry `{registry}` denies access to `{self.reference.repository}`",
            hint=hint,
            lines=lines,
        )

    def _way_to_log_in(self) -> str:
        registry = self.reference.registry
        github = ", and $GITHUB_TOKEN counts" if registry == GITHUB_REGISTRY else ""
        return f"`docker login {registry}` leaves some{github}"

    def _unreachable(self, reason: str) -> ImageError:
        return UnreachableError(f"the registry `{self.reference.registry}`: {reason}")

    def _throttled(self, exc: "_ThrottledError") -> ImageError:
        registry = self.reference.registry
        seconds = wanted_pause(exc.retry_after) or 0
        wait = f"; it asks to wait {seconds / 60:.0f} min" if seconds >= 90 else ""
        if self.credentials is None:
            hint = f"more is allowed with credentials; {self._way_to_log_in()}"
        else:
            hint = f"its limit for the account in `{self.credentials.origin}` has been reached"
        return UnreachableError(
            f"the registry `{registry}` says 429, too many requests{wait}",
            hint=f"{hint}; what is in the cache is used without asking with `-pull never`",
            lines=exc.lines,
        )


class UnreachableError(ImageError):
    """The registry did not answer; what is in the cache may do."""


class _ThrottledError(requests.ConnectionError):
    """We have asked too often; `retry_after` is the header, or empty."""

    def __init__(self, retry_after: str, lines: tuple[str, ...]) -> None:
        super().__init__("429 Too Many Requests")
        self.retry_after = retry_after
        self.lines = lines


class MissingError(ImageError):
    """The registry answers that it does not have what it was asked for."""


class _DeniedError(Exception):
    """The registry wants credentials, and we have none that it takes."""


class _Auth(oras.auth.TokenAuth):  # type: ignore[misc]
    """Answer whichever challenge comes, Basic or Bearer, with the credentials we have."""

    def __init__(self, registry: Registry) -> None:
        super().__init__()
        self._registry = registry
        self.forgotten = False  # whether the credentials are of no use here
        self._use(registry.credentials or Credentials(origin=""))

    def _use(self, secret: Credentials) -> None:
        self._basic = False
        self._secret = secret
        self.set_basic_auth(secret.username, secret.password)
        self.token = secret.bearer or None

    def known_header(self) -> dict[str, str]:
        """Return what was asked for the last time, so that no request is sent twice."""
        if self._basic:
            return {"Authorization": f"Basic {self._secret.basic}"}
        return dict(self.get_auth_header())

    def authenticate_request(
        self, original: requests.Response, headers: dict[str, str], refresh: bool = False
    ) -> tuple[dict[str, str], bool]:
        """Return the headers to ask again with, and whether that makes sense."""
        original.close()
        host = urlsplit(original.url).netloc
        if host != self._registry.reference.api_host:
            # The storage behind a redirect has no business with our credentials.
            raise ValueError(f"`{host}`, where it redirects to, wants credentials")
        scheme = original.headers.get("Www-Authenticate", "").partition(" ")[0].lower()
        if scheme == "basic" and self._secret.basic and not self._basic:
            self._basic = True
            return headers | self.known_header(), True
        if scheme != "bearer":
            return headers, False
        answer: tuple[dict[str, str], bool] = super().authenticate_request(
            original, dict(headers), refresh
        )
        return answer

    def request_token(self, challenge: Any) -> str | None:
        """Fetch a token as `challenge` says, with the limits that oras lacks; None without one."""
        realm = challenge.realm or ""
        if urlsplit(realm).scheme not in ("http", "https"):
            raise ValueError(f"it names the malformed token server `{realm[:200]}`")
        session: Session = self._registry.session
        session.check_url(realm)
        fields = {"service": challenge.service, "scope": challenge.scope}
        fields = {key: value for key, value in fields.items() if value}
        if urlsplit(realm).netloc != self._registry.reference.api_host:
            self.forget_guess()
        with self._ask(session, realm, fields) as response:
            if response.status_code == 429:
                retry_after = response.headers.get("Retry-After", "")
                raise _ThrottledError(retry_after, self._registry.messages(response))
            if response.status_code in _RETRY_STATUS:
                raise requests.ConnectionError(f"the token server answered {response.status_code}")
            if response.status_code != 200 and self.forget_guess():
                return self.request_token(challenge)
            if response.status_code != 200:
                return None
            data = self._registry.read(response, _TOKEN_LIMIT, "the token")
        value = parse_json(data, "the token server's answer")
        token = value.get("token") or value.get("access_token")
        return token if isinstance(token, str) else None

    def _ask(self, session: Session, realm: str, fields: dict[str, str]) -> requests.Response:
        if self._secret.identity:
            # OAuth 2, as in the distribution project's "Token Authentication: OAuth2".
            form = {"grant_type": "refresh_token", "client_id": _CLIENT, **fields}
            form["refresh_token"] = self._secret.identity
            return session.post(realm, data=form, stream=True)
        headers = {"User-Agent": _CLIENT}
        if self._secret.basic:
            headers["Authorization"] = f"Basic {self._secret.basic}"
        return session.get(realm, params=fields, headers=headers, stream=True)

    def forget_guess(self) -> bool:
        """Be nobody in particular from now on, if what we have is a guess; say whether it was."""
        if not self._secret.guess:
            return False
        self.forgotten = True
        self._use(Credentials(origin=""))
        return True
