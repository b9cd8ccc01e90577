"""What a failure to save a machine says about the next try."""

import errno
import math
import os
import resource
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vimto.cache import entry, verdicts
from vimto.errors import CacheError, EmulatorFaultError, QemuError, QemuSilentError
from vimto.vm import snapshot

KEY = "k" * 32
TIER: Any = SimpleNamespace(key=KEY)


@pytest.fixture
def plan(tmp_path: Path) -> Any:
    snapshots = tmp_path / "cache/snapshots"
    snapshots.mkdir(parents=True)
    return SimpleNamespace(snapshots=str(snapshots))


def fail(plan: Any, exc: Exception, monkeypatch: pytest.MonkeyPatch) -> verdicts.Verdict | None:
    """Let the machine not be saved for `exc`, and return what is held against its snapshot."""

    def make(*_arguments: object) -> None:
        raise exc

    monkeypatch.setattr(snapshot, "_make", make)
    waiting: Any = None
    assert not snapshot._try_make(plan, TIER, waiting)
    return verdicts.find_verdict(plan.snapshots, KEY)


def unusable(number: int) -> CacheError:
    error = CacheError("the cache directory cannot be written")
    error.__cause__ = OSError(number, os.strerror(number))
    return error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_passes(
    plan: Any, number: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for exc in (OSError(number, os.strerror(number)), unusable(number)):
        assert fail(plan, exc, monkeypatch) is None
        assert capfd.readouterr().err == (
            "warning: the machine was not saved, so it boots: the disk that holds"
            f" `{plan.snapshots}` is full: {os.strerror(number)}\n"
        )


@pytest.mark.parametrize("number", [errno.ENOTEMPTY, errno.EMFILE, errno.ENOMEM])
def test_so_does_what_only_this_try_met(
    plan: Any, number: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert fail(plan, OSError(number, os.strerror(number)), monkeypatch) is None
    assert capfd.readouterr().err.endswith(f": {os.strerror(number)}\n")


def test_an_emulator_s_fault_comes_by_chance(
    plan: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # Twice in a row it costs the snapshot's making, and neither the run nor the next one.
    assert fail(plan, EmulatorFaultError("int3"), monkeypatch) is None
    assert "was not saved, so it boots: int3" in capfd.readouterr().err


def test_what_qemu_refuses_is_not_tried_again(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = fail(plan, QemuSilentError("QEMU's monitor did not answer in time"), monkeypatch)
    assert found is not None and not found.is_off
    found = fail(plan, QemuError("QEMU refused to save the machine: x"), monkeypatch)
    assert found is not None and found.is_off


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file can grow beyond 64 KiB, as where a disk is full (but with EFBIG)."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_noticed_whatever_qemu_says(tmp_path: Path) -> None:
    snapshot._check_full(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_no_more_is_full(tmp_path: Path, small_files: None) -> None:
    with pytest.raises(OSError, match="File too large"):
        snapshot._check_full(str(tmp_path))


def test_a_maker_that_was_stopped_is_not_waited_for_for_ever(
    plan: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(snapshot, "_MAKER_LIMIT", 0.0)
    waiting: Any = SimpleNamespace(
        lifeline=-1, left=math.inf, pause=time.sleep, raising=nullcontext
    )
    with entry.locked(f"{plan.snapshots}/{KEY}", waiting=""):
        assert snapshot.acquire_snapshot(plan, TIER, waiting) is None
    assert capfd.readouterr().err == (
        "vimto: given up after 0 s: another vimto makes the snapshot of this machine; booting\n"
    )
