"""QEMU and the machines of it: what they run on, how many fit, and whether they are restored."""

import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

from vimto import console
from vimto.config import Config, find_repository
from vimto.errors import QemuError
from vimto.health.finding import Finding, good, weak
from vimto.health.host import find_container
from vimto.limits import host_processors, memory_limit
from vimto.plan.plan import Plan
from vimto.plan.prepare import prepare
from vimto.qemu import probe
from vimto.qemu.find import find_qemu
from vimto.values import MIB
from vimto.vm import claims
from vimto.vm.trial import Trial, try_machine, try_snapshot

_FIFO = "fifo"
_TRIED = "QEMU 7.2, 10 and 11 are known to save machines and to restore them"


def check_qemu(config: Config) -> Iterable[Finding]:
    """Find QEMU."""
    qemu = probe.probe_qemu(find_qemu(config.qemu), config.cache_dir)
    version = ".".join(map(str, qemu.version))
    yield good("qemu", f"{version}, {qemu.path}", version=version, path=qemu.path)


def check_accelerator(config: Config) -> Iterable[Finding]:
    """Say whether machines run on the processor or are emulated, and why."""
    accelerator = probe.choose_accelerator(config.accel)
    if not accelerator.emulated:
        yield good("accelerator", "kvm", name="kvm", reason="")
    elif config.accel == "tcg":
        yield good("accelerator", "tcg, as configured", name="tcg", reason=accelerator.reason)
    else:
        detail = f"tcg (emulation, ten times slower): {accelerator.reason}"
        hint = accelerator.remedy or _how_to_get_kvm(probe.find_obstacle(), find_container())
        yield weak("accelerator", detail, hint, name="tcg", reason=accelerator.reason)


def _how_to_get_kvm(obstacle: probe.Obstacle | None, container: str) -> str:
    """Return what may help where no command of this host's surely does."""
    if obstacle and obstacle.absent:
        if container:
            return "start the container with `--device /dev/kvm`, where its host has that"
        return "sudo modprobe kvm_intel, or kvm_amd, makes it"
    return "virtualisation may be off in the firmware; in a virtual machine its host must nest it"


def check_fitness(config: Config) -> Iterable[Finding]:
    """Save a machine without a guest, and restore it."""
    if not config.snapshot:
        yield good("snapshots", "none, as configured", wanted=False)
        return
    qemu, accelerator = find_qemu(config.qemu), probe.choose_accelerator(config.accel)
    try:
        try_snapshot(qemu, accelerator.name)
    except QemuError as exc:
        # Its own reason stands in the first, or the second of its last two lines.
        detail = "; ".join(("each machine boots", exc.message, *exc.lines[-2:]))
        yield weak("snapshots", detail, exc.hint or _TRIED, wanted=True, restores=False)
    else:
        detail = "this QEMU saves a machine and restores it"
        yield good("snapshots", detail, wanted=True, restores=True)


def check_memory(config: Config) -> Iterable[Finding]:
    """Say how many machines fit into what memory the host has to spare."""
    probe.check_memory(config.memory)
    free = claims.available_memory()
    fit, at_once = claims.room(config.memory, free), host_processors()
    limit = memory_limit()
    limited = "" if limit is None else f" of {limit // MIB} MiB that a control group allows"
    detail = (
        f"{config.memory} MiB for each machine, {free} MiB available{limited}:"
        f" {fit} at once, of which {min(fit, at_once)} start together"
    )
    data = {
        "machine_mib": config.memory,
        "available_mib": free,
        "limit_mib": None if limit is None else limit // MIB,
        "machines": fit,
        "starting_together": at_once,
    }
    if free < config.memory:
        hint = "machines take memory as they use it; `-memory` asks for less"
        yield weak("memory", detail, hint, **data)
    else:
        yield good("memory", detail, **data)


def check_trial(config: Config) -> Iterable[Finding]:
    """Boot the kernel, save the machine, restore it, and make a FIFO in a shared directory."""
    repository = find_repository(os.getcwd())
    with tempfile.TemporaryDirectory(prefix="vimto-") as directory:
        shares = [(path, False) for path in (repository, directory) if path]
        with prepare(config, shares=shares, one_of_many=True) as plan:
            saved = any(shape.key for shape in plan.shapes)
            console.note(f"trying it: a machine boots{', is saved and restored' if saved else ''}")
            fifo = os.path.join(directory, _FIFO)
            trial = try_machine(plan, ["sh", "-c", 'mkfifo -- "$0"', fifo])
            yield from judge_trial(trial, plan)
            yield judge_fifo(trial, fifo)


def judge_trial(trial: Trial, plan: Plan) -> Iterator[Finding]:
    """Say how long a boot took, and a restore."""
    boot = f"the guest program is ready {trial.booted:.1f} s after QEMU's start"
    yield good("boot", boot, seconds=round(trial.booted, 3), accelerator=plan.accelerator)
    times: dict[str, Any] = {
        "ready_seconds": round(trial.answered, 3),
        "command_seconds": round(trial.ended, 3),
        "restored": trial.restored,
    }
    ended = f"a command has ended {trial.ended:.1f} s after QEMU's start"
    if trial.restored:
        detail = f"ready after {trial.answered:.1f} s, {ended} (of a snapshot made for this trial)"
        yield good("restore", detail, **times)
    elif trial.refusal:
        yield weak("restore", f"each machine boots: {trial.refusal}; {ended}", **times)
    else:
        why = "as configured" if plan.fs == "9p" else f"for the kernel has {plan.fs} and no 9p"
        verdict = good if plan.fs == "9p" else weak
        yield verdict("restore", f"none, {why}; {ended}", **times)


def judge_fifo(trial: Trial, fifo: str) -> Finding:
    """Say whether the command made its FIFO, as sockets and device nodes are made.

    The 9p server of QEMU 7.2.22 makes one, opens it to set its mode, is not allowed to
    (CVE-2023-2861), and removes it again with ENXIO, whatever `security_model` says. That of 10.0
    opens it by O_PATH.
    """
    try:
        made = stat.S_ISFIFO(os.lstat(fifo).st_mode)
    except OSError:
        made = False
    if made:
        detail = "sockets, FIFOs and device nodes can be made in shared directories"
        return good("shares", detail, special_files=True)
    said = trial.output.decode("utf-8", "replace").strip().splitlines()
    reason = said[-1] if said else f"status {trial.status}"
    return weak(
        "shares",
        f"no sockets, FIFOs and device nodes can be made in shared directories: {reason}",
        "the machine's own /tmp takes them, and QEMU 10 or later makes them everywhere",
        special_files=False,
    )
