"""Entries of the cache: whole or not there, kept while used, and only locks say who is alive."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vimto.cache import entry
from vimto.errors import CacheError, VimtoError


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a/file"
    with pytest.raises(ZeroDivisionError), entry.new_file(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert names(path.parent) == []
    with entry.new_file(path, mode=0o755) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert path.stat().st_mode & 0o777 == 0o755
    assert names(path.parent) == ["file"]


def test_so_does_a_directory(tmp_path: Path) -> None:
    path = tmp_path / "a/directory"
    with pytest.raises(ZeroDivisionError), entry.new_directory(path) as temporary:
        (temporary / "x").write_text("")
        raise ZeroDivisionError
    assert names(path.parent) == []
    with entry.new_directory(path) as temporary:
        (temporary / "x").write_text("")
    assert names(path) == ["x"]
    assert names(path.parent) == ["directory"]


def test_an_unusable_cache_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(VimtoError, match="cannot be written") as caught:
        entry.make_directory(tmp_path / "file/cache")
    assert "cache_dir" in caught.value.hint


def test_one_makes_it_and_the_others_say_what_they_wait_for(tmp_path: Path) -> None:
    said: list[str] = []
    with entry.locked(tmp_path / "x", waiting="somebody makes x"):
        assert names(tmp_path) == [".x.lock"]
        assert entry.is_locked(tmp_path / "x")
        with (
            pytest.raises(CacheError, match=r"given up after 1\.5 s: another makes x") as caught,
            entry.locked(tmp_path / "x", waiting="another makes x", limit=1.5, say=said.append),
        ):
            pytest.fail("two make it at once")
    assert said == ["waiting: another makes x"]
    assert ".x.lock" in caught.value.hint
    assert not entry.is_locked(tmp_path / "x")
    assert names(tmp_path) == []


def test_whoever_waits_can_be_told_to_end(tmp_path: Path) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    with (
        entry.locked(tmp_path / "x", waiting=""),
        pytest.raises(KeyboardInterrupt),
        entry.locked(tmp_path / "x", waiting="", pause=interrupt),
    ):
        pytest.fail("two make it at once")


def test_ctrl_c_ends_a_wait(tmp_path: Path) -> None:
    code = (
        "import sys; from vimto.cache import entry\n"
        "with entry.locked(sys.argv[1], waiting='somebody makes x'): pass"
    )
    argv = [sys.executable, "-c", code, str(tmp_path / "x")]
    with (
        entry.locked(tmp_path / "x", waiting=""),
        subprocess.Popen(argv, stderr=subprocess.PIPE) as process,
    ):
        assert process.stderr
        assert process.stderr.readline() == b"vimto: waiting: somebody makes x\n"
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
        assert rest.endswith(b"KeyboardInterrupt\n")
        assert process.returncode == -signal.SIGINT
    assert names(tmp_path) == []


def test_who_waited_does_not_take_a_lock_that_is_gone(tmp_path: Path) -> None:
    """The first one's lock file is removed, and a third one may have made another by then."""
    path = tmp_path / "x"
    first, third = entry.locked(path, waiting=""), entry.locked(path, waiting="")
    first.__enter__()
    pauses = []

    def pause(_seconds: float) -> None:
        pauses.append(names(tmp_path))
        if len(pauses) == 1:
            first.__exit__(None, None, None)
            third.__enter__()
        elif len(pauses) == 2:
            third.__exit__(None, None, None)

    with entry.locked(path, waiting="", pause=pause):
        assert pauses == [[".x.lock"], [".x.lock"]]


