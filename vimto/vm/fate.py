"""How a command can end its machine without a status: reboot, power off, halt, another kernel.

reboot, poweroff       QEMU ends (`-no-reboot`), and says why on its monitor
another kernel (kexec) its drivers reset the port that was the guest program's, which QEMU tells;
                       one without drivers panics sooner or later
halt                   nothing ends: the kernel says so on its console, and nobody answers
"""

import select
import time
from collections.abc import Sequence

from vimto.errors import LostMachineError
from vimto.vm.machine import Machine
from vimto.vm.observer import Line, Observer, State
from vimto.vm.request import Companion

# After its port is closed a kernel may still have to end the machine, which is a reboot then.
_CLOSED_LIMIT = 10.0
# After this silence a halted machine is believed to be one.
_SILENT_LIMIT = 10.0
_STEP = 2.0
# What kernel/reboot.c prints, with a level that no console leaves out.
_HALTED = "reboot: System halted"
_RESTARTING = "reboot: Restarting system"
# What a kernel has said once a command runs, or never will; the first is kernel/kexec_core.c's.
_ANOTHER_KERNEL = ("Starting new kernel", "Unable to mount root fs")
_HINT = "a machine has one kernel and one boot; what shall outlive it belongs into a share"


class MonitorWatch(Observer):
    """Hears what QEMU's monitor says, for the companion.

    Raises `QemuError` when QEMU refuses to restore the machine, and `LostMachineError` where
    nothing listens at the guest program's port any more.
    """

    def __init__(self, machine: Machine, companion: Companion) -> None:
        self._monitor = machine.monitor
        self._companion = companion
        self._line: Line
        self._is_open = True

    def join(self, line: Line) -> None:
        self._line = line

    def interests(self) -> list[tuple[int, int]]:
        listens = self._is_open and self._line.state != State.EXITED
        return [(self._monitor.fd, select.POLLIN)] if listens else []

    def handle(self, fd: int, events: int) -> None:
        for event in self._monitor.read_events():
            if event:
                self._companion.hear(event)
            else:
                self._is_open = False
        if self._monitor.port_closed and not self.wake_at:
            self.wake_at = time.monotonic() + _CLOSED_LIMIT

    def check(self) -> None:
        if self.wake_at and time.monotonic() >= self.wake_at:
            self.wake_at = 0.0
            if self._line.state != State.EXITED:
                raise LostMachineError("the guest program was cut off")


class HaltWatch(Observer):
    """Notices that a command has halted its machine; raises `LostMachineError` then.

    Anybody may write those words to the console, so the guest program is asked whether it is there.
    """

    def __init__(self, machine: Machine) -> None:
        self._log = machine.log
        self._line: Line
        self._asked_at = 0.0

    def join(self, line: Line) -> None:
        self._line = line

    def started(self) -> None:
        self.wake_at = time.monotonic() + _STEP

    def answered(self) -> None:
        self._asked_at = 0.0

    def ended(self) -> None:
        self.wake_at = 0.0

    def check(self) -> None:
        now = time.monotonic()
        if not self.wake_at or now < self.wake_at:
            return
        self.wake_at = now + _STEP
        if self._asked_at:
            if now - self._asked_at >= _SILENT_LIMIT:
                raise LostMachineError("the guest program does not answer any more")
        elif _HALTED.encode() in self._log.news():
            self._line.pass_on(0)
            self._asked_at = now


def describe_end(shutdown: str, port_closed: bool, lines: Sequence[str]) -> tuple[str, str]:
    """Return what a command did to its machine, and a hint; empty where it did nothing such.

    `shutdown` is QEMU's reason to end; with `port_closed` the guest program had lost its port
    before. `lines` are the console's.
    """

    def said(*words: str) -> bool:
        return any(word in line for line in lines for word in words)

    if shutdown == "guest-shutdown":
        return "the guest powered the machine off", _HINT
    if said(_HALTED):
        return "the guest halted the machine", _HINT
    if said(_RESTARTING):
        return "the guest rebooted the machine", _HINT
    if said(*_ANOTHER_KERNEL) or port_closed:
        return "the guest started another kernel (kexec)", _HINT
    return "", ""
