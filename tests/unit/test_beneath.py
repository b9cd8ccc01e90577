"""No link is followed below a directory that others write to, and nothing is overwritten."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vimto import beneath


@pytest.fixture
def share(tmp_path: Path) -> Path:
    root = tmp_path / "share"
    (root / "sub").mkdir(parents=True)
    (root / "sub/file").write_text("content")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("secret")
    return root


@pytest.fixture
def directory(share: Path) -> Iterator[int]:
    fd = beneath.open_directory(share)
    yield fd
    os.close(fd)


def test_reading(directory: int) -> None:
    assert beneath.read_file(directory, "sub/file", 7) == b"content"
    assert beneath.read_file(directory, "./sub//file", 7) == b"content"
    with pytest.raises(OSError, match="too large"):
        beneath.read_file(directory, "sub/file", 6)


@pytest.mark.parametrize("name", ["link", "dir/file", "sub/../../secret", "pipe", "sub", "none"])
def test_what_is_not_read(share: Path, directory: int, name: str) -> None:
    (share / "link").symlink_to("../secret")
    (share / "dir").symlink_to("../outside")
    os.mkfifo(share / "pipe")
    with pytest.raises(OSError) as caught:
        beneath.read_file(directory, name, 100)
    assert caught.value.strerror


def test_a_directory_that_is_exchanged_is_still_itself(share: Path, directory: int) -> None:
    share.rename(share.with_name("moved"))
    share.symlink_to("outside")
    with open(beneath.create(directory, "new"), "w") as file:
        file.write("x")
    assert (share.with_name("moved") / "new").read_text() == "x"
    assert not (share.with_name("outside") / "new").exists()


@pytest.mark.parametrize("kind", ["file", "link", "dangling", "hardlink", "directory", "pipe"])
def test_nothing_is_overwritten(share: Path, directory: int, kind: str) -> None:
    target, secret = share / "x", share.parent / "secret"
    {
        "file": lambda: target.write_text("mine"),
        "link": lambda: target.symlink_to("../secret"),
        "dangling": lambda: target.symlink_to("../nowhere"),
        "hardlink": lambda: target.hardlink_to(secret),
        "directory": target.mkdir,
        "pipe": lambda: os.mkfifo(target),
    }[kind]()
    before = target.lstat()
    with pytest.raises(FileExistsError):
        beneath.create(directory, "x")
    source = beneath.open_file(directory, "sub/file")
    try:
        with pytest.raises(FileExistsError):
            beneath.copy(source, directory, "x")
    finally:
        os.close(source)
    assert target.lstat() == before
    assert secret.read_text() == "secret"
    assert not (share.parent / "nowhere").exists()


def test_a_copy_that_fails_leaves_nothing(share: Path, directory: int) -> None:
    source = os.open(share, os.O_RDONLY)  # a directory cannot be read
    try:
        with pytest.raises(IsADirectoryError):
            beneath.copy(source, directory, "x")
    finally:
        os.close(source)
    assert not (share / "x").exists()


def test_a_program_passes(share: Path) -> None:
    path = share / "program"
    with beneath.passing(str(path)) as place:
        assert not path.exists()
        place(str(share / "sub/file"))
        assert path.read_text() == "content" and path.stat().st_mode & 0o100
    assert not path.exists()


@pytest.mark.parametrize("target", ["../secret", "../nowhere"])
def test_a_program_does_not_pass_through_a_link(share: Path, target: str) -> None:
    path = share / "program"
    path.symlink_to(target)
    with beneath.passing(str(path)) as place, pytest.raises(FileExistsError):
        place(str(share / "sub/file"))
    assert path.is_symlink()
    assert (share.parent / "secret").read_text() == "secret"
    assert not (share.parent / "nowhere").exists()


def test_what_took_a_program_s_place_stays(share: Path) -> None:
    path = share / "program"
    with beneath.passing(str(path)) as place:
        place(str(share / "sub/file"))
        path.unlink()
        path.write_text("mine")
    assert path.read_text() == "mine"
