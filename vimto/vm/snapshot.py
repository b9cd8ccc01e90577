"""From a plan to a snapshot: found, waited for, or made by booting the machine once.

How snapshots are kept is `vimto.cache.snapshots`.
"""

import errno
import os
import select
import signal
import time
from contextlib import closing

from vimto import console
from vimto.cache import verdicts
from vimto.cache.entry import locked, sweep
from vimto.cache.snapshots import Snapshot, find_snapshot, new_snapshot, prune_snapshots
from vimto.errors import (
    BootError,
    CacheBusyError,
    CacheError,
    EmulatorFaultError,
    QemuError,
    QemuSilentError,
    VimtoError,
)
from vimto.plan.plan import Plan, Shape
from vimto.qemu.backends import NO_DRIVE, Directory, Ram, no_network
from vimto.qemu.options import Extra
from vimto.qemu.process import Qemu
from vimto.vm import protocol
from vimto.vm.blame import are_off
from vimto.vm.claims import ONE_THREAD, wait_turn
from vimto.vm.conversation import check_ready
from vimto.vm.loss import explain, show_log
from vimto.vm.machine import Backing, Machine, kernel_flags, save, start_machine
from vimto.vm.patience import Patience
from vimto.vm.protocol import Kind
from vimto.vm.waiting import Waiting

# A snapshot of Debian's 6.1 with 1 GiB takes 130 MiB; with less room than this none is tried.
_ROOM_NEEDED = 512 << 20
_SAVE_LIMIT = 60.0
# A maker has limits of its own, but for one that was stopped (Ctrl-Z, SIGSTOP).
_MAKER_LIMIT = 600.0
# What the host may have too little of now, and enough the next time.
_FULL = (errno.ENOSPC, errno.EDQUOT)
# ENOTEMPTY: somebody has put something in our way.
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOTEMPTY, *_FULL)


class _PassingError(QemuError):
    """The machine was not saved, for a reason that says nothing about the next try."""


# What says nothing about the next try: an emulator's fault comes by chance, even twice.
_HARMLESS = (_PassingError, EmulatorFaultError)


def acquire_snapshot(plan: Plan, shape: Shape, waiting: Waiting) -> Snapshot | None:
    """Return the snapshot for `shape`, making it if there is none; None means: boot.

    One maker at a time: others wait for it, for it has limits of its own. Raises `BootError` when
    the machine does not boot at all, for then nothing is won by trying again.
    """
    with waiting.raising():
        return _acquire(plan, shape, waiting)


def _acquire(plan: Plan, shape: Shape, waiting: Waiting) -> Snapshot | None:
    # Not into the log of a test: forty may wait at once, and who runs go says it as well.
    planned = waiting.lifeline >= 0
    if are_off(plan, shape, told=planned):
        return None
    found = find_snapshot(plan.snapshots, shape.key)
    if found is not None:
        return found
    try:
        with locked(
            f"{plan.snapshots}/{shape.key}",
            waiting="another vimto makes the snapshot of this machine",
            limit=min(waiting.left, _MAKER_LIMIT),
            say=console.debug if planned else console.note,
            pause=waiting.pause,
        ):
            if are_off(plan, shape, told=True):  # the one before has said why
                return None
            found = find_snapshot(plan.snapshots, shape.key)
            if found is None and _try_make(plan, shape, waiting):
                found = find_snapshot(plan.snapshots, shape.key)
            return found
    except CacheBusyError as exc:
        why = ", for go's own timer has started" if waiting.left <= 0 else ""
        console.note(f"{exc.message}; booting{why}")
        return None
    except CacheError:  # it cannot be written
        return None


def _try_make(plan: Plan, shape: Shape, waiting: Waiting) -> bool:
    """Make the snapshot and say whether that worked; a failure costs one line.

    One that is likely to repeat turns snapshots off, so that those who come next do not each boot
    twice.
    """
    place = plan.snapshots, shape.key
    try:
        try:
            _make(plan, shape, waiting)
        except EmulatorFaultError:
            _make(plan, shape, waiting)
    except (OSError, QemuError, CacheError, EmulatorFaultError) as exc:
        reason = exc.message if isinstance(exc, VimtoError) else str(exc.strerror)
        number = _find_errno(exc)
        if number in _FULL:
            reason = f"the disk that holds `{plan.snapshots}` is full: {os.strerror(number)}"
        console.warn(f"the machine was not saved, so it boots: {reason}")
        if isinstance(exc, QemuSilentError):
            verdicts.suspect(*place, "saving", reason)
        elif not isinstance(exc, _HARMLESS) and number not in _PASSING:
            verdicts.turn_off(*place, "saving", reason)
        return False
    verdicts.acquit(*place)
    return True


