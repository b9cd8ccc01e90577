"""A core dump is found, told of, and its program kept beside it, whatever lies there."""

import shlex
from pathlib import Path

import pytest

from vimto.vm import cores


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return the package's directory; go's work directory is `tmp/go-build1` beside it."""
    (tmp_path / "a b").mkdir()
    work = tmp_path / "tmp/go-build1/b001"
    work.mkdir(parents=True)
    (work / "m.test").write_bytes(b"program")
    return tmp_path / "a b"


def run(place: Path, *dumps: str, program: str = "tmp/go-build1/b001/m.test") -> None:
    argv = [str(place.parent / program) if "/" in program else program]
    with cores.watched(argv, str(place), str(place.parent / "tmp")):
        for name in dumps:
            (place / name).write_bytes(b"core")


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def test_the_program_is_kept(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (place / "core-m.test-1-1").touch()
    run(place, "core-m.test-100-57")
    assert names(place) == ["core-m.test-1-1", "core-m.test-100-57", "m.test"]
    assert (place / "m.test").read_bytes() == b"program"
    assert (place / "m.test").stat().st_mode & 0o100
    line = capfd.readouterr().err
    words = ["dlv", "core", f"{place}/m.test", f"{place}/core-m.test-100-57"]
    assert line.startswith("vimto: core dumped: ") and line.count("\n") == 1
    assert shlex.split(line.removeprefix("vimto: core dumped: ")) == words


def test_one_without_room_is_not_called_a_dump(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with cores.watched(["m.test"], str(place), str(place.parent / "tmp")):
        (place / "core-m.test-100-57").touch()
    told = capfd.readouterr().err
    assert told.startswith("warning: the core dump ") and "is empty: there was no room" in told
    assert names(place) == ["core-m.test-100-57"]


@pytest.mark.parametrize("kind", ["file", "link", "dangling", "directory"])
def test_never_over_what_is_there(
    place: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    secret = place.parent / "secret"
    secret.write_text("secret")
    path = place / "m.test"
    if kind == "file":
        path.write_text("mine")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("../secret" if kind == "link" else "../nowhere")
    before = path.lstat()
    run(place, "core-m.test-100-57")
    assert path.lstat() == before
    assert (place / "m-100.test").read_bytes() == b"program"
    assert f"{place}/m-100.test" in capfd.readouterr().err
    assert secret.read_text() == "secret" and not (place.parent / "nowhere").exists()


def test_nor_over_the_second_name(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("m.test", "m-100.test"):
        (place / name).write_text("mine")
    run(place, "core-m.test-100-57")
    assert [(place / name).read_text() for name in ("m.test", "m-100.test")] == ["mine", "mine"]
    err = capfd.readouterr().err
    assert "warning: the program `m.test` was not kept beside its core dump: File exists" in err
    assert f"core dumped: '{place}/core-m.test-100-57'" in err


@pytest.mark.parametrize("what", ["program", "parent"])
def test_a_link_in_the_program_s_place_is_not_followed(
    place: Path, capfd: pytest.CaptureFixture[str], what: str
) -> None:
    work, secret = place.parent / "tmp/go-build1/b001", place.parent / "secret"
    secret.mkdir()
    (secret / "m.test").write_text("secret")
    if what == "program":
        (work / "m.test").unlink()
        (work / "m.test").symlink_to(secret / "m.test")
    else:
        work.rename(place.parent / "moved")
        work.symlink_to(secret)
    run(place, "core-m.test-100-57")
    assert names(place) == ["core-m.test-100-57"]
    assert "was not kept" in capfd.readouterr().err


def test_a_program_that_stays_is_not_copied(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (place.parent / "bin").mkdir()
    (place.parent / "bin/program-with-a-long-name").touch()
    run(place, "core-program-with-a--100-57", program="bin/program-with-a-long-name")
    assert names(place) == ["core-program-with-a--100-57"]
    assert f"dlv core {place.parent}/bin/program-with-a-long-name" in capfd.readouterr().err


def test_another_program_s_dump(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(place, "core-sleep-100-58")
    assert names(place) == ["core-sleep-100-58"]
    assert capfd.readouterr().err == f"vimto: a process dumped core: '{place}/core-sleep-100-58'\n"
    run(place, "core-x", "core-", "core-a-b-c", "core.m.test.57")
    assert capfd.readouterr().err == ""


def test_a_directory_that_may_not_be_read(place: Path) -> None:
    run(place / "none")  # no error: the command is what matters