def leave_aside(path: Path) -> Path:
    """Make what a killed maker of `path` leaves."""
    code = (
        "import os, sys; from vimto.cache import entry\n"
        "with entry.new_directory(sys.argv[1]) as made:\n"
        "    open(made + '/ram', 'w').close(); os.mkdir(made + '/shut', 0o100)\n"
        "    os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    (left,) = path.parent.glob(f".{path.name}.*~")
    return left


def test_what_a_killed_maker_left_is_removed(tmp_path: Path) -> None:
    left = leave_aside(tmp_path / "x")
    assert (left / "x/ram").exists()
    (tmp_path / ".x.lock").touch()
    others = [".nfs0001", "my.lock", "x~"]
    for name in others:
        (tmp_path / name).touch()
    entry.sweep(tmp_path)
    assert names(tmp_path) == others


def test_what_is_being_made_or_locked_is_not(tmp_path: Path) -> None:
    with entry.locked(tmp_path / "y", waiting=""), entry.new_file(tmp_path / "x") as made:
        made.write_text("x")
        entry.sweep(tmp_path)
    assert names(tmp_path) == ["x"]


def test_a_file_system_without_locks_is_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").touch()
    before = len(os.listdir("/proc/self/fd"))

    def refuse(_fd: int, _how: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(CacheError, match="without locks"), entry.new_file(tmp_path / "y"):
        pytest.fail("it cannot be made")
    with pytest.raises(CacheError, match="without locks"), entry.locked(tmp_path / "y", waiting=""):
        pytest.fail("it cannot be locked")
    with pytest.raises(OSError, match="not supported"):
        entry.hold(tmp_path / "x")
    assert not entry.remove(tmp_path / "x")
    assert not entry.is_held(tmp_path / "x")
    entry.sweep(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_maker_that_is_swept_at_once_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a directory and its lock another one may take it for a leftover."""
    chmod = os.chmod

    def swept(path: str, mode: int) -> None:
        chmod(path, mode)
        monkeypatch.setattr(os, "chmod", chmod)
        entry.sweep(tmp_path)

    monkeypatch.setattr(os, "chmod", swept)
    with entry.new_file(tmp_path / "x") as made:
        made.write_text("x")
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_an_entry_in_use_is_not_removed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    path.touch(0o644) if kind == "file" else path.mkdir(0o755)
    fd = entry.hold(path)
    assert entry.is_held(path)
    assert not entry.remove(path)
    other = entry.hold(path)
    os.close(fd)
    assert not entry.remove(path)
    os.close(other)
    assert not entry.is_held(path)
    assert entry.remove(path)
    assert names(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        entry.hold(path)


def test_an_entry_that_others_could_have_written_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.mkdir()
    path.chmod(0o757)
    with pytest.raises(entry.UntrustedError):
        entry.hold(path)
    assert entry.remove(path)


def status(mode: int, uid: int, gid: int = 99) -> os.stat_result:
    return os.stat_result((mode, 0, 0, 0, uid, gid, 0, 0, 0, 0))


def test_a_link_is_an_entry_that_is_not_removed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "x").symlink_to(target)
    entry.make_once(tmp_path / "x", lambda: pytest.fail("it is there"), waiting="")
    assert not entry.remove(tmp_path / "x")
    assert names(tmp_path) == ["target", "x"]


def test_trust() -> None:
    own, other = os.geteuid(), os.geteuid() + 1
    assert entry.is_trusted(status(0o040755, own))
    assert entry.is_trusted(status(0o100644, 0))
    assert entry.is_trusted(status(0o041777, 0))  # /tmp
    assert not entry.is_trusted(status(0o100644, other))
    assert not entry.is_trusted(status(0o041755, other))
    assert not entry.is_trusted(status(0o040757, own))
    assert not entry.is_trusted(status(0o040775, own))
    assert entry.is_trusted(status(0o040775, own, gid=0))


def test_a_tree_without_permissions_is_deleted(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    tree = tmp_path / "tree"
    (tree / "shut/in").mkdir(parents=True)
    (tree / "link").symlink_to(outside)
    (tree / "shut").chmod(0)
    entry.delete(str(tree))
    assert names(tmp_path) == ["outside"]
    assert names(outside) == ["kept"]


def test_two_in_different_pid_namespaces_see_each_other(tmp_path: Path) -> None:
    """As in two containers that share a cache: pids mean nothing, locks do."""
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if os.geteuid() == 0:
        unshare = ["unshare", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        assert os.environ.get("CI") != "true", "CI can make namespaces"
        pytest.skip("this user cannot make a namespace of process ids")
    sweep = "import sys; from vimto.cache import entry; entry.sweep(sys.argv[1])"
    left = leave_aside(tmp_path / "y")
    with entry.new_directory(tmp_path / "x") as made:
        (made / "ram").touch()
        subprocess.run([*unshare, sys.executable, "-c", sweep, str(tmp_path)], check=True)
        assert (made / "ram").exists()
        assert not left.exists()
    assert names(tmp_path) == ["x"]
