"""`vimto doctor`: each check on a host that has what it looks for, and on one that has not."""

import dataclasses
from pathlib import Path

import pytest

from vimto.commands import doctor
from vimto.commands.doctor import Finding, Verdict
from vimto.config import Config, load_config
from vimto.errors import KernelError, UsageError
from vimto.kernel import boot
from vimto.kernel.boot import KernelFiles
from vimto.kernel.modules import ModulePlan
from vimto.kernel.reference import HostKernel
from vimto.plan.kernels import FoundKernel


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config({}, {"VIMTO_CACHE_DIR": str(tmp_path / "cache")}, tmp_path)


def files(**changes: object) -> KernelFiles:
    whole = KernelFiles(
        kernel=Path("/k/vmlinux"),
        pvh=True,
        release="6.1.0",
        modules=ModulePlan(),
        transport="9p",
        image_root=None,
        layer={},
        module_count=4000,
        vmlinux=Path("/k/vmlinux"),
        config={f"CONFIG_{name}": "y" for name in doctor._OPTIONS},
        sources=(),
        entries=(),
        description="Linux 6.1.0 (`/k`)",
    )
    return dataclasses.replace(whole, **changes)  # type: ignore[arg-type]


def verdicts(findings: list[Finding]) -> dict[str, Verdict]:
    return {finding.what: finding.verdict for finding in findings}


def test_a_failed_check_is_a_finding(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_config: Config) -> list[Finding]:
        raise KernelError("it is gone", hint="look there", lines=("a", "b", "c", "d"))

    def good(_config: Config) -> list[Finding]:
        return [Finding(verdict=Verdict.GOOD, what="host", detail="fine")]

    monkeypatch.setattr(doctor, "_CHECKS", (("kernel", fail), ("host", good)))
    first, second = doctor.examine(config)
    assert first == Finding(
        verdict=Verdict.MISSING, what="kernel", detail="it is gone; b; c; d", hint="look there"
    )
    assert second.verdict is Verdict.GOOD
    assert doctor.show(first) == (
        "missing  kernel       it is gone; b; c; d\n                      hint: look there\n"
    )


@pytest.mark.parametrize(("verdict", "status"), [("GOOD", 0), ("WEAK", 0), ("MISSING", 1)])
def test_the_status_says_whether_a_run_can_succeed(
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    verdict: str,
    status: int,
) -> None:
    finding = Finding(verdict=Verdict[verdict], what="x", detail="y")
    monkeypatch.setattr(doctor, "_CHECKS", (("x", lambda _config: [finding]),))
    assert doctor.run(config, []) == status
    assert capfd.readouterr().out == doctor.show(finding)


def test_words_are_refused(config: Config) -> None:
    with pytest.raises(UsageError, match="unexpected argument `x`"):
        doctor.run(config, ["x"])


def test_a_whole_kernel() -> None:
    findings = list(doctor.judge_kernel(files()))
    assert set(verdicts(findings).values()) == {Verdict.GOOD}


@pytest.mark.parametrize(
    ("changes", "what", "words"),
    [
        ({"pvh": False}, "entry", "no PVH"),
        ({"config": {}}, "options", "unknown"),
        ({"vmlinux": None}, "symbols", "no vmlinux"),
    ],
)
def test_a_kernel_with_a_weakness(changes: dict[str, object], what: str, words: str) -> None:
    findings = list(doctor.judge_kernel(files(**changes)))
    (weak,) = [finding for finding in findings if finding.verdict is Verdict.WEAK]
    assert weak.what == what
    assert words in weak.detail


def test_modules_that_are_nowhere_are_missed() -> None:
    assert verdicts(list(doctor.judge_kernel(files())))["modules"] is Verdict.GOOD
    options = {**files().config, "CONFIG_MODULES": "y"}
    without = verdicts(list(doctor.judge_kernel(files(module_count=0, config=options))))
    assert without["modules"] is Verdict.WEAK
    assert "modules" not in verdicts(list(doctor.judge_kernel(files(module_count=0))))


def test_each_option_that_is_off_is_named() -> None:
    config = dict(files().config) | {"CONFIG_KPROBES": "n", "CONFIG_VIRTIO_NET": "m"}
    del config["CONFIG_DEBUG_INFO_BTF"]
    findings = list(doctor.judge_kernel(files(config=config)))
    weak = [finding.detail for finding in findings if finding.verdict is Verdict.WEAK]
    assert [detail.split(" ")[0] for detail in weak] == ["CONFIG_DEBUG_INFO_BTF", "CONFIG_KPROBES"]


def test_an_unwritable_cache(config: Config, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    broken = config._replace(cache_dir=tmp_path / "file/cache")
    (finding,) = doctor.check_cache(broken)
    assert (finding.verdict, finding.hint) == (
        Verdict.MISSING,
        "`-cache-dir DIR` names another place",
    )
    (finding,) = doctor.check_cache(config)
    assert finding.verdict is not Verdict.MISSING
    assert list(config.cache_dir.iterdir()) == []


def test_memory(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.probe, "available_memory", lambda: 512 << 20)
    (finding,) = doctor.check_memory(config)
    assert finding.verdict is Verdict.WEAK
    assert "1024 MiB for each machine, 512 MiB available" in finding.detail


def test_debuggers(config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "dlv").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    dlv, gdb = doctor.check_debuggers(config)
    assert (dlv.verdict, dlv.detail) == (Verdict.GOOD, str(tmp_path / "dlv"))
    assert gdb.verdict is Verdict.WEAK
    assert "apt-get install gdb" in gdb.hint


def test_a_missing_setpriv(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SETPRIV", "/nonexistent/setpriv")
    monkeypatch.setattr(doctor, "find_qemu", lambda _name: "/q")
    qemu = doctor.probe.QemuBinary("/q", (8, 2, 0), "")
    monkeypatch.setattr(doctor.probe, "probe_qemu", lambda _path, _cache: qemu)
    good, weak, missing = doctor.check_qemu(config)
    assert good.detail == "8.2.0, /q"
    assert (weak.what, weak.verdict) == ("shares", Verdict.WEAK)
    assert (missing.what, missing.verdict) == ("setpriv", Verdict.MISSING)


def test_a_kernel_without_9p_needs_virtiofsd(
    config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = FoundKernel(HostKernel(), tmp_path)
    monkeypatch.setattr(doctor, "locate_kernel", lambda *_: found)
    monkeypatch.setattr(boot, "resolve_kernel", lambda _path, *, cache: files(transport="virtiofs"))
    monkeypatch.setattr(doctor, "_find_virtiofsd", lambda: None)
    assert verdicts(list(doctor.check_kernel(config)))["virtiofsd"] is Verdict.MISSING
    monkeypatch.setattr(doctor, "_find_virtiofsd", lambda: tmp_path)
    assert "virtiofsd" not in verdicts(list(doctor.check_kernel(config)))
