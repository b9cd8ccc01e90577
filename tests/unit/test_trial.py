"""What a trial makes of a machine that cannot be saved, restored, or booted."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vimto.errors import BootError, CacheError, EmulatorFaultError, QemuError
from vimto.vm import trial
from vimto.vm.blame import SILENT, NotRestoredError

CLOCK: Any = SimpleNamespace(answer=4.0)


class Job:
    """A job whose command has the status 0 in a restored machine, and 7 in one that boots."""

    def __init__(self, snapshots: Path, key: str = "k") -> None:
        self.plan = SimpleNamespace(snapshots=str(snapshots))
        self.shape = SimpleNamespace(key=key)
        self.waiting = None
        self.refusal: Exception | None = None
        self.seen: list[str] = []

    def run_booted(self) -> int:
        return 7

    def run_restored(self, found: Any) -> int:
        self.seen = sorted(os.listdir(found.path))
        assert os.pread(found.state, 10, 0) == b"state"
        if self.refusal:
            raise self.refusal
        return 0


@pytest.fixture
def job(tmp_path: Path) -> Any:
    return Job(tmp_path / "snapshots")


def saving(*outcomes: Exception | None) -> Callable[..., float]:
    """Return what saves a machine, or raises, once for each of `outcomes`."""
    left = list(outcomes)

    def save(_plan: object, _shape: object, _waiting: object, aside: str) -> float:
        outcome = left.pop(0)
        if outcome:
            raise outcome
        for name in ("ram", "state"):
            Path(aside, name).write_text(name)
        return 9.0

    return save


def test_a_snapshot_of_its_own_is_made_and_gone(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "boot_and_save", saving(None))
    assert trial._try(job, CLOCK) == (9.0, "", 0)
    assert job.seen == ["ram", "state"]
    assert os.listdir(job.plan.snapshots) == []


@pytest.mark.parametrize(
    "refusal",
    [QemuError("its reason"), CacheError("its reason"), OSError("its reason")],
)
def test_what_cannot_be_saved_boots(
    job: Any, monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    monkeypatch.setattr(trial, "boot_and_save", saving(refusal))
    assert trial._try(job, CLOCK) == (4.0, "its reason", 7)
    assert os.listdir(job.plan.snapshots) == []


def test_what_cannot_be_restored_boots(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "boot_and_save", saving(None))
    job.refusal = NotRestoredError("it was silent", SILENT)
    assert trial._try(job, CLOCK) == (4.0, "it was silent", 7)
    assert os.listdir(job.plan.snapshots) == []


def test_a_fault_of_the_emulator_is_met_once(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = EmulatorFaultError("by chance")
    monkeypatch.setattr(trial, "boot_and_save", saving(fault, None))
    assert trial._try(job, CLOCK) == (9.0, "", 0)
    monkeypatch.setattr(trial, "boot_and_save", saving(fault, fault))
    with pytest.raises(EmulatorFaultError):
        trial._try(job, CLOCK)


def test_what_does_not_boot_is_not_booted_again(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "boot_and_save", saving(BootError("kernel panic")))
    with pytest.raises(BootError, match="kernel panic"):
        trial._try(job, CLOCK)
    assert os.listdir(job.plan.snapshots) == []


def test_without_snapshots_the_command_s_own_machine_boots(tmp_path: Path) -> None:
    job: Any = Job(tmp_path / "snapshots", key="")
    assert trial._try(job, CLOCK) == (4.0, "", 7)
    assert not (tmp_path / "snapshots").exists()
