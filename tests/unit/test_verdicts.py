"""What is held against a snapshot: on this host, for a while; suspicion until a success."""

import os
from pathlib import Path

import pytest

from vimto.cache import verdicts
from vimto.cache.verdicts import acquit, acquit_all, find_verdict, suspect, turn_off

KEY = "k" * 32


@pytest.fixture
def snapshots(tmp_path: Path) -> str:
    return str(tmp_path / "snapshots")


def is_off(snapshots: str) -> bool:
    found = find_verdict(snapshots, KEY)
    return found is not None and found.is_off


def test_off_is_for_a_while_and_of_this_host(
    snapshots: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_verdict(snapshots, KEY) is None
    turn_off(snapshots, KEY, "state", "the reason")
    found = find_verdict(snapshots, KEY)
    assert found and found.is_off and found.reason == "the reason"
    with monkeypatch.context() as patch:
        patch.setattr(verdicts, "local_directory", lambda cache: f"{cache}/elsewhere")
        assert not is_off(snapshots)
    (mark,) = Path(snapshots).parent.glob(f"local/*/failed/{KEY}")
    assert found.until == mark.stat().st_mtime + 600
    os.utime(mark, (1, 1))
    assert not is_off(snapshots)


def test_two_failures_of_a_kind_in_a_row(snapshots: str) -> None:
    assert not suspect(snapshots, KEY, "silent", "first")
    assert not is_off(snapshots)
    assert not suspect(snapshots, KEY, "ended", "another kind")
    acquit(snapshots, KEY)
    assert not suspect(snapshots, KEY, "ended", "after a success")
    (mark,) = Path(snapshots).parent.glob("local/*/failed/*")
    os.utime(mark, (1, 1))  # a suspicion lasts
    assert suspect(snapshots, KEY, "ended", "second")
    assert is_off(snapshots)


def test_prune_forgives_all(snapshots: str) -> None:
    turn_off(snapshots, KEY, "state", "x")
    turn_off(snapshots, "other", "state", "x")
    acquit_all(snapshots)
    assert find_verdict(snapshots, KEY) is find_verdict(snapshots, "other") is None
    acquit_all(snapshots)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": "x"}', "7"])
def test_what_cannot_be_read_is_nothing(snapshots: str, text: str) -> None:
    turn_off(snapshots, KEY, "state", "x")
    (mark,) = Path(snapshots).parent.glob("local/*/failed/*")
    mark.write_text(text)
    assert find_verdict(snapshots, KEY) is None
    assert not suspect(snapshots, KEY, "silent", "x")


def test_a_cache_that_cannot_be_written_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "local").touch()
    turn_off(str(tmp_path / "snapshots"), KEY, "state", "x")
    assert find_verdict(str(tmp_path / "snapshots"), KEY) is None
