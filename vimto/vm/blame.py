"""Whose fault it is that a machine was not restored, and what follows for its snapshot.

QEMU's own word on the state                              the snapshot is dropped at once
silent though it could run; ended itself; QEMU crashed    dropped if the next one does the same
QEMU killed, or refused by the host (memory, files, port) kept: no fault of the snapshot's
"""

import os
import signal
import time
from collections.abc import Sequence

from vimto import console
from vimto.cache import verdicts
from vimto.cache.snapshots import Snapshot
from vimto.errors import BootError, QemuError, VimtoError
from vimto.plan.plan import Plan, Shape
from vimto.vm.loss import describe_signal, qemu_lines
from vimto.vm.machine import Machine

STATE, SILENT, ENDED, CRASHED, KILLED, REFUSED = (
    "state",
    "silent",
    "ended",
    "crashed",
    "killed",
    "refused",
)
# What QEMU says when it cannot load a state (migration/migration.c and savevm.c, 7.2 to 11).
_STATE_WORDS = ("load of migration failed", "migration stream", "savevm", "while loading state")
# What it says beside that where the host is to blame; the last where it had no room for a file that
# its monitor was to hand over (monitor/fds.c).
_HOST_WORDS = (
    "Cannot allocate memory",
    "Too many open files",
    "No space left on device",
    "File descriptor named",
)
# Before it exits with 0 on SIGTERM, SIGINT and SIGHUP, and at gdb's `kill`.
_ENDED_WORDS = ("terminating on signal", "Terminated via GDBstub")
# A state can make QEMU do this to itself; SIGKILL and SIGTERM come from somebody else.
_CRASHES = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL)
# Those that another try in the same run may not meet; they take no time.
_AGAIN = (KILLED, ENDED, CRASHED)


class NotRestoredError(BootError):
    """The command was not started; `fault` is one of the kinds above."""

    def __init__(self, message: str, fault: str) -> None:
        super().__init__(message)
        self.fault = fault


def diagnose(exc: VimtoError, machine: Machine, plan: Plan) -> NotRestoredError:
    """Return why the restored `machine` did not take its order, which showed as `exc`.

    Waits up to two seconds for QEMU's end, so that its last words are complete.
    """
    if not isinstance(exc, QemuError):
        machine.wait(2.0)
    log = machine.read_console()
    complaints = qemu_lines(log, plan.qemu)
    fault = judge(exc, machine.status, complaints)
    ended = fault == REFUSED and machine.status is not None
    last = complaints or (log if ended else [])  # its libraries' own words
    # QEMU 10 gives the cause in one line, and in the next what could not be made for it.
    words = "; ".join(last[-2:])
    reason = ": ".join(filter(None, (exc.message, words))) + describe_signal(machine.status)
    return NotRestoredError(reason, fault)


def judge(exc: VimtoError, status: int | None, complaints: Sequence[str]) -> str:
    """Return the fault of a QEMU with this wait status (None: it is alive) and these last words.

    A `QemuError` is its refusal to load the state, on its monitor.
    """

    def said(words: Sequence[str]) -> bool:
        return any(word in line for line in complaints for word in words)

    if isinstance(exc, QemuError):
        return REFUSED if any(word in exc.message for word in _HOST_WORDS) else STATE
    if said(_STATE_WORDS) and not said(_HOST_WORDS):
        return STATE
    if status is None:
        return SILENT
    if os.WIFSIGNALED(status):
        return CRASHED if os.WTERMSIG(status) in _CRASHES else KILLED
    if said(_ENDED_WORDS):
        return KILLED
    return REFUSED if os.WEXITSTATUS(status) else ENDED


def settle(plan: Plan, shape: Shape, snapshot: Snapshot, exc: NotRestoredError, tries: int) -> bool:
    """Draw the consequences of a failure at one of `tries`; say whether to try again.

    Otherwise the user is told, in one line.
    """
    place, reason = (plan.snapshots, shape.key), exc.message
    if exc.fault == STATE:
        verdicts.turn_off(*place, STATE, reason)
        off = True
    else:
        innocent = exc.fault in (KILLED, REFUSED)
        off = not innocent and verdicts.suspect(*place, exc.fault, reason)
    if not off and exc.fault in _AGAIN and tries == 1:
        console.debug(f"the machine was not restored, trying again: {reason}")
        return True
    if off:
        snapshot.drop()
        end = "the snapshot is dropped"
    elif exc.fault in (KILLED, REFUSED):
        end = "the snapshot is kept"
    else:
        end = "the snapshot is kept, and dropped if the next one fails in this way"
    # What is behind its user's devices may be wrong, and then it does not boot either, and says so.
    say = console.debug if exc.fault == REFUSED and plan.has_devices else console.warn
    say(f"the machine was not restored, booting: {reason}; {end}")
    return False


def are_off(plan: Plan, shape: Shape, *, told: bool) -> bool:
    """Say whether snapshots of this machine are off for a while; the user is told unless `told`."""
    found = verdicts.find_verdict(plan.snapshots, shape.key)
    if found is None or not found.is_off:
        return False
    until = time.strftime("%H:%M:%S", time.localtime(found.until))
    say = console.debug if told else console.note
    say(
        f"snapshots of this machine are off until {until}, so it boots: {found.reason}"
        " (`vimto kernel prune` turns them on)"
    )
    return True
