"""What is shown of the host where the guest has a directory for itself."""

import os
from pathlib import Path

import pytest

from vimto import places
from vimto.plan import views
from vimto.plan.shares import Command, Share
from vimto.plan.views import View, find_views, is_ephemeral
from vimto.vm.likeness import Link


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that a guest has for itself, with things in it."""
    path = tmp_path / "empty"
    for name in ("d/sub", "go/bin", "bin", "home"):
        (path / name).mkdir(parents=True)
    (path / "x.test").touch()
    for module in (places, views):
        monkeypatch.setattr(module, "EMPTY", (str(path),))
    return path


def seen(path: Path) -> View:
    return View(str(path), os.path.realpath(path))


def test_a_binary_is_shown_by_itself(empty: Path) -> None:
    command = Command([f"{empty}/x.test"], "/srv")
    assert find_views(command, [], []) == ([seen(empty / "x.test")], [])
    assert find_views(command, [], [Share(str(empty))]) == ([], [])
    assert find_views(Command([f"{empty}/missing"], "/srv"), [], []) == ([], [])
    assert find_views(Command(["/bin/sh"], "/srv"), ["/etc"], []) == ([], [])


def test_the_whole_is_shown_only_to_who_is_in_it(empty: Path) -> None:
    assert find_views(Command(["./x.test"], str(empty)), [], []) == ([seen(empty)], [])
    command = Command(["true"], "/srv", {"HOME": str(empty), "PATH": f"{empty}:/bin"})
    assert find_views(command, [str(empty)], []) == ([], [])


def test_the_outermost_is_shown_once(empty: Path) -> None:
    named = [f"{empty}/d/sub", f"{empty}/d", f"{empty}/home"]
    found = find_views(Command(["true"], "/srv"), named, [Share(f"{empty}/home")])
    assert found == ([seen(empty / "d")], [])


def test_what_the_environment_names_is_shown(empty: Path) -> None:
    environment = {
        "HOME": f"{empty}/home",
        "PATH": f"/usr/bin:{empty}/go/bin:{empty}/bin:relative",
        "TMPDIR": f"{empty}/d",
    }
    found = find_views(Command(["true"], "/srv", environment), [], [])
    # Of an installation all is shown; `bin` itself is none.
    assert found == ([seen(empty / name) for name in ("bin", "go", "home")], [])


def test_a_working_directory_has_the_name_that_pwd_says(empty: Path) -> None:
    (empty / "link").symlink_to("d")
    command = Command(["true"], f"{empty}/d/sub", {"PWD": f"{empty}/link/sub"})
    shares = [Share(f"{empty}/d/sub")]
    assert find_views(command, [], shares) == ([], [Link(f"{empty}/link", "d")])
    other = command._replace(environment={"PWD": f"{empty}/link"})
    assert find_views(other, [], shares) == ([], [])


def test_links_on_the_way_are_made_unless_they_are_there(empty: Path) -> None:
    (empty / "z").symlink_to(empty / "d")
    (empty / "d/inner").symlink_to("../home")
    found = find_views(Command([f"{empty}/z/inner"], "/srv"), [f"{empty}/d"], [])
    views = [seen(empty / "d"), seen(empty / "home")]
    assert found == (views, [Link(f"{empty}/z", f"{empty}/d")])


def test_the_source_of_a_view_is_a_real_path(empty: Path) -> None:
    empty.rename(empty.parent / "elsewhere")
    empty.symlink_to("elsewhere")
    found = find_views(Command([f"{empty}/x.test"], "/srv"), [], [])
    assert found == ([View(f"{empty}/x.test", f"{empty.parent}/elsewhere/x.test")], [])


@pytest.mark.parametrize(
    ("cwd", "shares", "ephemeral"),
    [
        ("/tmp", [], True),
        ("/home/u", [], True),
        ("/tmp", ["/tmp"], False),
        ("/home/u", ["/home"], False),
        ("/tmp/x", [], False),
        ("/", [], False),
    ],
)
def test_where_writes_are_lost(cwd: str, shares: list[str], ephemeral: bool) -> None:
    command = Command(["true"], cwd, homes=["/home/u"])
    assert is_ephemeral(command, [Share(path) for path in shares]) is ephemeral
