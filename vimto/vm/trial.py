"""Trials: whether QEMU saves a machine and restores it, first without a guest, then with one.

What is tried with a guest is what a run does, but for the snapshot: that is made anew, aside, and
is gone afterwards. So both a boot and a restore are seen, whatever the cache has.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

from vimto.cache import entry
from vimto.cache.snapshots import Snapshot
from vimto.errors import CacheError, EmulatorFaultError, QemuError, VimtoError
from vimto.plan.plan import Plan
from vimto.qemu import devices
from vimto.qemu.backends import Directory, Ram, accelerator_option
from vimto.qemu.monitor import Monitor
from vimto.qemu.options import INCOMING, Flag, Option
from vimto.qemu.process import Qemu
from vimto.vm.blame import NotRestoredError
from vimto.vm.log import Log
from vimto.vm.loss import qemu_lines
from vimto.vm.machine import Machine
from vimto.vm.request import Companion, Request
from vimto.vm.run import Job, choose_machine
from vimto.vm.signals import SignalPipe
from vimto.vm.snapshot import boot_and_save
from vimto.vm.streams import Output
from vimto.vm.waiting import Waiting

_MEBIBYTES = 64
_LIMIT = 20.0
# Seconds that other machines on this host may hold up each of ours, and that the command may take.
_TURN = 60.0
_COMMAND = 60.0
_MODES = {"stdin": "null", "stdout": "pipe", "stderr": "stdout"}
_KEPT = 4096


def try_snapshot(qemu: str, accelerator: str) -> None:
    """Save a machine and restore it; raises `QemuError`, with QEMU's own reason.

    None of its processors ever runs.
    """
    parts: list[devices.Device] = [
        devices.Memory(mebibytes=_MEBIBYTES),
        devices.Processors(number=1, accelerator=accelerator),
        devices.SerialConsole(verbose=False),
        devices.AgentPort(name="trial"),
        devices.EntropySource(),
        devices.NinePSlots(tags=("root",)),
    ]
    options: list[Option | Flag] = [
        *devices.assemble(parts).options,
        accelerator_option(accelerator, "single"),
        Directory("/").option("root"),
        Flag("S"),
    ]
    with tempfile.TemporaryDirectory(prefix="vimto-") as place:
        ram = os.path.join(place, "ram")
        state = os.open(os.path.join(place, "state"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
        try:
            with _machine(qemu, [*options, Ram(ram, shared=True).option(_MEBIBYTES)]) as monitor:
                monitor.save(state, _LIMIT)
        finally:
            os.close(state)
        state = os.open(os.path.join(place, "state"), os.O_RDONLY | os.O_CLOEXEC)
        try:
            with _machine(qemu, [*options, Ram(ram).option(_MEBIBYTES), INCOMING]) as monitor:
                monitor.load(state)
                monitor.wait_loaded(_LIMIT)
        finally:
            os.close(state)


@contextlib.contextmanager
def _machine(program: str, options: list[Option | Flag]) -> Iterator[Monitor]:
    with Qemu(program) as qemu:
        qemu.become(options)
        try:
            yield Monitor(qemu.monitor)
        except QemuError as exc:
            exc.lines = tuple(qemu_lines(Log(qemu.console).lines(), program))
            raise


class Trial(NamedTuple):
    """What came of a command in a machine: all times in seconds.

    `booted` is what passed from QEMU's start until the guest program was ready, in a machine that
    was booted anew; `answered` from the start of the one that ran the command until the guest
    program had its order, `ended` until the command had ended. That machine was `restored`, or
    booted where `refusal` says why it could not be, or the plan has no snapshots. `output` is the
    end of what the command wrote, stdout and stderr.
    """

    booted: float
    answered: float
    ended: float
    restored: bool
    refusal: str
    status: int
    output: bytes


def try_machine(plan: Plan, argv: list[str]) -> Trial:
    """Boot a machine of `plan`, save it, restore it, and run `argv` in that as its root.

    Where it cannot be saved or restored the command runs in one that boots. Leaves nothing. Raises
    `BootError`, `LostMachineError` and others as `vimto.vm.run.run` does, `Interrupted` at once.
    """
    plan = plan._replace(uid=0, gid=0, groups=[], timeout=_COMMAND)
    clock = _Clock()
    output = os.memfd_create("output", os.MFD_CLOEXEC)
    try:
        request = Request(
            argv,
            os.getcwd(),
            os.environb,
            make_output=lambda stream, _fd: Output(stream, output),
            modes=_MODES,
            companion=clock,
        )
        places, shape = choose_machine(plan, request)
        with SignalPipe() as signals:
            waiting = Waiting(signals, -1, time.monotonic() + _TURN)
            with waiting.raising():
                job = Job(plan, shape, places, request, waiting)
                booted, refusal, status = _try(job, clock)
        end = os.lseek(output, 0, os.SEEK_END)
        text = os.pread(output, _KEPT, max(0, end - _KEPT))
    finally:
        os.close(output)
    restored = bool(shape.key) and not refusal
    return Trial(booted, clock.answer, clock.end, restored, refusal, status, text)


def _try(job: Job, clock: "_Clock") -> tuple[float, str, int]:
    """Return how long the boot took, why the machine was not restored, and the command's status."""
    refusal = ""
    if job.shape.key:
        try:
            try:
                return _try_restored(job)
            except EmulatorFaultError:  # it comes by chance
                return _try_restored(job)
        except (NotRestoredError, QemuError, CacheError, OSError) as exc:
            refusal = exc.message if isinstance(exc, VimtoError) else str(exc)
    status = job.run_booted()
    return clock.answer, refusal, status


def _try_restored(job: Job) -> tuple[float, str, int]:
    with entry.aside(f"{job.plan.snapshots}/trial") as place:
        booted = boot_and_save(job.plan, job.shape, job.waiting, place)
        lock = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        state = os.open(f"{place}/state", os.O_RDONLY | os.O_CLOEXEC)
        with closing(Snapshot(place, lock, state)) as found:
            return booted, "", job.run_restored(found)


class _Clock(Companion):
    """Takes the times of the machine at whose side it is."""

    def __init__(self) -> None:
        self._start = self.answer = self.end = 0.0

    def meet(self, machine: Machine) -> None:
        self._start = time.monotonic()

    def accepted(self) -> None:
        self.answer = time.monotonic() - self._start

    def ended(self) -> None:
        self.end = time.monotonic() - self._start
