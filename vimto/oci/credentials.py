"""Who we are to a registry: what `docker login` and `podman login` left, or GitHub Actions' token.

Sources: Docker's documentation of `config.json` ("docker login", "Credential stores"),
containers-auth.json(5), and GitHub's "Working with the Container registry".
"""

import base64
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vimto import console
from vimto.errors import CommandError, ImageError
from vimto.files import read_file
from vimto.kernel.reference import RegistryReference

# The key under which Docker keeps the credentials of docker.io.
_DOCKER_SERVER = "https://index.docker.io/v1/"
_LARGEST = 1 << 20
GITHUB_REGISTRY = "ghcr.io"
_GITHUB_TOKEN = "GITHUB_TOKEN"
# What a credential helper gives for a user name when the secret is an identity token.
_TOKEN_USER = "<token>"


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """A user with a password, or a token: `identity` to be exchanged, `bearer` ready to use.

    `origin` is the file, helper or variable that they come from. What was not left for this
    registry on purpose is a `guess`: it is for the registry's own host alone, and where it is
    refused we are nobody in particular.
    """

    origin: str
    username: str = ""
    password: str = field(default="", repr=False)
    identity: str = field(default="", repr=False)
    bearer: str = field(default="", repr=False)
    guess: bool = False

    @property
    def basic(self) -> str:
        """The value of an `Authorization: Basic` header, or empty."""
        if not self.username and not self.password:
            return ""
        return base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def find_credentials(
    reference: RegistryReference, environ: Mapping[str, str]
) -> Credentials | None:
    """Return the credentials for a registry, or for the narrowest path in it that has some.

    For ghcr.io without any it is $GITHUB_TOKEN, which no other registry ever gets.
    Raises `ImageError` for a file that exists and cannot be used; a credential helper that does
    not work costs a warning, as the image may be public.
    """
    for path in credential_files(environ):
        try:
            data = read_file(path, _LARGEST)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as exc:
            raise ImageError(f"the credentials `{path}` cannot be read: {exc.strerror}") from exc
        found = _search(_parse(data, path), reference, path)
        if found is not None:
            return found
    return _from_github(environ) if reference.registry == GITHUB_REGISTRY else None


def _from_github(environ: Mapping[str, str]) -> Credentials | None:
    """Return the token that a workflow has, if it was given to us.

    Elsewhere the same variable may hold a token that may read no packages, with which ghcr.io
    denies even those that all may read: therefore a guess.
    """
    token = environ.get(_GITHUB_TOKEN, "").strip()
    if not token:
        return None
    # The registry wants a name, and looks at the token alone.
    user = environ.get("GITHUB_ACTOR") or "token"
    return Credentials(origin=f"${_GITHUB_TOKEN}", username=user, password=token, guess=True)


def credential_files(environ: Mapping[str, str]) -> list[Path]:
    """Return the files that may hold credentials, the strongest first."""
    home = Path(environ.get("HOME") or Path.home())
    files = [environ["REGISTRY_AUTH_FILE"]] if environ.get("REGISTRY_AUTH_FILE") else []
    if environ.get("DOCKER_CONFIG"):
        files.append(os.path.join(environ["DOCKER_CONFIG"], "config.json"))
    if environ.get("XDG_RUNTIME_DIR"):
        files.append(os.path.join(environ["XDG_RUNTIME_DIR"], "containers/auth.json"))
    settings = environ.get("XDG_CONFIG_HOME") or home / ".config"
    files.append(os.path.join(settings, "containers/auth.json"))
    files.append(os.path.join(home, ".docker/config.json"))
    return [Path(file) for file in dict.fromkeys(files)]


def _parse(data: bytes, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(data or b"{}")
    except ValueError as exc:
        raise ImageError(f"the credentials `{path}` are not JSON: {exc}") from exc
    tables = ("auths", "credHelpers")
    if not isinstance(value, dict) or not all(
        isinstance(value.get(key) or {}, dict) for key in tables
    ):
        raise ImageError(f"the credentials `{path}` are malformed")
    return value


def _search(config: dict[str, Any], reference: RegistryReference, path: Path) -> Credentials | None:
    hosts = _hosts(reference.registry)
    auths = {_normal(key): value for key, value in (config.get("auths") or {}).items()}
    helpers = config.get("credHelpers") or {}
    for host in hosts:
        if host in helpers:
            found = _ask_helper(str(helpers[host]), host, path)
            if found is not None:
                return found
    for name in _names(hosts, reference.repository):
        entry = auths.get(name)
        if isinstance(entry, dict):
            found = _read_entry(entry, path)
            if found is not None:
                return found
    store = config.get("credsStore")
    if store:
        server = _DOCKER_SERVER if reference.registry == "docker.io" else reference.registry
        return _ask_helper(str(store), server, path)
    return None


def _hosts(registry: str) -> list[str]:
    if registry == "docker.io":
        return ["docker.io", "index.docker.io", "registry-1.docker.io"]
    return [registry]


def _names(hosts: list[str], repository: str) -> Iterator[str]:
    """Podman's keys may go on with a path; the longest match wins."""
    parts = repository.split("/")
    for length in range(len(parts), -1, -1):
        for host in hosts:
            yield "/".join([host, *parts[:length]])


def _normal(key: str) -> str:
    key = key.removeprefix("https://").removeprefix("http://").rstrip("/")
    return key.removesuffix("/v1").removesuffix("/v2")


def _read_entry(entry: dict[str, Any], path: Path) -> Credentials | None:
    user, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    if entry.get("auth"):
        try:
            text = base64.b64decode(str(entry["auth"]), validate=True).decode()
        except ValueError as exc:
            raise ImageError(f"the credentials `{path}` are malformed: `auth` is not base64") from (
                exc
            )
        user, _, password = text.partition(":")
    found = Credentials(
        origin=str(path),
        username=user,
        password=password.strip("\0"),
        identity=str(entry.get("identitytoken") or ""),
        bearer=str(entry.get("registrytoken") or ""),
    )
    return found if found.basic or found.identity or found.bearer else None


def _ask_helper(name: str, server: str, path: Path) -> Credentials | None:
    from vimto.process import proc

    program = f"docker-credential-{name}"
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise ImageError(f"the credentials `{path}` name the malformed helper `{name[:80]}`")
    try:
        result = proc.run([program, "get"], input=server.encode(), check=False)
    except CommandError as exc:
        console.warn(f"no credentials for {server}: {exc.message}")
        return None
    if result.status:
        text = (result.stdout + result.stderr).decode("utf-8", "replace").strip()
        if "not found" not in text:  # the protocol's word for "I have none"
            console.warn(f"no credentials for {server}: `{program}` said: {text[:200]}")
        return None
    try:
        value = json.loads(result.stdout)
        user, secret = str(value["Username"]), str(value["Secret"])
    except (ValueError, KeyError, TypeError):
        console.warn(f"no credentials for {server}: `{program}` gave no JSON object")
        return None
    if user == _TOKEN_USER:
        return Credentials(origin=program, identity=secret)
    return Credentials(origin=program, username=user, password=secret)
