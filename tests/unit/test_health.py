"""Each check of `vimto doctor`, on a host that has what it looks for, and on one that has not."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from vimto import __version__
from vimto.config import Config, load_config
from vimto.errors import CommandError, KernelError, QemuError
from vimto.health import cache, host, kernel, machine, tools
from vimto.health.finding import Finding, Verdict
from vimto.kernel import boot
from vimto.kernel.boot import KernelFiles
from vimto.kernel.modules import Module, ModulePlan
from vimto.kernel.reference import HostKernel
from vimto.plan.kernels import FoundKernel
from vimto.qemu.probe import Accelerator, Obstacle
from vimto.qemu.virtiofsd import Server
from vimto.values import GIB
from vimto.version import Commit
from vimto.vm.trial import Trial


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config({}, {"VIMTO_CACHE_DIR": str(tmp_path / "cache")}, tmp_path)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory on PATH, empty."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return directory


def program(place: Path, text: str) -> str:
    place.write_text(f"#!/bin/sh\n{text}\n")
    place.chmod(0o755)
    return str(place)


def verdicts(findings: list[Finding]) -> dict[str, Verdict]:
    return {finding.what: finding.verdict for finding in findings}


# -- vimto and the host


def test_what_a_report_begins_with(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("CI", "GITLAB_CI", "GITHUB_ACTIONS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr(host, "find_container", lambda: "podman")
    monkeypatch.setattr(host.version, "find_commit", lambda: Commit("0123456789ab", True))
    (vimto,) = host.check_vimto(config)
    assert vimto.detail.startswith(f"{__version__} (commit 0123456789ab, modified), Python 3.")
    assert (vimto.data["commit"], vimto.data["modified"]) == ("0123456789ab", True)
    monkeypatch.setattr(host.version, "find_commit", lambda: None)
    (vimto,) = host.check_vimto(config)
    assert vimto.detail.startswith(f"{__version__}, Python 3.")
    assert (vimto.data["commit"], vimto.data["modified"]) == ("", False)
    (found,) = host.check_host(config)
    assert f"Linux {os.uname().release}" in found.detail
    assert host.distribution() in found.detail
    assert "in a container (podman), runner of some CI" in found.detail
    assert found.data["uid"] == os.geteuid()
    monkeypatch.setattr(host, "find_container", lambda: "user namespace")
    (found,) = host.check_host(config)
    assert "in a user namespace" in found.detail


def test_containers(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    uid_map = tmp_path / "proc/self/uid_map"
    uid_map.write_text("         0          0 4294967295\n")
    assert host.find_container(tmp_path, {}) == ""
    uid_map.write_text("         0       1000          1\n")
    assert host.find_container(tmp_path, {}) == "user namespace"
    assert host.find_container(tmp_path, {"KUBERNETES_SERVICE_HOST": "x"}) == "kubernetes"
    (tmp_path / ".dockerenv").touch()
    assert host.find_container(tmp_path, {}) == "docker"
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.containerenv").touch()
    assert host.find_container(tmp_path, {}) == "podman"
    (tmp_path / "run/systemd").mkdir()
    (tmp_path / "run/systemd/container").write_text("lxc\n")
    assert host.find_container(tmp_path, {}) == "lxc"
    assert host.find_container(tmp_path, {"container": "oci"}) == "oci"


def test_services() -> None:
    assert host.find_service({}) == ""
    assert host.find_service({"CI": "1"}) == "some CI"
    assert host.find_service({"CI": "1", "GITHUB_ACTIONS": "true"}) == "GitHub"


# -- programs


def test_setpriv(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = tools.check_setpriv(config)
    assert found.verdict is Verdict.GOOD
    monkeypatch.setattr(tools, "SETPRIV", "/nonexistent/setpriv")
    (found,) = tools.check_setpriv(config)
    assert found.verdict is Verdict.MISSING
    assert "sudo apt-get install util-linux" in found.hint


def test_no_debuggers(config: Config, path: Path) -> None:
    (dlv,), (gdb,) = tools.check_dlv(config), tools.check_debugger(config)
    assert (dlv.verdict, gdb.verdict) == (Verdict.WEAK, Verdict.WEAK)
    assert dlv.hint.startswith("go install ")
    assert "sudo apt-get install gdb" in gdb.hint
    assert "only `vimto gdb-kernel` needs it" in gdb.detail


GO = 'echo \'{"GOVERSION": "go1.26.1"}\''


@pytest.mark.parametrize(
    ("version", "go", "verdict", "words"),
    [
        ("1.27.2", GO, Verdict.GOOD, "1.27.2, "),
        ("1.26.0", GO, Verdict.GOOD, "1.26.0, "),
        ("1.25.9", GO, Verdict.WEAK, "1.25.9 is too old for what Go 1.26.1 builds, "),
        ("1.9.1", GO, Verdict.WEAK, "is too old"),
        ("1.9.1", GO.replace("1.26", "1.19"), Verdict.GOOD, "1.9.1, "),
        ("1.25.9", "exit 1", Verdict.GOOD, "1.25.9, "),
        ("", GO, Verdict.WEAK, "does not tell its version"),
    ],
)
def test_delve(
    config: Config, path: Path, version: str, go: str, verdict: Verdict, words: str
) -> None:
    dlv = program(path / "dlv", f"echo Delve Debugger; echo Version: {version}")
    program(path / "go", go)
    (found,) = tools.check_dlv(config)
    assert (found.verdict, found.data["path"]) == (verdict, dlv)
    assert words in found.detail
    assert bool(found.hint) == (verdict is Verdict.WEAK)


def test_a_delve_that_does_not_run(
    config: Config, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(path / "dlv", "echo no such library >&2; exit 127")
    (found,) = tools.check_dlv(config)
    assert found.verdict is Verdict.WEAK
    assert "no such library" in found.detail
    program(path / "dlv", "exec /bin/sleep 60")
    monkeypatch.setattr(tools, "_LIMIT", 0.2)
    (found,) = tools.check_dlv(config)
    assert "has not ended within 0.2 s" in found.detail


def test_gdb(config: Config, path: Path) -> None:
    gdb = program(
        path / "gdb", 'case $1 in --version) echo "GNU gdb (D 13.1-3) 13.1";; *) echo 42; esac'
    )
    (found,) = tools.check_debugger(config)
    assert (found.verdict, found.detail) == (Verdict.GOOD, f"13.1, {gdb}")
    program(path / "gdb", "echo Python scripting is not supported")
    (found,) = tools.check_debugger(config)
    assert found.verdict is Verdict.WEAK
    assert "this gdb has no Python" in found.detail


def test_go_that_is_not_there_or_too_old(config: Config, path: Path) -> None:
    with pytest.raises(CommandError, match="`go` is not installed"):
        list(tools.check_go(config))
    program(path / "go", 'echo \'{"GOVERSION": "go1.19.8"}\'')
    with pytest.raises(Exception, match="too old"):
        list(tools.check_go(config))


# -- QEMU and its machines


def test_the_accelerator(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Accelerator] = []
    monkeypatch.setattr(machine.probe, "choose_accelerator", lambda _wanted: answers[-1])
    monkeypatch.setattr(machine, "_how_to_get_kvm", lambda *_: "somehow")
    for answer, verdict, hint in (
        (Accelerator("kvm"), Verdict.GOOD, ""),
        (Accelerator("tcg", "no rights", "sudo usermod"), Verdict.WEAK, "sudo usermod"),
        (Accelerator("tcg", "no svm"), Verdict.WEAK, "somehow"),
    ):
        answers.append(answer)
        (found,) = machine.check_accelerator(config)
        assert (found.verdict, found.hint) == (verdict, hint)
        assert answer.reason in found.detail
        assert found.data == {"name": answer.name, "reason": answer.reason}
    (found,) = machine.check_accelerator(config._replace(accel="tcg"))
    assert (found.verdict, found.detail) == (Verdict.GOOD, "tcg, as configured")


def test_what_brings_kvm() -> None:
    absent = Obstacle("there is no /dev/kvm", absent=True)
    assert "--device /dev/kvm" in machine._how_to_get_kvm(absent, "docker")
    assert "sudo modprobe" in machine._how_to_get_kvm(absent, "")
    for container in ("docker", ""):
        assert "firmware" in machine._how_to_get_kvm(Obstacle("no svm"), container)


def test_a_qemu_that_cannot_restore(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_qemu: str, _accelerator: str) -> None:
        raise QemuError("QEMU refused to save", lines=("a", "b", "own reason"))

    monkeypatch.setattr(machine, "find_qemu", lambda name: name)
    monkeypatch.setattr(machine.probe, "choose_accelerator", lambda _wanted: Accelerator("tcg"))
    monkeypatch.setattr(machine, "try_snapshot", refuse)
    (found,) = machine.check_fitness(config)
    assert found.verdict is Verdict.WEAK
    assert found.detail == "each machine boots; QEMU refused to save; b; own reason"
    assert found.data == {"wanted": True, "restores": False}
    monkeypatch.setattr(machine, "try_snapshot", lambda *_: None)
    (found,) = machine.check_fitness(config)
    assert (found.verdict, found.data["restores"]) == (Verdict.GOOD, True)
    (found,) = machine.check_fitness(config._replace(snapshot=False))
    assert (found.verdict, found.detail) == (Verdict.GOOD, "none, as configured")


@pytest.mark.parametrize(
    ("available", "verdict", "fit"),
    [(512, Verdict.WEAK, 1), (1024, Verdict.GOOD, 1), (5000, Verdict.GOOD, 4)],
)
def test_memory(
    config: Config, monkeypatch: pytest.MonkeyPatch, available: int, verdict: Verdict, fit: int
) -> None:
    monkeypatch.setattr(machine.claims, "available_memory", lambda: available)
    monkeypatch.setattr(machine, "host_processors", lambda: 2)
    monkeypatch.setattr(machine, "memory_limit", lambda: 6 * GIB)
    (found,) = machine.check_memory(config)
    assert f"{available} MiB available of 6144 MiB that a control group allows:" in found.detail
    assert found.data["limit_mib"] == 6144
    monkeypatch.setattr(machine, "memory_limit", lambda: None)
    (found,) = machine.check_memory(config)
    assert found.verdict is verdict
    assert found.detail == (
        f"1024 MiB for each machine, {available} MiB available: {fit} at once, of which"
        f" {min(fit, 2)} start together"
    )
    assert found.data == {
        "machine_mib": 1024,
        "available_mib": available,
        "limit_mib": None,
        "machines": fit,
        "starting_together": 2,
    }


RESTORED = Trial(9.25, 0.3, 0.7, True, "", 0, b"")


@pytest.mark.parametrize(
    ("trial", "fs", "verdict", "words"),
    [
        (RESTORED, "9p", Verdict.GOOD, "ready after 0.3 s, a command has ended 0.7 s"),
        (
            RESTORED._replace(restored=False, refusal="QEMU's reason"),
            "9p",
            Verdict.WEAK,
            "each machine boots: QEMU's reason; ",
        ),
        (RESTORED._replace(restored=False), "9p", Verdict.GOOD, "none, as configured; "),
        (RESTORED._replace(restored=False), "virtiofs", Verdict.WEAK, "has virtiofs and no 9p"),
    ],
)
def test_a_trial(trial: Trial, fs: str, verdict: Verdict, words: str) -> None:
    plan: Any = type("Plan", (), {"accelerator": "tcg", "fs": fs})
    booted, restored = machine.judge_trial(trial, plan)
    assert (booted.verdict, booted.data) == (
        Verdict.GOOD,
        {"seconds": 9.25, "accelerator": "tcg"},
    )
    assert "9.2 s after QEMU's start" in booted.detail
    assert (restored.verdict, restored.what) == (verdict, "restore")
    assert words in restored.detail
    assert restored.data == {
        "ready_seconds": 0.3,
        "command_seconds": 0.7,
        "restored": trial.restored,
    }


def test_special_files(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    said = RESTORED._replace(status=1, output=b"mkfifo: cannot create: No such device\n")
    found = machine.judge_fifo(said, str(fifo))
    assert (found.verdict, found.data) == (Verdict.WEAK, {"special_files": False})
    assert found.detail.endswith(": mkfifo: cannot create: No such device")
    silent = machine.judge_fifo(RESTORED._replace(status=137), str(fifo))
    assert silent.detail.endswith(": status 137")
    fifo.touch()
    assert machine.judge_fifo(RESTORED, str(fifo)).verdict is Verdict.WEAK, "it is not one"
    fifo.unlink()
    os.mkfifo(fifo)
    found = machine.judge_fifo(RESTORED, str(fifo))
    assert (found.verdict, found.data) == (Verdict.GOOD, {"special_files": True})


# -- the cache


def test_an_unwritable_cache(config: Config, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    broken = config._replace(cache_dir=tmp_path / "file/cache")
    (finding,) = cache.check_cache(broken)
    assert (finding.verdict, finding.hint) == (
        Verdict.MISSING,
        "`-cache-dir DIR` names another place",
    )
    (finding,) = cache.check_cache(config)
    assert finding.verdict is not Verdict.MISSING
    assert list(config.cache_dir.iterdir()) == []


def test_the_cache_s_room_and_limits(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = config.cache_dir / "vmlinux"
    kernels.mkdir(parents=True)
    (kernels / "k").write_bytes(b"x" * 100_000)
    free = [5 * GIB]
    monkeypatch.setattr(
        cache.shutil, "disk_usage", lambda _path: type("Usage", (), {"free": free[-1]})
    )
    origins = {**config.origins, "snapshot_limit": "VIMTO_SNAPSHOT_LIMIT"}
    limited = config._replace(snapshot_limit=GIB, origins=origins)
    (found,) = cache.check_cache(limited)
    assert found.verdict is Verdict.GOOD
    assert found.detail == (
        f"{config.cache_dir} ($VIMTO_CACHE_DIR), 5.0 GiB free; in it 0.0 of 20.0 GiB"
        " (`cache_limit`), of that snapshots 0.0 of 1.0 GiB"
        " (`snapshot_limit`, VIMTO_SNAPSHOT_LIMIT)"
    )
    assert found.data["free_bytes"] == 5 * GIB
    assert found.data["used_bytes"] >= 100_000  # type: ignore[operator]
    free.append(GIB)
    (found,) = cache.check_cache(config)
    assert found.verdict is Verdict.WEAK
    assert "`vimto kernel prune -all`" in found.hint


# -- the kernel


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """Modules with a current index of the kernel's own."""
    directory = tmp_path / "lib/modules/6.1.0"
    (directory / "kernel").mkdir(parents=True)
    (directory / "kernel/a.ko").touch()
    (directory / "kernel/b.ko.xz").touch()
    (directory / "modules.dep").write_text("kernel/a.ko: kernel/b.ko.xz\nkernel/b.ko.xz:\n")
    return directory


