"""Credentials: where they are looked for, and which of them count."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from vimto.errors import ImageError
from vimto.kernel.reference import RegistryReference, parse_image
from vimto.oci.credentials import Credentials, credential_files, find_credentials


def auth(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def find(tmp_path: Path, config: Any, name: str = "reg.example/a/b") -> Credentials | None:
    (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    reference = parse_image(name)
    assert isinstance(reference, RegistryReference)
    return find_credentials(reference, {"DOCKER_CONFIG": str(tmp_path), "HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("reg.example/a/b", "reg.example"),
        ("reg.example/a/b", "https://reg.example/v2/"),
        ("reg.example:5000/a", "reg.example:5000"),
        ("alpine", "https://index.docker.io/v1/"),
        ("alpine", "docker.io"),
        ("reg.example/a/b", "reg.example/a"),
    ],
)
def test_keys(name: str, key: str, tmp_path: Path) -> None:
    found = find(tmp_path, {"auths": {"other": auth("no:no"), key: auth("user:pass:word")}}, name)
    assert found is not None
    assert (found.username, found.password) == ("user", "pass:word")
    assert found.basic == base64.b64encode(b"user:pass:word").decode()
    assert "word" not in repr(found)


def test_the_narrowest_path_wins(tmp_path: Path) -> None:
    auths = {"reg.example": auth("1:"), "reg.example/a/b": auth("2:"), "reg.example/a": auth("3:")}
    found = find(tmp_path, {"auths": auths})
    assert found is not None
    assert found.username == "2"


@pytest.mark.parametrize("config", [{}, {"auths": {"reg.example": {}}}, {"auths": None}, ""])
def test_none(config: Any, tmp_path: Path) -> None:
    assert find(tmp_path, config) is None


def test_tokens(tmp_path: Path) -> None:
    found = find(tmp_path, {"auths": {"reg.example": {"identitytoken": "id"}}})
    assert found is not None
    assert (found.identity, found.basic) == ("id", "")
    found = find(tmp_path, {"auths": {"reg.example": {"registrytoken": "reg"}}})
    assert found is not None
    assert found.bearer == "reg"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("{", "are not JSON"),
        ("[]", "are malformed"),
        ({"auths": []}, ""),
        ({"auths": [1]}, "are malformed"),
        ({"auths": {"reg.example": {"auth": "%"}}}, "is not base64"),
        ({"credHelpers": {"reg.example": "../x"}}, "malformed helper"),
    ],
)
def test_broken_file(config: Any, says: str, tmp_path: Path) -> None:
    if not says:
        assert find(tmp_path, config) is None
        return
    with pytest.raises(ImageError, match=says):
        find(tmp_path, config)


def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    path = tmp_path / "docker-credential-fake"
    path.write_text(f"#!/bin/sh\nread -r server || :\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@pytest.mark.parametrize("key", ["credHelpers", "credsStore"])
def test_helper(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(tmp_path, monkeypatch, 'echo "{\\"Username\\":\\"$server\\",\\"Secret\\":\\"$1\\"}"')
    config = {key: {"reg.example": "fake"} if key == "credHelpers" else "fake"}
    found = find(tmp_path, config)
    assert found is not None
    assert (found.username, found.password) == ("reg.example", "get")
    if key == "credsStore":
        found = find(tmp_path, config, "alpine")
        assert found is not None
        assert found.username == "https://index.docker.io/v1/"


def test_helper_with_identity_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(tmp_path, monkeypatch, 'echo "{\\"Username\\":\\"<token>\\",\\"Secret\\":\\"id\\"}"')
    found = find(tmp_path, {"credHelpers": {"reg.example": "fake"}})
    assert found is not None
    assert (found.identity, found.basic) == ("id", "")


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo credentials not found in native keychain; exit 1", ""),
        ("echo the keychain is locked >&2; exit 1", "the keychain is locked"),
        ("echo nonsense", "gave no JSON object"),
    ],
)
def test_helper_that_fails(
    script: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    helper(tmp_path, monkeypatch, script)
    assert find(tmp_path, {"credHelpers": {"reg.example": "fake"}}) is None
    assert says in capfd.readouterr().err


def test_helper_that_is_missing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert find(tmp_path, {"credsStore": "no-such-helper"}) is None
    assert "docker-credential-no-such-helper" in capfd.readouterr().err


def test_order_of_files() -> None:
    environ = {
        "REGISTRY_AUTH_FILE": "/1",
        "DOCKER_CONFIG": "/2",
        "XDG_RUNTIME_DIR": "/3",
        "XDG_CONFIG_HOME": "/4",
        "HOME": "/5",
    }
    assert [str(path) for path in credential_files(environ)] == [
        "/1",
        "/2/config.json",
        "/3/containers/auth.json",
        "/4/containers/auth.json",
        "/5/.docker/config.json",
    ]


@pytest.mark.parametrize("name", ["ghcr.io/cilium/ci-kernels:6.6", "ghcr.io/x@sha256:" + "0" * 64])
def test_githubs_registry_gets_githubs_token(name: str, tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "GITHUB_TOKEN": "secret\n"}
    reference = parse_image(name)
    assert isinstance(reference, RegistryReference)
    found = find_credentials(reference, environ)
    assert found and (found.password, found.origin) == ("secret", "$GITHUB_TOKEN") and found.guess
    assert found.username and "secret" not in repr(found)
    found = find_credentials(reference, {**environ, "GITHUB_ACTOR": "octocat"})
    assert found and found.username == "octocat"
    assert find_credentials(reference, {**environ, "GITHUB_TOKEN": ""}) is None


@pytest.mark.parametrize(
    "name",
    ["alpine", "ghcr.io:443/x", "ghcr.io.example/x", "x.ghcr.io/x", "docker.io/ghcr.io/x"],
)
def test_no_other_registry_gets_githubs_token(name: str, tmp_path: Path) -> None:
    reference = parse_image(name)
    assert isinstance(reference, RegistryReference)
    environ = {"HOME": str(tmp_path), "GITHUB_TOKEN": "secret", "GITHUB_ACTOR": "octocat"}
    assert find_credentials(reference, environ) is None


def test_a_login_wins_over_githubs_token(tmp_path: Path) -> None:
    config = {"auths": {"ghcr.io": auth("user:pass")}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    reference = parse_image("ghcr.io/x/y")
    assert isinstance(reference, RegistryReference)
    environ = {"HOME": str(tmp_path), "DOCKER_CONFIG": str(tmp_path), "GITHUB_TOKEN": "secret"}
    found = find_credentials(reference, environ)
    assert found and (found.username, found.guess) == ("user", False)
