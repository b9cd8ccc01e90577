"""Which commit a vimto tells: a checkout's, a build's, nobody else's."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import need
from vimto import __version__, version
from vimto.version import describe, read_commit


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that looks like vimto's, with one commit."""
    need("git")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setattr(version, "__file__", str(tmp_path / "vimto/version.py"))
    for name in ("vimto/a.py", "guest/main.go", "docs/page.md", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-qm", "x")
    return tmp_path


def git(directory: Path, *words: str) -> str:
    argv = ["git", "-C", str(directory), *words]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def test_a_checkout_says_its_commit_and_whether_it_was_changed(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = f"{__version__} (commit {git(checkout, 'rev-parse', '--short=12', 'HEAD')}"
    assert describe() == f"{told})"
    for name in ("GIT_DIR", "GIT_INDEX_FILE"):  # git's hooks run with these set
        monkeypatch.setenv(name, str(checkout / "another's"))
    assert describe() == f"{told})"
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.delenv("GIT_INDEX_FILE")
    (checkout / "docs/page.md").write_text("2\n")  # the program is the same
    (checkout / "notes").touch()
    assert describe() == f"{told})"
    for name in ("vimto/new.py", "guest/main.go", "pyproject.toml"):
        (checkout / name).write_text("2\n")
        assert describe() == f"{told}, modified)"
        git(checkout, "clean", "-qdf", "vimto")
        git(checkout, "checkout", "-q", ".")


def test_another_s_repository_says_nothing_of_vimto(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = checkout / ".venv/site-packages/vimto/version.py"
    monkeypatch.setattr(version, "__file__", str(inside))
    assert describe() == __version__
    other = checkout / "other"  # git would go on to look above
    (other / ".git").mkdir(parents=True)
    monkeypatch.setattr(version, "__file__", str(other / "vimto/version.py"))
    assert describe() == __version__


def test_without_git_the_version_is_told_all_the_same(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_git(_argv: Sequence[str]) -> None:
        return None

    assert read_commit(str(checkout), no_git) is None
    monkeypatch.setenv("PATH", "/nowhere")
    assert describe() == __version__


def test_what_was_built_says_what_it_was_built_from(monkeypatch: pytest.MonkeyPatch) -> None:
    built = ModuleType("vimto._commit")
    vars(built).update(DIGEST="0123456789ab", MODIFIED=False)
    monkeypatch.setitem(sys.modules, "vimto._commit", built)
    assert describe() == f"{__version__} (commit 0123456789ab)"
    vars(built)["MODIFIED"] = True
    assert describe() == f"{__version__} (commit 0123456789ab, modified)"