def _find_errno(exc: BaseException) -> int:
    """Return the number of the `OSError` that is, or led to, `exc`, or 0."""
    cause = exc if isinstance(exc, OSError) else exc.__cause__
    return (cause.errno or 0) if isinstance(cause, OSError) else 0


def _check_full(directory: str) -> None:
    """Raise `OSError` where no file in `directory` can grow any more."""
    with open(f"{directory}/room", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 20)
    os.unlink(f"{directory}/room")


def _check_room(snapshots: str) -> None:
    room = os.statvfs(snapshots)
    if room.f_bavail * room.f_frsize < _ROOM_NEEDED:
        raise _PassingError(f"less than {_ROOM_NEEDED >> 20} MiB are free in `{snapshots}`")


def _make(plan: Plan, shape: Shape, waiting: Waiting) -> None:
    """Boot a machine, save it and put it in place.

    A failure leaves nothing. Raises `OSError`, `QemuError` or `CacheError` when the machine cannot
    be saved, and `BootError` for one that does not boot.
    """
    sweep(plan.snapshots)
    about = {"kernel": plan.kernel_name, "memory": plan.memory}
    with new_snapshot(plan.snapshots, shape.key, about) as aside:
        boot_and_save(plan, shape, waiting, aside)
    prune_snapshots(plan.snapshots, plan.snapshot_limit, keep=shape.key)


def boot_and_save(plan: Plan, shape: Shape, waiting: Waiting, aside: str) -> float:
    """Boot a machine, and save it as `ram` and `state` in the empty directory `aside`.

    Returns the seconds from QEMU's start until the guest program was ready. Raises `OSError` or
    `QemuError` when the machine cannot be saved, and `BootError` for one that does not boot.
    """
    _check_room(plan.snapshots)
    empty = f"{aside}/empty"
    os.mkdir(empty)
    plan = plan._replace(
        drives=[NO_DRIVE] * len(plan.drives),
        cards=[no_network(index) for index in range(len(plan.cards))],
    )
    backing = Backing(
        {tag: Directory(empty) for tag in shape.slots},
        Ram(f"{aside}/ram", shared=True),
        threads=ONE_THREAD,  # a boot has nothing to do at once, and go compiles meanwhile
    )
    extra = Extra(kernel_flags(plan))
    with closing(wait_turn(plan.snapshots, plan.memory, waiting.pause, waiting.left)):
        started = time.monotonic()
        with start_machine(plan, shape, backing, extra, Qemu(plan.qemu)) as machine:
            try:
                wait_ready(machine, plan.boot_timeout, waiting)
                booted = time.monotonic() - started
                save(machine, f"{aside}/state", _SAVE_LIMIT)
            except BootError as exc:
                # SIGBUS is QEMU's end where there is no room for a page of the RAM.
                _check_full(aside)
                raise _not_booted(exc, machine, plan) from exc
            except QemuError:
                _check_full(aside)  # QEMU does not always say why it could not write
                raise
            show_log(machine)
    os.rmdir(empty)
    return booted


def _not_booted(exc: BootError, machine: Machine, plan: Plan) -> VimtoError:
    explained = explain(exc, machine, plan)
    status = machine.status or 0
    if not os.WIFSIGNALED(status):
        return explained
    number = signal.Signals(os.WTERMSIG(status))
    message = f"QEMU was killed while the machine booted ({number.name})"
    # SIGBUS: the RAM's file cannot be written. The others are somebody's, or a chance.
    return QemuError(message) if number == signal.SIGBUS else _PassingError(message)


def wait_ready(machine: Machine, limit: float, waiting: Waiting) -> None:
    """Wait until the guest says `ready`; raises `BootError`, or `Interrupted` for a signal."""
    deadline = time.monotonic() + limit
    patience = Patience(machine.pid)
    reader = protocol.FrameReader()
    while True:
        wake_at = min(deadline, patience.wake_at)
        fds = [machine.port, *waiting.fds]
        ready = select.select(fds, [], [], max(0.0, wake_at - time.monotonic()))[0]
        deadline += patience.lost()
        machine.log.check()
        if not ready and time.monotonic() < deadline:
            continue
        if not ready:
            raise BootError(f"the machine did not boot within {limit:g} s")
        if machine.port not in ready:
            waiting.pause(0)
            continue
        try:
            data = os.read(machine.port, 65536)
        except ConnectionResetError:
            data = b""
        if not data:
            raise BootError("the machine ended before it was ready")
        for kind, payload in reader.feed(data):
            if kind == Kind.READY:
                check_ready(payload)
                return