@pytest.fixture
def files(modules: Path) -> KernelFiles:
    return KernelFiles(
        kernel=Path("/k/vmlinux"),
        pvh=True,
        release="6.1.0",
        modules=ModulePlan(
            modules=(Module(name="virtio", path=Path("/k/virtio.ko")),), builtin=("overlay",)
        ),
        transport="9p",
        image_root=None,
        layer={},
        module_count=4000,
        module_directory=modules,
        vmlinux=Path("/k/vmlinux"),
        config={f"CONFIG_{name}": "y" for name in kernel.OPTIONS},
        sources=(),
        entries=(),
        description="Linux 6.1.0 (`/k`)",
    )


def judge(files: KernelFiles, **changes: Any) -> dict[str, Finding]:
    return {
        found.what: found for found in kernel.judge_kernel(dataclasses.replace(files, **changes))
    }


def test_a_whole_kernel(files: KernelFiles) -> None:
    found = judge(files)
    assert {finding.verdict for finding in found.values()} == {Verdict.GOOD}
    assert found["drivers"].detail == "files by 9p; built in: overlay; modules: virtio"
    assert found["drivers"].data["modules"] == ["virtio"]
    assert found["kernel"].data["release"] == "6.1.0"


@pytest.mark.parametrize(
    ("changes", "what", "words"),
    [
        ({"pvh": False}, "entry", "no PVH"),
        ({"config": {}}, "options", "unknown"),
        ({"vmlinux": None}, "symbols", "no vmlinux"),
    ],
)
def test_a_kernel_with_a_weakness(
    files: KernelFiles, changes: dict[str, object], what: str, words: str
) -> None:
    (weak,) = [f for f in judge(files, **changes).values() if f.verdict is Verdict.WEAK]
    assert weak.what == what
    assert words in weak.detail
    assert weak.hint


