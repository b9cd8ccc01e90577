"""What real go says about real directories."""

import dataclasses
import os
from pathlib import Path

import pytest

from tests.conftest import need
from vimto.errors import CommandError, UsageError
from vimto.go.tool import GoEnv, check_target, go_env, writable_roots


@pytest.fixture
def environ() -> dict[str, str]:
    need("go")
    env = {name: value for name, value in os.environ.items() if not name.startswith("GO")}
    return {**env, "GOTOOLCHAIN": "local", "GOENV": "off"}


def make_module(directory: Path, name: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "go.mod").write_text(f"module ex.am/{name}\ngo 1.21\n")
    return directory


def ask(directory: Path, environ: dict[str, str]) -> tuple[GoEnv, list[str]]:
    env = go_env("go", str(directory), environ)
    return env, writable_roots("go", str(directory), env, environ)


def test_go_env(tmp_path: Path, environ: dict[str, str]) -> None:
    module = make_module(tmp_path / "m", "m")
    (module / "sub").mkdir()
    environ |= {"GOTMPDIR": str(tmp_path), "GOFLAGS": "-race", "GOCACHE": str(tmp_path / "c")}
    env = go_env("go", str(module / "sub"), environ)
    assert env.gomod == str(module / "go.mod")
    assert env.module_root == str(module)
    assert (env.gotmpdir, env.goflags) == (str(tmp_path), "-race")
    assert env.gocache == str(tmp_path / "c")
    assert (env.goos, env.gohostos) == ("linux", "linux")
    assert env.goversion.startswith("go1.")
    assert env.workspace == ""


def test_outside_of_a_module(tmp_path: Path, environ: dict[str, str]) -> None:
    env, roots = ask(tmp_path, environ)
    assert env.module_root == ""
    assert roots == []


def test_a_missing_go(tmp_path: Path, environ: dict[str, str]) -> None:
    with pytest.raises(CommandError, match=r"go1\.99\.9") as caught:
        go_env("go1.99.9", str(tmp_path), environ)
    assert "PATH" in caught.value.hint


def test_a_failing_go_is_quoted(tmp_path: Path, environ: dict[str, str]) -> None:
    module = make_module(tmp_path, "m")
    (module / "go.work").write_text("nonsense\n")
    with pytest.raises(CommandError) as caught:
        ask(module, environ)
    assert any("nonsense" in line for line in caught.value.lines)


def test_the_repository_is_writable_not_just_the_module(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    (tmp_path / "repo/.git").mkdir(parents=True)
    module = make_module(tmp_path / "repo/go/m", "m")
    assert ask(module, environ)[1] == [str(tmp_path / "repo")]


def test_a_link_in_pwd_names_nothing_twice(tmp_path: Path, environ: dict[str, str]) -> None:
    module = make_module(tmp_path / "real/m", "m")
    (tmp_path / "link").symlink_to("real")
    env, roots = ask(module, {**environ, "PWD": str(tmp_path / "link/m")})
    assert env.gomod == str(tmp_path / "link/m/go.mod")
    assert roots == [str(module)]


def test_a_workspace_s_modules_are_writable(tmp_path: Path, environ: dict[str, str]) -> None:
    (tmp_path / "repo/.git").mkdir(parents=True)
    inside = make_module(tmp_path / "repo/m", "m")
    outside = make_module(tmp_path / "other/o", "o")
    make_module(tmp_path / "repository", "r")
    (tmp_path / "repo/go.work").write_text(
        "go 1.21\nuse (\n\t./m\n\t../other/o\n\t../repository\n)\n"
    )
    env, roots = ask(inside, environ)
    assert env.workspace == str(tmp_path / "repo/go.work")
    # `repository` is not in `repo`, although the name begins so.
    assert roots == [str(outside), str(tmp_path / "repo"), str(tmp_path / "repository")]
    assert ask(inside, {**environ, "GOWORK": "off"})[1] == [str(tmp_path / "repo")]


@pytest.mark.parametrize(
    ("goos", "goarch", "gohostarch", "message"),
    [
        ("linux", "amd64", "amd64", ""),
        ("linux", "386", "amd64", ""),
        ("linux", "arm64", "amd64", "GOARCH is `arm64`"),
        ("linux", "amd64", "arm64", "GOARCH is `amd64`"),
        ("windows", "amd64", "amd64", "GOOS is `windows`"),
    ],
)
def test_check_target(goos: str, goarch: str, gohostarch: str, message: str) -> None:
    blank = GoEnv(**{field.name: "" for field in dataclasses.fields(GoEnv)})
    env = dataclasses.replace(blank, goos=goos, goarch=goarch, gohostarch=gohostarch)
    if message:
        with pytest.raises(UsageError, match=message):
            check_target(env)
    else:
        check_target(env)
