"""A trial: whether this QEMU can save a machine of ours and restore it, without a guest in it."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence

from vimto.errors import QemuError
from vimto.process.spawn import end, spawn
from vimto.qemu import devices
from vimto.qemu.cmdline import FIRST_SHARE_SLOT, assemble
from vimto.qemu.qmp import Monitor
from vimto.vm.launch import Wiring
from vimto.vm.log import Log
from vimto.vm.loss import qemu_lines
from vimto.vm.machine import Memory, fill

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
        devices.NinePSlots(tags=("root",), first_slot=FIRST_SHARE_SLOT),
    ]
    words = [*assemble(qemu, parts).machine, "-S"]
    with tempfile.TemporaryDirectory(prefix="vimto-") as place:
        ram = os.path.join(place, "ram")
        state = os.open(os.path.join(place, "state"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
        try:
            with _machine(words, Memory(ram, shared=True)) as monitor:
                monitor.save(state, _LIMIT)
        finally:
            os.close(state)
        state = os.open(os.path.join(place, "state"), os.O_RDONLY | os.O_CLOEXEC)
        try:
            with _machine([*words, "-incoming", "defer"], Memory(ram)) as monitor:
                monitor.load(state)
                monitor.wait_loaded(_LIMIT)
        finally:
            os.close(state)


@contextlib.contextmanager
def _machine(words: Sequence[str], memory: Memory) -> Iterator[Monitor]:
    wiring = Wiring()
    values = {
        "threads": "single",
        "agent": str(wiring.port_there),
        "monitor": str(wiring.monitor_there),
        "console": str(wiring.console),
        "ram": memory.option(_MEBIBYTES),
        "root": "/,readonly=on",
    }
    try:
        pid = spawn(fill(words, values), log=wiring.console, keep=wiring.inherited())
    except BaseException:
        wiring.close_ours()
        raise
    finally:
        wiring.close_theirs()
    monitor = Monitor(wiring.monitor)
    try:
        yield monitor
    except QemuError as exc:
        exc.lines = tuple(qemu_lines(Log(wiring.console).lines(), words[0]))
        raise
    finally:
        end(pid)
        monitor.close()
        os.close(wiring.port)
        os.close(wiring.console)