def test_modules_that_are_nowhere_are_missed(files: KernelFiles) -> None:
    options = {**files.config, "CONFIG_MODULES": "y"}
    without = {"module_count": 0, "module_directory": None}
    found = judge(files, **without, config=options)
    assert found["modules"].verdict is Verdict.WEAK
    assert "index" not in found
    assert "modules" not in judge(files, **without)


def test_the_index_of_modules(files: KernelFiles, modules: Path) -> None:
    assert judge(files)["index"].detail == "made by vimto; the kernel's own is current"
    (modules / "kernel/c.ko").touch()
    assert judge(files)["index"].data == {"made": True, "own": "stale"}
    (modules / "kernel/c.ko").unlink()
    (modules / "kernel/a.ko").unlink()
    assert judge(files)["index"].data["own"] == "stale"
    (modules / "modules.dep").unlink()
    assert judge(files)["index"].detail == "made by vimto; the kernel came without"


def test_options_are_built_in_modules_or_missing(files: KernelFiles) -> None:
    options = dict(files.config) | {"CONFIG_KPROBES": "n", "CONFIG_VIRTIO_NET": "m"}
    del options["CONFIG_DEBUG_INFO_BTF"]
    first, *lacks = [
        found
        for found in kernel.judge_kernel(dataclasses.replace(files, config=options))
        if found.what == "options"
    ]
    assert first.data["modules"] == ["VIRTIO_NET"]
    assert first.data["missing"] == ["DEBUG_INFO_BTF", "KPROBES"]
    assert "PVH" in first.data["built_in"]  # type: ignore[operator]
    assert first.detail.endswith("; modules: VIRTIO_NET")
    assert [found.data["option"] for found in lacks] == ["DEBUG_INFO_BTF", "KPROBES"]
    assert {found.verdict for found in lacks} == {Verdict.WEAK}


def test_virtiofsd_is_looked_for_as_by_a_run(
    config: Config, files: KernelFiles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def none() -> Server:
        raise KernelError("virtiofsd is not installed", hint="apt-get")

    without = dataclasses.replace(files, transport="virtiofs")
    monkeypatch.setattr(kernel, "locate_kernel", lambda *_: FoundKernel(HostKernel(), tmp_path))
    monkeypatch.setattr(boot, "resolve_kernel", lambda _path, *, cache: without)
    monkeypatch.setattr(kernel, "find_virtiofsd", none)
    with pytest.raises(KernelError, match="not installed"):
        list(kernel.check_kernel(config))
    monkeypatch.setattr(boot, "resolve_kernel", lambda _path, *, cache: files)
    assert verdicts(list(kernel.check_kernel(config)))["virtiofsd"] is Verdict.GOOD
    monkeypatch.setattr(kernel, "find_virtiofsd", lambda: Server("/x/virtiofsd", True))
    *_, found = kernel.check_kernel(config)
    assert found.detail == "/x/virtiofsd, the one in Rust; this kernel needs none"
