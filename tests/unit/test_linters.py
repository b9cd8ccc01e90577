"""The linters are tests: whoever breaks a rule learns it before anybody reads the change."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import need

ROOT = Path(__file__).parents[2]


def need_module(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"not installed: {name}")


def check(words: list[str], cwd: Path = ROOT, **environ: str) -> None:
    """Run a linter, which must have nothing to say against us."""
    done = subprocess.run(
        words, cwd=cwd, env={**os.environ, **environ}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def scripts_in(*interpreters: str) -> list[str]:
    """Return the scripts of `hack` and `.ci` whose first line ends in one of `interpreters`."""
    found = []
    for path in sorted([*ROOT.glob("hack/**/*"), *ROOT.glob(".ci/*")]):
        if path.is_file() and "__pycache__" not in path.parts:
            first = path.read_bytes().split(b"\n", 1)[0].decode("utf-8", "replace")
            if first.startswith("#!") and first.endswith(interpreters):
                found.append(str(path.relative_to(ROOT)))
    return found


@pytest.mark.parametrize("words", [["check"], ["format", "--check"]], ids=lambda words: words[0])
def test_ruff(words: list[str]) -> None:
    need_module("ruff")
    check([sys.executable, "-m", "ruff", *words, "."])


def test_mypy() -> None:
    need_module("mypy")
    check(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--scripts-are-modules",
            "vimto",
            *scripts_in("python3"),
        ]
    )


def go_words(*words: str) -> list[str]:
    need("go")
    return ["go", *words]


def test_go_vet() -> None:
    environ = {"GOFLAGS": "", "GOWORK": "off", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    check(go_words("vet", "./..."), ROOT / "guest", **environ)


def test_gofmt() -> None:
    need("gofmt")
    files = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("guest/**/*.go"))]
    done = subprocess.run(["gofmt", "-l", *files], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.decode() == ""


def test_shellcheck() -> None:
    need("shellcheck")
    scripts = [*scripts_in("bash", "/sh"), *(str(path) for path in ROOT.glob("hack/*.sh"))]
    assert scripts
    check(["shellcheck", "--external-sources", *scripts])
