"""Paths: what lies in what, what is everybody's, and where links lead."""

import os
from pathlib import Path

import pytest

from vimto import places
from vimto.places import follow, is_below, is_communal


def test_is_below_respects_the_slash() -> None:
    assert is_below("/a/b", "/a/b")
    assert is_below("/a/b/c", "/a/b")
    assert is_below("/a", "/")
    assert not is_below("/a/bc", "/a/b")


@pytest.mark.parametrize(
    ("directory", "communal"),
    [
        ("/tmp", True),
        ("/var/tmp", True),
        ("/run", True),
        ("/dev/shm", True),
        ("/home/u", True),  # as a home
        ("/", True),
        ("/var", True),  # holds /var/tmp
        ("/home", True),
        ("/tmp/x", False),
        ("/home/u/src", False),
        ("/home/v", False),
        ("/srv", False),
    ],
)
def test_what_is_communal(directory: str, communal: bool) -> None:
    assert is_communal(directory, ["/home/u"]) is communal


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that a guest has for itself."""
    path = tmp_path / "empty"
    path.mkdir()
    monkeypatch.setattr(places, "EMPTY", (str(path),))
    return path


def test_links_that_a_guest_lacks_are_told(empty: Path, tmp_path: Path) -> None:
    (empty / "real/sub").mkdir(parents=True)
    (empty / "one").symlink_to("real")
    (empty / "two").symlink_to(tmp_path / "outside")
    (tmp_path / "outside").symlink_to("empty/one/./sub/..//sub")
    assert follow(f"{empty}/two/x") == (
        f"{empty}/real/sub/x",
        [(f"{empty}/two", f"{tmp_path}/outside"), (f"{empty}/one", "real")],
    )
    assert follow(f"{empty}/real/sub") == (f"{empty}/real/sub", [])
    assert follow("/..//") == ("/", [])


def test_a_private_directory_that_is_a_link_is_taken_as_it_is(empty: Path, tmp_path: Path) -> None:
    empty.rename(tmp_path / "elsewhere")
    empty.symlink_to("elsewhere")
    assert follow(f"{empty}/x") == (f"{empty}/x", [])


def test_circles_lead_nowhere(empty: Path) -> None:
    (empty / "a").symlink_to("b")
    (empty / "b").symlink_to("a")
    assert follow(f"{empty}/a/x") == (f"{empty}/a/x", [])
    assert not os.path.exists(f"{empty}/a")
