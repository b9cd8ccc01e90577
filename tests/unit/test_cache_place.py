"""Which directory is the cache: one that nobody else can have written to."""

import grp
import os
import pwd
from pathlib import Path

import pytest

from vimto.cache import place
from vimto.cache.digest import local_directory
from vimto.cache.place import choose_cache, find_fault
from vimto.errors import CacheError

STRANGER = 12345


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    found = tmp_path / "home/cache"
    for name in ("snapshots", "apt/index", "images/tags"):
        (found / name).mkdir(parents=True, mode=0o755)
    Path(local_directory(found), "resolved").mkdir(parents=True)
    return found


def is_own_group(gid: int) -> bool:
    """Say whether it is the group of this user alone, as Debian gives one to each."""
    user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    return group.gr_name == user.pw_name and not set(group.gr_mem) - {user.pw_name}


def test_one_s_own_is_used(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert choose_cache(cache) == cache
    assert choose_cache(cache / "not/yet") == cache / "not/yet"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "where", ["..", ".", "snapshots", "apt/index", "images/tags", "local", "local/HOST/resolved"]
)
def test_others_must_not_be_able_to_write(cache: Path, where: str) -> None:
    path = Path(
        os.path.normpath(cache / where.replace("HOST", os.path.basename(local_directory(""))))
    )
    path.chmod(0o757)
    assert f"others can write to `{path}`" in find_fault(cache)
    path.chmod(0o775)
    private = path.stat().st_gid == 0 or is_own_group(path.stat().st_gid)
    assert ("others can write" in find_fault(cache)) is not private
    path.chmod(0o755)
    assert find_fault(cache) == ""


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@needs_root
@pytest.mark.parametrize("where", ["..", ".", "snapshots"])
def test_nor_may_it_be_somebody_else_s(cache: Path, where: str) -> None:
    path = Path(os.path.normpath(cache / where))
    os.chown(path, STRANGER, STRANGER)
    assert find_fault(cache) == f"`{path}` belongs to the user {STRANGER}"


@needs_root
def test_somebody_else_s_link_leads_nowhere(cache: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(cache.parent)
    assert find_fault(link / "cache") == ""
    os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
    assert "belongs to" in find_fault(link / "cache")


def test_a_private_one_is_used_instead(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cache.chmod(0o777)
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    first.chmod(0o777)
    monkeypatch.setattr(place, "_private_caches", lambda: [first, second])
    assert choose_cache(cache) == second
    assert second.stat().st_mode & 0o777 == 0o755
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert f"`{second}` is used instead" in lines[0]
    monkeypatch.setattr(place, "_private_caches", lambda: [first, cache])
    with pytest.raises(CacheError, match="others can write"):
        choose_cache(cache)


def test_where_the_machine_may_write_is_no_place_for_a_cache(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    home, other = cache.parent, tmp_path / "other"
    monkeypatch.setattr(place, "_private_caches", lambda: [home / "private", other])
    assert choose_cache(cache, str(home)) == other
    assert (
        f"`{cache}` is not used: it lies in `{home}`, where machines may write; `{other}` is"
        in (capfd.readouterr().err)
    )
    assert choose_cache(cache, str(home / "project")) == cache


def test_a_home_without_room_for_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Root may write anywhere but to a read-only file system, so access(2) has to be told."""
    cache, private = tmp_path / "home/.cache/vimto", tmp_path / "private"
    (tmp_path / "home").mkdir()
    readonly = [str(tmp_path / "home")]
    access = os.access
    monkeypatch.setattr(os, "access", lambda p, m: str(p) not in readonly and access(p, m))
    monkeypatch.setattr(place, "_private_caches", lambda: [private])
    assert choose_cache(cache, named=False) == private
    told = capfd.readouterr().err
    assert f"`{tmp_path}/home` cannot be written; `{private}` is used instead" in told
    assert choose_cache(cache) == cache, "what was named is what is meant"
    monkeypatch.setattr(place, "_private_caches", lambda: [cache])
    assert choose_cache(cache, named=False) == cache, "the error will say what is wrong with it"
    monkeypatch.setattr(place, "_private_caches", lambda: [private])
    cache.mkdir(parents=True)
    readonly.append(str(cache))
    assert choose_cache(cache, named=False) == cache, "one that is full serves as well"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("path", ["/dev/null", "/etc/passwd/x/y"])
def test_what_is_not_a_directory(path: str) -> None:
    with pytest.raises(CacheError) as caught:
        choose_cache(Path(path))
    file = path.removesuffix("/x/y")
    assert caught.value.message == f"the cache cannot be `{path}`: `{file}` is not a directory"
    assert "VIMTO_CACHE_DIR" in caught.value.hint


def test_a_container_s_view_of_the_host_s_root(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = os.stat_result((0o040755, 0, 0, 0, 65534, 65534, 0, 0, 0, 0))
    with open("/proc/self/uid_map", encoding="ascii") as file:
        initial = file.read().split() == ["0", "0", "4294967295"]
    assert place._is_unmapped_root(nobody) is not initial
