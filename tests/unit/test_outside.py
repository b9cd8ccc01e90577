"""What a repository's own files say of what lies outside of it."""

import os
from pathlib import Path

from vimto.go.outside import find_outside


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def find(directory: Path, environ: dict[str, str] | None = None) -> list[str]:
    return [os.path.normpath(path) for path in find_outside(str(directory), environ or {})]


def test_the_git_directories_of_a_worktree(tmp_path: Path) -> None:
    git = tmp_path / "main/.git"
    write(git / "worktrees/wt/commondir", "../..\n")
    write(git / "objects/info/alternates", f"# old\n\n{tmp_path}/cache/objects\n../../../o\u2028\n")
    write(tmp_path / "wt/.git", f"gitdir: {git}/worktrees/wt\n")
    (tmp_path / "wt/sub").mkdir()
    borrowed = [f"{tmp_path}/cache/objects", f"{tmp_path}/o\u2028"]
    assert find(tmp_path / "wt/sub") == [f"{git}/worktrees/wt", str(git), *borrowed]
    assert find(tmp_path / "main") == borrowed


def test_the_git_directory_of_a_submodule(tmp_path: Path) -> None:
    write(tmp_path / "super/sub/.git", "gitdir: ../.git/modules/sub\n")
    assert find(tmp_path / "super/sub") == [f"{tmp_path}/super/.git/modules/sub"]


GO_MOD = """
module m // replace x => ../comment

require example.org/a v1.0.0
replace example.org/a v1.0.0 => ../a // why
replace example.org/b => example.org/c v1.2.3
replace (
	example.org/d => "../with space"
	example.org/e v2.0.0 => `/abs/e`
)
exclude (
	example.org/f v1.0.0
)
"""


def test_modules_that_are_replaced(tmp_path: Path) -> None:
    write(tmp_path / "m/go.mod", GO_MOD)
    expected = [f"{tmp_path}/a", f"{tmp_path}/with space", "/abs/e"]
    (tmp_path / "m/pkg").mkdir()
    assert find(tmp_path / "m/pkg") == expected


def test_a_workspace_brings_its_modules_and_what_replaces_theirs(tmp_path: Path) -> None:
    write(tmp_path / "w/go.work", "go 1.21\nuse ./m\nuse (\n\t../n\n)\nreplace x => ../x\n")
    write(tmp_path / "w/m/go.mod", "module m\n")
    write(tmp_path / "n/go.mod", "module n\n\nreplace y => ./y\n")
    expected = [f"{tmp_path}/w/m", f"{tmp_path}/n", f"{tmp_path}/x", f"{tmp_path}/n/y"]
    assert find(tmp_path / "w/m") == expected
    assert find(tmp_path / "w/m", {"GOWORK": "off"}) == []
    assert find(tmp_path, {"GOWORK": f"{tmp_path}/w/go.work"}) == expected


def test_nonsense_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "go.mod").write_bytes(b"replace\nreplace x =>\n\xff ( (\n=> =>\nreplace (\n")
    (tmp_path / ".git").write_text("gitdir")
    assert find(tmp_path) == []
