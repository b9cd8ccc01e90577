"""A registry for all tests of a worker, and a configuration with a cache for each."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need
from tests.oci.servers import Proxy, TokenServer, docker_registry, proxy, token_server
from tests.unit.oci_parts import ImageConfig
from vimto.oci import session


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An anonymous registry."""
    need("docker-registry")
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that wants `user` and `pass:word`."""
    need("docker-registry", "htpasswd")
    directory = tmp_path_factory.mktemp("guarded")
    with (directory / "htpasswd").open("wb") as file:
        subprocess.run(["htpasswd", "-nbB", "user", "pass:word"], stdout=file, check=True)
    auth = f"  htpasswd: {{realm: test, path: {directory}/htpasswd}}\n"
    with docker_registry(directory, auth) as host:
        yield host


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[TokenServer]:
    """A token server."""
    need("openssl")
    directory = tmp_path / "tokens"
    directory.mkdir()
    with token_server(directory) as server:
        yield server


@pytest.fixture
def hurt(registry: str) -> Iterator[Proxy]:
    """A proxy before the anonymous registry; set its `fault`."""
    with proxy(registry) as state:
        yield state


@pytest.fixture
def settings(tmp_path: Path) -> ImageConfig:
    return ImageConfig(cache_dir=tmp_path / "cache")


@pytest.fixture(autouse=True)
def no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the user's own credentials and proxies out; returns the directory for `config.json`."""
    path = tmp_path / "home"
    path.mkdir()
    for name in ("HOME", "DOCKER_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(path))
    for name in (
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
        "REGISTRY_AUTH_FILE",
        "GITHUB_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)
    return path


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for less than a user's patience; what is tested is that waiting ends."""
    fields = session.Patience.__init__.__kwdefaults__
    monkeypatch.setitem(fields, "pause", 0.01)
    monkeypatch.setitem(fields, "read", 2.0)
