"""A trial: whether this QEMU can save a machine of ours and restore it, without a guest in it."""

import contextlib
import os
import tempfile
from collections.abc import Iterator

from vimto.errors import QemuError
from vimto.qemu import devices
from vimto.qemu.backends import Directory, Ram, accelerator_option
from vimto.qemu.monitor import Monitor
from vimto.qemu.options import INCOMING, Flag, Option
from vimto.qemu.process import Qemu
from vimto.vm.log import Log
from vimto.vm.loss import qemu_lines

_MEBIBYTES = 64
_LIMIT = 20.0


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
