"""Which directories a machine sees."""

from pathlib import Path

import pytest

from vimto.errors import ConfigError
from vimto.vm.shares import Share, collapse, find_shares, is_below


def test_is_below_respects_the_slash() -> None:
    assert is_below("/a/b", "/a/b")
    assert is_below("/a/b/c", "/a/b")
    assert is_below("/a", "/")
    assert not is_below("/a/bc", "/a/b")


def test_collapse_keeps_the_outermost() -> None:
    found = collapse([Share("/r/pkg"), Share("/r"), Share("/r/"), Share("/rx"), Share("/r/a/../b")])
    assert found == [Share("/r"), Share("/rx")]


def test_collapse_never_shares_the_root() -> None:
    assert collapse([Share("/"), Share("/a")]) == [Share("/a")]


def test_collapse_keeps_modes_apart() -> None:
    found = collapse([Share("/r", True), Share("/r/w"), Share("/r/w/x"), Share("/r/ro", True)])
    assert found == [Share("/r", True), Share("/r/w")]


def test_collapse_lets_the_first_mode_of_a_path_win() -> None:
    assert collapse([Share("/r", True), Share("/r")]) == [Share("/r", True)]


@pytest.mark.parametrize("path", ["/proc", "/proc/1", "/sys/fs", "/dev", "/dev/x"])
def test_collapse_refuses_what_the_guest_has_itself(path: str) -> None:
    with pytest.raises(ConfigError, match="its own"):
        collapse([Share(path)])


def test_collapse_accepts_memory_backed_files() -> None:
    assert collapse([Share("/dev/shm/go")]) == [Share("/dev/shm/go")]


def paths(shares: list[Share]) -> set[str]:
    return {share.path for share in shares}


def test_the_whole_work_directory_of_go_is_shared() -> None:
    argv = ["/tmp/go-build1/b001/x.test", "-test.v"]
    assert paths(find_shares(argv, "/src", "/tmp")) == {"/src", "/tmp/go-build1"}


def test_a_binary_elsewhere_brings_its_directory() -> None:
    assert paths(find_shares(["/srv/x.test"], "/src", "/tmp")) == {"/src", "/srv"}
    assert paths(find_shares(["./x.test"], "/src", "/tmp")) == {"/src", "/src/."}


def test_a_command_on_path_brings_nothing() -> None:
    assert paths(find_shares(["true"], "/src", "/tmp")) == {"/src"}


def test_path_valued_flags_bring_their_directories(tmp_path: Path) -> None:
    for name in ("out", "cover", "cpu"):
        (tmp_path / name).mkdir()
    argv = [
        "x",
        f"-test.coverprofile={tmp_path}/cover/c.out",
        "--test.outputdir",
        f"{tmp_path}/out",
        f"-test.fuzzcachedir={tmp_path}/fuzz/deep",
        "-test.cpuprofile=../cpu/cpu.out",
        f"-test.gocoverdir={tmp_path}/missing",
        "-test.run=/dev",
    ]
    found = paths(find_shares(argv, str(tmp_path), "/tmp"))
    assert found == {
        str(tmp_path),
        f"{tmp_path}/cover",
        f"{tmp_path}/out",
        f"{tmp_path}/cpu",
        f"{tmp_path}/fuzz/deep",
    }
    assert (tmp_path / "fuzz/deep").is_dir()
