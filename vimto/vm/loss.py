"""Why a machine was lost: the kernel's last words, turned into a message with a hint."""

import os
import signal
from collections.abc import Sequence

from vimto import console
from vimto.errors import BootError, EmulatorFaultError, LostMachineError, VimtoError
from vimto.limits import host_processors, memory_limit
from vimto.plan.plan import Plan
from vimto.vm.fate import describe_end
from vimto.vm.machine import Machine

_SHOWN = 20
# So many processors of the guest for each of the host may be why it has not booted yet.
_MANY = 16
# A breakpoint that the kernel no longer knows of. It patches its own code by way of them, and with
# two emulated processors one may still meet it later (seen: QEMU 7.2, Linux 6.12, booting).
_STALE_CODE = "int3: 0000 [#"
# What stands in the kernel's log, and what its user can do about it; the first that is there
# counts, so the special stand before the general.
_CAUSES = (
    (
        _STALE_CODE,
        "a processor ran code that another one had replaced, a fault of QEMU's emulation",
        "`-smp 1` rules it out",
    ),
    (
        "Out of memory and no killable processes",
        "the guest ran out of memory",
        "`-memory` gives it more",
    ),
    (
        "Attempted to kill init",
        "the guest program was killed",
        "",
    ),
    (
        "Unable to mount root fs",
        "the kernel cannot read an initramfs",
        "it lacks CONFIG_BLK_DEV_INITRD, which `vimto doctor` says; or `-kernel-args` has `rdinit=`"
        " or `noinitrd`",
    ),
    (
        "Terminated via GDBstub",
        "gdb ended it",
        "after `detach` in gdb the command goes on without it",
    ),
    (
        "no virtio port",
        "the kernel found no virtio-serial port",
        "it lacks CONFIG_VIRTIO_PCI or CONFIG_VIRTIO_CONSOLE; where they are modules, name the"
        " directory that holds the kernel and its `lib/modules`",
    ),
    (
        "could not load PC BIOS",
        "QEMU's firmware files are not installed",
        "on Debian and Ubuntu: sudo apt-get install seabios",
    ),
    (
        "Cannot allocate memory",
        "the host has too little memory for this machine",
        "`-memory` asks for less; `go test -p 1` runs one machine at a time",
    ),
    (
        "error loading uncompressed kernel without PVH ELF Note",
        "the kernel cannot be entered directly: it lacks CONFIG_PVH",
        "use the kernel's bzImage instead of its vmlinux",
    ),
    (
        "Kernel panic",
        "kernel panic",
        "",
    ),
)
_NO_CAUSE = ("", "", "")

_PASSED_ON = "`-device`, `-nic`, `-cpu` and `-qemu-args` reach QEMU as they are, `-disk` as a drive"


def show_log(machine: Machine) -> None:
    """Show the kernel's log so far to a user who asked for it with `-v -v`."""
    if console.verbosity() >= 2:
        console.write("".join(f"  | {line}\n" for line in machine.read_console()).rstrip("\n"))


def explain(exc: VimtoError, machine: Machine, plan: Plan) -> VimtoError:
    """Return `exc` with the reason that the ended or silent `machine` left in its log.

    Waits up to two seconds for QEMU's end, so that its last words are complete.
    """
    machine.wait(2.0)
    machine.hear()
    lines = machine.read_console()
    message, hint, kind = exc.message, exc.hint, type(exc)
    place = -1
    what, why = _what_it_did(exc, machine, lines)
    text, cause, advice = next(filter(lambda row: _place(row[0], lines) >= 0, _CAUSES), _NO_CAUSE)
    if what:
        message, hint = f"{message}: {what}", why
    elif text:
        place = _place(text, lines)
        message += f": {cause}{_when(lines[place])}"
        hint = advice or hint
        if text == _STALE_CODE and isinstance(exc, BootError):
            kind = EmulatorFaultError
    else:
        message += _qemu_s_end(machine, lines, plan)
        hint = hint or _advice(exc, machine, lines, plan)
    message += "\n  this is not a failure of the test"
    return kind(message, hint=hint, lines=_select(lines, place))


