"""From a plan to a snapshot: found, waited for, or made by booting the machine once.

How snapshots are kept is `vimto.cache.snapshots`.
"""

import errno
import os
import select
import time

from vimto import console
from vimto.cache.entry import locked, sweep
from vimto.cache.snapshots import (
    Snapshot,
    find_snapshot,
    forget_failure,
    has_failed,
    new_snapshot,
    note_failure,
    prune_snapshots,
)
from vimto.errors import BootError, CacheError, EmulatorFaultError, QemuError, VimtoError
from vimto.quoting import escape
from vimto.vm import protocol
from vimto.vm.crowd import CROWDED
from vimto.vm.exchange import check_ready
from vimto.vm.machine import (
    Addition,
    Machine,
    Memory,
    boot_words,
    emulated,
    save,
    slot_tags,
    start_machine,
)
from vimto.vm.plan import Plan, Tier
from vimto.vm.signals import ENDING, Interrupted, SignalPipe

# A save of Debian's 6.1 with 1 GiB takes 130 MiB; with less room than this none is tried.
_ROOM_NEEDED = 512 << 20
_SAVE_LIMIT = 60.0


def acquire_snapshot(plan: Plan, tier: Tier, signals: SignalPipe, lifeline: int) -> Snapshot | None:
    """Return the snapshot for `tier`, making it if there is none; None means: boot.

    One maker at a time: others wait for it, as long as a boot may take. Raises `BootError` when
    the machine does not boot at all, for then nothing is won by trying again.
    """
    with signals.raising():
        return _acquire(plan, tier, signals, lifeline)


def _acquire(plan: Plan, tier: Tier, signals: SignalPipe, lifeline: int) -> Snapshot | None:
    found = find_snapshot(plan.saves, tier.save)
    if found is not None:
        return found
    try:
        with locked(
            f"{plan.saves}/{tier.save}",
            waiting="another vimto makes the snapshot of this machine",
            limit=plan.boot_timeout,
            # Not into the log of a test: forty may wait at once.
            say=console.note if lifeline < 0 else console.debug,
            pause=lambda limit: wait_for_signal(signals, lifeline, limit),
        ):
            found = find_snapshot(plan.saves, tier.save)
            if found is None and not has_failed(plan.saves, tier.save):
                try:
                    made = _make(plan, tier, signals, lifeline)
                except EmulatorFaultError:
                    made = _make(plan, tier, signals, lifeline)
                (forget_failure if made else note_failure)(plan.saves, tier.save)
                found = find_snapshot(plan.saves, tier.save)
            return found
    except CacheError:  # it cannot be written, or the other one takes too long
        return None


def wait_for_signal(signals: SignalPipe, lifeline: int, limit: float) -> None:
    """Sleep for `limit` seconds; raises `Interrupted` or `BootError` when told to end."""
    fds = [signals.fd] if lifeline < 0 else [signals.fd, lifeline]
    ready = select.select(fds, [], [], limit)[0]
    if lifeline in ready:
        raise BootError("the vimto that started this run is gone")
    for number in signals.read():
        if number in ENDING:
            raise Interrupted(number)


def _check_room(saves: str) -> None:
    room = os.statvfs(saves)
    if room.f_bavail * room.f_frsize < _ROOM_NEEDED:
        raise OSError(errno.ENOSPC, f"less than {_ROOM_NEEDED >> 20} MiB are free in `{saves}`")


def _make(plan: Plan, tier: Tier, signals: SignalPipe, lifeline: int) -> bool:
    """Boot a machine, save it and put it in place; say whether that worked.

    A failure to save costs one line and leaves nothing. Raises `BootError` for a machine that
    does not boot.
    """
    from vimto.vm.loss import explain, show_log

    sweep(plan.saves)
    about = {"kernel": plan.kernel_name, "memory": plan.memory}
    try:
        _check_room(plan.saves)
        with new_snapshot(plan.saves, tier.save, about) as aside:
            empty = f"{aside}/empty"
            os.mkdir(empty)
            slots = {tag: escape(empty) for tag in slot_tags(tier)}
            memory = Memory(f"{aside}/ram", shared=True)
            # A boot has nothing to do at once, and go compiles meanwhile.
            shape = emulated(tier, CROWDED)
            with start_machine(plan, shape, slots, memory, Addition(boot_words(plan))) as machine:
                try:
                    wait_ready(machine, plan.boot_timeout, signals, lifeline)
                except BootError as exc:
                    explained = explain(exc, machine, plan)
                    if os.WIFSIGNALED(machine.status or 0):  # SIGBUS: no room for a page of the RAM
                        raise QemuError("QEMU was killed while the machine booted") from exc
                    raise explained from exc
                save(machine, f"{aside}/state", _SAVE_LIMIT)
                show_log(machine)
            os.rmdir(empty)
        prune_snapshots(plan.saves, plan.snapshot_limit, keep=tier.save)
        return True
    except (OSError, QemuError, CacheError) as exc:
        reason = exc.message if isinstance(exc, VimtoError) else exc.strerror
        console.warn(f"the machine was not saved, so each boots: {reason}")
        return False


def wait_ready(machine: Machine, limit: float, signals: SignalPipe, lifeline: int) -> None:
    """Wait until the guest says `ready`; raises `BootError`, or `Interrupted` for a signal."""
    deadline = time.monotonic() + limit
    reader = protocol.FrameReader()
    while True:
        fds = [machine.port, signals.fd, *([lifeline] if lifeline >= 0 else [])]
        ready = select.select(fds, [], [], max(0.0, deadline - time.monotonic()))[0]
        if not ready:
            raise BootError(f"the machine did not boot within {limit:g} s")
        if machine.port not in ready:
            wait_for_signal(signals, lifeline, 0)
            continue
        try:
            data = os.read(machine.port, 65536)
        except ConnectionResetError:
            data = b""
        if not data:
            raise BootError("the machine ended before it was ready")
        for kind, payload in reader.feed(data):
            if kind == protocol.READY:
                check_ready(payload)
                return
