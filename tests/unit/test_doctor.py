"""`vimto doctor`: what it shows, its status, and that no check can break or hold up the others."""

import json
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from vimto import __version__, cli
from vimto.commands import doctor
from vimto.config import Config, load_config
from vimto.errors import BootError, KernelError, UsageError
from vimto.health import checks
from vimto.health.checks import Check, examine
from vimto.health.finding import Finding, Verdict, good, missing, weak
from vimto.vm.signals import Interrupted

SKIPPED = "not tried, for something that it needs is missing (see above)"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config({}, {"VIMTO_CACHE_DIR": str(tmp_path / "cache")}, tmp_path)


def failing(exc: BaseException) -> Callable[[Config], Iterable[Finding]]:
    def find(_config: Config) -> Iterator[Finding]:
        yield good("begun", "here")
        raise exc

    return find


def fine(_config: Config) -> list[Finding]:
    return [good("host", "fine")]


def test_a_failed_check_is_a_finding(config: Config) -> None:
    error = KernelError("it is gone", hint="look there", lines=("a", "b"))
    begun, failed, last = examine(config, [Check("kernel", failing(error)), Check("host", fine)])
    assert begun.verdict is last.verdict is Verdict.GOOD
    assert failed == Finding(
        verdict=Verdict.MISSING,
        what="kernel",
        detail="it is gone",
        hint="look there",
        lines=("a", "b"),
    )
    assert doctor.show(failed) == (
        "missing  kernel       it is gone\n"
        "                      | a\n"
        "                      | b\n"
        "                      hint: look there\n"
    )


def test_what_ended_a_machine_is_not_said_of_a_test(config: Config) -> None:
    error = BootError("the machine ended\n  this is not a failure of the test")
    *_, failed = examine(config, [Check("trial", failing(error))])
    assert failed.detail == "the machine ended"


def test_what_fails_for_a_known_reason_is_skipped(config: Config) -> None:
    error = KernelError("there is no kernel")
    wanted = [Check("kernel", failing(error)), Check("trial", failing(error))]
    found = [(finding.what, finding.verdict) for finding in examine(config, wanted)]
    assert found[1::2] == [("kernel", Verdict.MISSING), ("trial", Verdict.SKIPPED)]
    assert list(examine(config, wanted))[-1].detail == SKIPPED


def test_a_fault_of_a_check_is_a_finding(config: Config, capfd: pytest.CaptureFixture[str]) -> None:
    fault = failing(PermissionError(13, "Denied"))
    wanted = [Check("cache", fault), Check("gdb", fault, spare=True), Check("host", fine)]
    _, failed, _, spare, last = examine(config, wanted)
    assert (failed.what, failed.verdict) == ("cache", Verdict.MISSING)
    assert (spare.what, spare.verdict) == ("gdb", Verdict.WEAK)
    assert failed.detail == "cannot be told: PermissionError: [Errno 13] Denied"
    assert last.what == "host"
    assert capfd.readouterr().err == ""


def test_a_check_that_hangs_is_ended(config: Config) -> None:
    ended = []

    def hang(_config: Config) -> Iterator[Finding]:
        try:
            while True:
                try:
                    time.sleep(60)
                except Exception:  # who catches its own failures does not catch this
                    pass
        finally:
            ended.append("cleaned up")
        yield good("never", "")

    before = signal.getsignal(signal.SIGALRM)
    wanted = [Check("go", hang, 0.05), Check("gdb", hang, 0.05, spare=True), Check("host", fine)]
    hung, spare, last = examine(config, wanted)
    assert (hung.what, hung.verdict) == ("go", Verdict.MISSING)
    assert (spare.what, spare.verdict) == ("gdb", Verdict.WEAK)
    assert hung.detail == "no answer within 0.05 s"
    assert ended == ["cleaned up"] * 2
    assert last.what == "host"
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is before


