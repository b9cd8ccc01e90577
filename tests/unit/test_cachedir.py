import fcntl
import os
from pathlib import Path

import pytest

from vimto.errors import VimtoError
from vimto.kernel import cachedir


def test_a_signature_changes_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    first = cachedir.signature(path)
    assert cachedir.signature(path) == first
    times = path.stat()
    path.write_text("two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert cachedir.signature(path) != first


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a/file"
    with pytest.raises(ZeroDivisionError), cachedir.new_file(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert list(path.parent.iterdir()) == []
    with cachedir.new_file(path, mode=0o755) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert path.stat().st_mode & 0o777 == 0o755
    assert list(path.parent.iterdir()) == [path]


def test_so_does_a_directory(tmp_path: Path) -> None:
    path = tmp_path / "a/directory"
    with pytest.raises(ZeroDivisionError), cachedir.new_directory(path) as temporary:
        (temporary / "x").write_text("")
        raise ZeroDivisionError
    assert list(path.parent.iterdir()) == []
    with cachedir.new_directory(path) as temporary:
        (temporary / "x").write_text("")
    assert [entry.name for entry in path.iterdir()] == ["x"]


def test_an_unusable_cache_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(VimtoError, match="cannot be written") as caught:
        cachedir.make_directory(tmp_path / "file/cache")
    assert "cache_dir" in caught.value.hint


def test_the_lock_is_exclusive(tmp_path: Path) -> None:
    with open(tmp_path / ".x.lock", "wb") as other:
        with cachedir.locked(tmp_path / "x"), pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
