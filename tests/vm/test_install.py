"""What a user installs works without a checkout, whichever installer it is."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.conftest import Vimto
from vimto.version import describe

ROOT = Path(__file__).parents[2]


def tool(name: str) -> str:
    path = Path(sys.executable).parent / name
    if not path.exists():
        pytest.skip(f"not installed: {name}")
    return str(path)


def run(*argv: str | Path, **environ: str | Path) -> str:
    """Run a command that knows nothing of this checkout; return its stdout."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    # As pip does, uv is to trust whom the host trusts: a network may have an authority of its own.
    env |= {"UV_NATIVE_TLS": "1", **{key: str(value) for key, value in environ.items()}}
    done = subprocess.run(argv, cwd="/", env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What `.ci/build` makes."""
    out = tmp_path_factory.mktemp("release")
    run(ROOT / ".ci/build", out)
    assert len(list(out.iterdir())) == 3
    assert (out / "release-notes.md").read_text().strip()
    yield out


def the(release: Path, end: str) -> Path:
    (found,) = release.glob(f"*{end}")
    return found


def check(prefix: Path, program: Path) -> None:
    """Look at an installation, whose own environment is `prefix`."""
    assert run(program, "--version") == f"vimto {describe()}\n"
    assert run(program, "help").startswith("usage: vimto")
    (package,) = prefix.glob("lib/python*/site-packages/vimto")
    assert (package / "_guest/main.go").exists()
    assert (prefix / "share/man/man1/vimto.1").exists()
    assert (prefix / "share/bash-completion/completions/vimto").exists()


@pytest.mark.timeout(600)
def test_pip(release: Path, vimto: Vimto, tmp_path: Path) -> None:
    wheel = the(release, ".whl")
    prefix = tmp_path / "venv"
    run(sys.executable, "-m", "venv", prefix)
    run(prefix / "bin/python", "-m", "pip", "install", "--quiet", wheel)
    check(prefix, prefix / "bin/vimto")
    vimto.program = str(prefix / "bin/vimto")
    done = vimto("exec", "sh", "-c", "uname -r; echo $0", limit=400).check()
    assert done.text.startswith("6.1")
    # The sdist gives the same, by the tools that pip fetches for it.
    made = tmp_path / "made"
    pip = (prefix / "bin/python", "-m", "pip", "wheel", "--quiet", "--no-deps")
    run(*pip, "--wheel-dir", made, the(release, ".tar.gz"))
    assert [path.name for path in made.iterdir()] == [wheel.name]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", [".whl", ".tar.gz"])
def test_pipx(kind: str, release: Path, tmp_path: Path) -> None:
    homes = {"PIPX_HOME": tmp_path / "home", "PIPX_BIN_DIR": tmp_path / "bin"}
    homes["PIPX_MAN_DIR"] = tmp_path / "man"
    words = ("install", "--python", sys.executable, the(release, kind))
    run(tool("pipx"), *words, **homes)
    check(tmp_path / "home/venvs/vimto", tmp_path / "bin/vimto")
    assert (tmp_path / "man/man1/vimto.1").exists()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", [".whl", ".tar.gz"])
def test_uv(kind: str, release: Path, tmp_path: Path) -> None:
    homes = {"UV_TOOL_DIR": tmp_path / "home", "UV_TOOL_BIN_DIR": tmp_path / "bin"}
    words = ("tool", "install", "--python", sys.executable, the(release, kind))
    run(tool("uv"), *words, **homes)
    check(tmp_path / "home/vimto", tmp_path / "bin/vimto")