@pytest.mark.parametrize("exc", [KeyboardInterrupt(), Interrupted(signal.SIGTERM)])
def test_a_signal_ends_all(config: Config, exc: BaseException) -> None:
    with pytest.raises(type(exc)):
        list(examine(config, [Check("kernel", failing(exc)), Check("host", fine)]))
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def examined(monkeypatch: pytest.MonkeyPatch, *findings: Finding) -> None:
    monkeypatch.setattr(doctor, "examine", lambda _config: iter(findings))


@pytest.mark.parametrize(
    ("verdict", "status"), [("GOOD", 0), ("WEAK", 0), ("SKIPPED", 0), ("MISSING", 1)]
)
def test_the_status_says_whether_a_run_can_succeed(
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    verdict: str,
    status: int,
) -> None:
    finding = Finding(verdict=Verdict[verdict], what="x", detail="y")
    examined(monkeypatch, finding, good("last", "z"))
    assert doctor.run(config, []) == status
    assert capfd.readouterr().out == doctor.show(finding) + doctor.show(good("last", "z"))
    assert doctor.run(config, ["-json"]) == status


def test_json(
    config: Config, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    kernel = Finding(verdict=Verdict.MISSING, what="boot", detail="a\x1bb", hint="h", lines=("l",))
    examined(monkeypatch, good("qemu", "7.2", version="7.2.22"), weak("dlv", "old"), kernel)
    for flag in ("-json", "--json"):
        assert doctor.run(config, [flag]) == 1
        document = json.loads(capfd.readouterr().out)
        assert {key: document[key] for key in document if key != "findings"} == {
            "schema": 1,
            "vimto": __version__,
            "verdict": "missing",
        }
        assert document["findings"] == [
            {
                "verdict": "ok",
                "what": "qemu",
                "detail": "7.2",
                "hint": "",
                "lines": [],
                "data": {"version": "7.2.22"},
            },
            {
                "verdict": "weak",
                "what": "dlv",
                "detail": "old",
                "hint": "",
                "lines": [],
                "data": {},
            },
            {
                "verdict": "missing",
                "what": "boot",
                "detail": "a\x1bb",
                "hint": "h",
                "lines": ["l"],
                "data": {},
            },
        ]


@pytest.mark.parametrize(
    ("findings", "verdict"),
    [
        ([good("x", "")], "ok"),
        ([weak("x", ""), good("y", "")], "weak"),
        ([weak("x", ""), missing("y", ""), good("z", "")], "missing"),
    ],
)
def test_the_worst_verdict_is_the_document_s(findings: list[Finding], verdict: str) -> None:
    assert doctor.summary(findings).value == verdict


@pytest.mark.parametrize("word", ["x", "-jso", "---json", "-json=1"])
def test_words_are_refused(config: Config, word: str) -> None:
    with pytest.raises(UsageError, match=f"unexpected argument `{word}`"):
        doctor.run(config, ["-json", word])


def test_flags_stand_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def look(config: Config) -> Iterator[Finding]:
        seen.append((config.memory, config.smp))
        yield good("x", "")

    monkeypatch.setattr(doctor, "examine", look)
    monkeypatch.setenv("VIMTO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for words in (
        ["-memory", "2G", "doctor", "-json", "-smp", "3"],
        ["doctor", "-memory=2G", "--json", "--smp", "3"],
        ["doctor", "-memory", "2G", "-smp", "3", "-json"],
    ):
        assert cli.run(words) == 0
        assert json.loads(capfd.readouterr().out)["verdict"] == "ok"
    assert seen == [(2048, 3)] * 3


def test_each_check_has_a_name_and_a_limit() -> None:
    names = [check.what for check in checks.CHECKS]
    assert len(set(names)) == len(names)
    assert names[:2] == ["vimto", "host"], "what a report of a fault begins with"
    assert names[-1] == "trial"
    assert all(0 < check.limit <= 3600 for check in checks.CHECKS)
