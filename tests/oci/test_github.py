"""ghcr.io and $GITHUB_TOKEN: sent there, and nowhere else. The registry is one of our own."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest

from tests.oci.servers import Quiet, Server
from tests.oci.test_pull import FILES, IMAGE
from tests.unit.oci_parts import ImageConfig, digest, fetch_image, tree
from vimto.errors import ImageError
from vimto.kernel.reference import RegistryReference
from vimto.oci.manifest import OCI_MANIFEST

NAME = "ghcr.io/some/kernels:1"


@dataclass(kw_only=True)
class GitHub:
    """A registry as ghcr.io is one. `token` is what it knows, and `public` whether all may pull.

    As there, whoever shows a token that is not known is denied what nobody in particular gets.
    `blind` says that the token server does not look. `seen` has each request's host, path and
    credentials.
    """

    host: str = ""
    token: str = "secret"
    public: bool = False
    blind: bool = False
    realm: str = ""
    storage: str = ""
    seen: list[tuple[str, str, str]] = field(default_factory=list)

    def secrets(self, place: str = "") -> set[str]:
        """Return the credentials that came to `place`."""
        return {secret for host, path, secret in self.seen if place in f"{host}{path}"}


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def handler(state: GitHub) -> type[Quiet]:
    class Handler(Quiet):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            secret = self.headers.get("Authorization", "")
            state.seen.append((self.headers["Host"], path, secret))
            if path == "/token":
                self.give_token(secret)
            elif path.startswith("/storage/"):
                self.answer(200, IMAGE.blobs[path.rpartition("/")[2]])
            elif secret not in ("Bearer good", "Bearer public" if state.public else "-"):
                realm = f'Bearer realm="{state.realm}/token",service="x",scope="y"'
                self.answer(401 if not secret else 403, b"{}", WWW_Authenticate=realm)
            elif "/blobs/" in path:
                place = f"{state.storage}/storage/{path.rpartition('/')[2]}"
                self.answer(307, b"", Location=place)
            else:
                self.answer(200, IMAGE.manifest, Content_Type=OCI_MANIFEST)

        def give_token(self, secret: str) -> None:
            known = secret == basic(f"octocat:{state.token}")
            if secret and not known and not state.blind:
                self.answer(403, b'{"errors":[{"code":"DENIED","message":"denied"}]}')
                return
            token = "good" if known else "useless" if secret else "public"
            self.answer(200, json.dumps({"token": token}).encode())

    return Handler


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHub]:
    state = GitHub()
    with Server(handler(state)) as registry, Server(handler(state)) as storage:
        state.host = registry.host
        state.realm, state.storage = f"http://{registry.host}", f"http://{storage.host}"
        monkeypatch.setattr(RegistryReference, "api_host", property(lambda _self: state.host))
        monkeypatch.setenv("GITHUB_TOKEN", "secret")
        monkeypatch.setenv("GITHUB_ACTOR", "octocat")
        yield state


def test_the_token_opens_a_private_repository(github: GitHub, settings: ImageConfig) -> None:
    image = fetch_image(NAME, settings)
    assert (image.digest, tree(image.root)) == (digest(IMAGE.manifest), FILES)
    assert github.secrets("/token") == {basic("octocat:secret")}
    assert github.secrets("/v2/") == {"", "Bearer good"}
    assert github.secrets("/storage/") == {""}  # where the registry sends us


def test_no_other_registry_sees_it(github: GitHub, settings: ImageConfig) -> None:
    github.public = True
    fetch_image("registry.example/some/kernels:1", settings)
    assert github.secrets() == {"", "Bearer public"}


def test_no_token_server_elsewhere_sees_it(github: GitHub, settings: ImageConfig) -> None:
    github.public, github.realm = True, github.storage
    fetch_image(NAME, settings)
    assert github.secrets() == {"", "Bearer public"}


@pytest.mark.parametrize("blind", [False, True])
def test_a_token_for_something_else_bars_nobody_from_what_is_public(
    blind: bool, github: GitHub, settings: ImageConfig
) -> None:
    github.token, github.public, github.blind = "another", True, blind
    assert tree(fetch_image(NAME, settings).root) == FILES
    assert basic("octocat:secret") in github.secrets("/token")


@pytest.mark.parametrize("blind", [False, True])
def test_a_token_that_is_refused_is_named(
    blind: bool, github: GitHub, settings: ImageConfig
) -> None:
    github.token, github.blind = "another", blind
    with pytest.raises(ImageError, match="denies access to `some/kernels`") as caught:
        fetch_image(NAME, settings)
    assert "`$GITHUB_TOKEN`" in caught.value.hint


def test_without_a_token_the_hint_tells_of_it(
    github: GitHub, settings: ImageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_TOKEN")
    with pytest.raises(ImageError, match="denies access") as caught:
        fetch_image(NAME, settings)
    assert "`docker login ghcr.io`" in caught.value.hint and "$GITHUB_TOKEN" in caught.value.hint
