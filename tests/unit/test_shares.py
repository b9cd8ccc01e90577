"""Which directories a machine sees."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from vimto.errors import ConfigError
from vimto.plan.shares import Command, Share, admit, collapse, find_shares, refuse_cache


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


def test_collapse_follows_links(tmp_path: Path) -> None:
    (tmp_path / "real/sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    found = collapse([Share(f"{tmp_path}/link/sub"), Share(f"{tmp_path}/real")])
    assert found == [Share(f"{tmp_path}/real")]


def find(
    argv: list[str], cwd: str, environment: Mapping[str, str] = MappingProxyType({})
) -> set[str]:
    command = Command(argv, cwd, environment, homes=["/home/u"])
    return {share.path for share in find_shares(command)}


@pytest.mark.parametrize("binary", ["b001/x.test", "b001/exe/x", "b001/deep/er/x"])
def test_of_go_s_work_directory_one_package_s_part_is_shared(binary: str) -> None:
    """Beside it lie the binaries of the other packages."""
    argv = [f"/tmp/go-build1/{binary}", "-test.v"]
    assert find(argv, "/src") == {"/src", "/tmp/go-build1/b001"}


def test_a_binary_elsewhere_brings_its_directory() -> None:
    assert find(["/srv/x.test"], "/src") == {"/src", "/srv"}
    assert find(["./x.test"], "/src") == {"/src"}


@pytest.mark.parametrize(
    "place", ["/tmp", "/var/tmp", "/run", "/dev/shm", "/home/u", "/var/run", "/", "/home"]
)
def test_a_communal_directory_is_not_shared_for_a_binary_or_for_being_in_it(place: str) -> None:
    assert find([f"{place}/x.test"], "/src") == {"/src"}
    assert find(["./x.test"], place) == set()
    assert find(["true"], place) == set()
    assert find([f"{place}/dir/x.test"], "/src") == {"/src", os.path.normpath(f"{place}/dir")}


def test_a_link_to_a_communal_directory_is_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/var/tmp")
    assert find([f"{tmp_path}/link/x.test"], "/src") == {"/src"}


def test_a_command_on_path_brings_nothing() -> None:
    assert find(["true"], "/src") == {"/src"}


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
    assert find(argv, str(tmp_path)) == {
        str(tmp_path),
        f"{tmp_path}/cover",
        f"{tmp_path}/out",
        f"{tmp_path}/cpu",
        f"{tmp_path}/fuzz/deep",
    }
    assert (tmp_path / "fuzz/deep").is_dir()


@pytest.mark.parametrize(
    ("name", "value", "directory"),
    [
        ("GOCOVERDIR", "{}/a", "a"),
        ("GOCOVERDIR", "b", "cwd/b"),
        ("GOCOVERDIR", "{}/missing", ""),
        ("GOCOVERDIR", "", ""),
        ("GORACE", "halt_on_error=1 log_path={}/a/race strip_path_prefix=/x", "a"),
        ("GORACE", "log_path=/nowhere log_path=b/race", "cwd/b"),
        ("GORACE", "log_path={}/missing/race", ""),
        ("GORACE", "log_path=stderr", ""),
        ("GORACE", "no_log_path={}/a/race", ""),
        ("ASAN_OPTIONS", "verbosity=1:log_path='{}/with space/asan'", "with space"),
        ("MSAN_OPTIONS", 'log_path="{}/a/msan",x=1', "a"),
        ("GOCACHE", "{}/a", ""),
    ],
)
def test_where_the_environment_tells_go_programs_to_write(
    tmp_path: Path, name: str, value: str, directory: str
) -> None:
    cwd = tmp_path / "cwd"
    for path in (tmp_path / "a", tmp_path / "with space", cwd / "b"):
        path.mkdir(parents=True)
    expected = {str(cwd), *([f"{tmp_path}/{directory}"] if directory else [])}
    assert find(["x"], str(cwd), {name: value.format(tmp_path)}) == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories away")
def test_scratch_directories_are_given_to_the_command_s_user(tmp_path: Path) -> None:
    work, ours, other = (tmp_path / name for name in ("go-build1", "vimto-dlv-x", "mine"))
    for path in (work, ours, other):
        path.mkdir(mode=0o700)
    link = tmp_path / "go-build2"
    link.symlink_to(other)
    found = [Share(str(path)) for path in (work, ours, other, link)]
    command = Command(["x"], str(tmp_path))
    admit(found, command, 0, 0)
    assert [path.lstat().st_uid for path in (work, ours, other, link)] == [0, 0, 0, 0]
    admit(found, command, 1234, 5678)
    assert [path.lstat().st_uid for path in (work, ours, other, link)] == [1234, 1234, 0, 0]
    assert work.stat().st_gid == 5678 and work.stat().st_mode & 0o777 == 0o700
    ours.chmod(0o755)
    admit(found, command, 4321, 5678)
    assert ours.stat().st_uid == 1234, "whoever can look into it needs no help"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories away")
def test_a_private_directory_with_a_similar_name_stays_its_owner_s(tmp_path: Path) -> None:
    private = tmp_path / "go-builder"
    (private / "repository").mkdir(parents=True)
    private.chmod(0o700)
    for share in (private, private / "repository"):
        admit([Share(str(share))], Command(["x"], str(share)), 1234, 5678)
    assert [path.stat().st_uid for path in (private, private / "repository")] == [0, 0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories away")
def test_so_are_the_directories_in_them_that_the_command_is_told_to_write_to(
    tmp_path: Path,
) -> None:
    work, elsewhere = tmp_path / "go-build1", tmp_path / "elsewhere"
    for path in (work, work / "b001", work / "b001/gocoverdir", work / "b002", elsewhere):
        path.mkdir(mode=0o700)
    (work / "b003").symlink_to(elsewhere)
    for name in ("b001", "b002", "b003"):
        words = [f"{work}/{name}/x.test", f"-test.coverprofile={work}/{name}/_cover_.out"]
        words.append(f"-test.gocoverdir={work}/{name}/gocoverdir")
        shared = collapse([Share(f"{work}/{name}")])
        admit(shared, Command(words, str(tmp_path)), 1234, 5678)
        if name == "b001":
            assert (work / "b002").stat().st_uid == 0
    given = (work, work / "b001", work / "b001/gocoverdir", work / "b002")
    assert [path.stat().st_uid for path in given] == [1234] * 4
    assert elsewhere.stat().st_uid == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories away")
def test_a_directory_that_cannot_be_given_away_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(22, "Invalid argument")  # as where a container has no such user

    (tmp_path / "go-build1").mkdir(mode=0o700)
    monkeypatch.setattr("os.fchown", refuse)
    with pytest.raises(ConfigError) as caught:
        admit([Share(f"{tmp_path}/go-build1")], Command(["x"], "/"), 70000, 70000)
    assert "go-build1` cannot be given to the user 70000: Invalid" in caught.value.message
    assert "/etc/subuid" in caught.value.hint


def test_the_cache_is_out_of_the_guest_s_reach(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    (repository / "cache").mkdir(parents=True)
    (tmp_path / "link").symlink_to(repository / "cache")
    for cache in (repository / "cache", repository / "not/yet", tmp_path / "link"):
        with pytest.raises(ConfigError, match="where the machine may write") as caught:
            refuse_cache([Share("/x"), Share(str(repository))], str(cache))
        assert "VIMTO_CACHE_DIR" in caught.value.hint
    refuse_cache([Share(str(repository), readonly=True)], str(repository / "cache"))
    refuse_cache([Share(str(repository))], str(tmp_path / "repository-cache"))