def _advice(exc: VimtoError, machine: Machine, lines: Sequence[str], plan: Plan) -> str:
    """Return a hint for a loss whose cause is not in the log; "" for none."""
    if _qemu_refusal(machine.status, lines, plan):
        return _PASSED_ON if plan.has_devices else ""
    if isinstance(exc, BootError) and machine.status is None:
        return _hint_for_silence(plan.smp, host_processors())
    return _hint_for_kill(machine.status)


def _place(text: str, lines: Sequence[str]) -> int:
    """Return the number of the first line that holds `text`, -1 for none."""
    return next((index for index, line in enumerate(lines) if text in line), -1)


def _what_it_did(exc: VimtoError, machine: Machine, lines: Sequence[str]) -> tuple[str, str]:
    """Return what the command did to its machine, and a hint, if it did; "" for any other loss."""
    if not isinstance(exc, LostMachineError):
        return "", ""  # nobody has done anything yet
    return describe_end(machine.monitor.shutdown, machine.monitor.port_closed, lines)


def _qemu_s_end(machine: Machine, lines: Sequence[str], plan: Plan) -> str:
    """Return what there is to say of how QEMU ended, after `: `; "" for nothing."""
    refusal = _qemu_refusal(machine.status, lines, plan)
    if refusal:
        return f": QEMU: {refusal}"
    if machine.monitor.shutdown == "guest-reset":
        return ": it was reset, and its kernel said nothing of it"
    return describe_signal(machine.status)


def _qemu_refusal(status: int | None, lines: Sequence[str], plan: Plan) -> str:
    """Return what a QEMU that ended itself, with a failure, said last; "" for any other."""
    if not status or not os.WIFEXITED(status):
        return ""
    return "".join(qemu_lines(lines, plan.qemu)[-1:])


def describe_signal(status: int | None) -> str:
    """Return `: QEMU was ended by SIGKILL` for such a wait status of QEMU, else nothing."""
    if status is None or not os.WIFSIGNALED(status):
        return ""
    return f": QEMU was ended by {signal.Signals(os.WTERMSIG(status)).name}"


def _hint_for_kill(status: int | None) -> str:
    """Return what may have killed QEMU, if that is known here: a container's limit."""
    limit = memory_limit()
    if status is None or os.WTERMSIG(status) != signal.SIGKILL or limit is None:
        return ""
    return (
        f"processes may use {limit >> 20} MiB here (a limit of the container, or the service):"
        " `-memory` asks for less"
    )


def _hint_for_silence(wanted: int, host: int) -> str:
    # Two host processors that emulate 255 are still at it after 180 s.
    if wanted > _MANY * host:
        return f"`-smp {wanted}` is much for a host with {host}: ask for fewer, or `-boot-timeout`"
    return "the kernel may lack a virtio driver; `vimto doctor` lists what it has"


def qemu_lines(console_lines: Sequence[str], program: str) -> list[str]:
    """Return what QEMU, started as `program`, said itself, without its name before each line."""
    names = (os.path.basename(program), "qemu-system-")  # a wrapper starts it by another name
    found = []
    for line in console_lines:
        head, colon, text = line.partition(": ")
        speaker = head.partition(":")[0]  # it may name a line of its configuration, too
        if colon and " " not in head and os.path.basename(speaker).startswith(names):
            found.append(text)
    return found


def _when(line: str) -> str:
    """Take `[    1.298113] Kernel panic …` and return ` 1.3 s after boot`, or nothing."""
    stamp = line.partition("]")[0].removeprefix("[").strip()
    try:
        return f" {float(stamp):.1f} s after boot"
    except ValueError:
        return ""


def _select(lines: list[str], place: int) -> tuple[str, ...]:
    """Return the lines around the one that names the cause, or, where `place` is -1, the last."""
    if console.verbosity() >= 2 or len(lines) <= _SHOWN:
        return tuple(lines)
    first = min(max(0, place - 2), len(lines) - _SHOWN) if place >= 0 else len(lines) - _SHOWN
    which = "last " if first == len(lines) - _SHOWN else ""
    head = f"({which}{_SHOWN} of {len(lines)} console lines; `-v -v` shows all)"
    return (head, *lines[first : first + _SHOWN])
