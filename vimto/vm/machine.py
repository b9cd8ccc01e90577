"""One machine, from its options to its end; knows nothing of what runs inside.

start_machine ──> Machine: port (frames), monitor (QMP), console (the kernel's log)
    booted      a kernel is loaded; the agent says `ready` when it waits
    restored    the saved machine goes on where it waited; it has said `ready` already
"""

import os
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import NamedTuple

from vimto.cache.snapshots import Snapshot
from vimto.errors import QemuError
from vimto.plan.plan import Plan, Shape
from vimto.qemu.backends import Directory, Ram, accelerator_option, card_flag
from vimto.qemu.devices import card_name, disk_name
from vimto.qemu.monitor import Monitor
from vimto.qemu.options import INCOMING, NOTHING, Extra, Flag, Option
from vimto.qemu.process import Qemu, take
from vimto.vm.claims import THREAD_EACH, Claim
from vimto.vm.images import HeldImages, hold_images
from vimto.vm.log import Log


class Machine:
    """A running QEMU. Owns it, its claim and its hold on images; `close` ends it.

    `spare` says that QEMU emulates each processor in a thread, for which this host has room.
    """

    def __init__(self, qemu: Qemu, claim: Claim, images: HeldImages, spare: bool = False) -> None:
        self.spare = spare
        self.monitor = Monitor(qemu.monitor)
        self.log = Log(qemu.console)
        self._qemu = qemu
        self._claim = claim
        self._images = images

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """QEMU's process."""
        return self._qemu.pid

    @property
    def port(self) -> int:
        """Our end of the guest program's port."""
        return self._qemu.port

    @property
    def status(self) -> int | None:
        """QEMU's wait status, None while it runs."""
        return self._qemu.status

    def close(self) -> None:
        """Kill QEMU, wait for its end and close the descriptors. Idempotent."""
        self._qemu.close()
        self._claim.close()
        self._images.close()

    def wait(self, limit: float) -> bool:
        """Wait up to `limit` seconds for QEMU to end by itself; say whether it did."""
        return self._qemu.wait(limit)

    def hear(self) -> None:
        """Take what QEMU has said on its monitor by now."""
        with suppress(QemuError):
            self.monitor.read_events()

    def read_console(self) -> list[str]:
        """Return the lines of the kernel's log, and of QEMU's own complaints, so far."""
        return self.log.lines()


class Backing(NamedTuple):
    """What this host gives one machine: a directory for each mount tag, and what its RAM lies in.

    `threads` is how QEMU emulates its processors: as the others on this host allow, when empty.
    """

    directories: Mapping[str, Directory]
    ram: Ram
    threads: str = ""


def start_machine(plan: Plan, shape: Shape, backing: Backing, extra: Extra, qemu: Qemu) -> Machine:
    """Let `qemu` become a machine of `shape`; it is the machine's from now on, or closed.

    `extra` is what makes it boot or restore, and whatever else this run wants of it. Raises
    `CommandError` when there is no process; a QEMU that ends at once shows as the end of
    `Machine.port`.
    """
    with ExitStack() as stack:
        stack.callback(qemu.close)
        claim = Claim(plan.snapshots, plan.smp)
        stack.callback(claim.close)
        threads = backing.threads or claim.threads()
        behind: list[Option | Flag] = [
            accelerator_option(plan.accelerator, threads),
            backing.ram.option(plan.memory),
        ]
        if plan.virtiofsd:
            behind += qemu.serve(plan.virtiofsd, backing.directories)
        else:
            behind += [each.option(tag) for tag, each in backing.directories.items()]
        held = hold_images(plan.drives)
        stack.callback(held.close)
        disks = enumerate(zip(plan.drives, held.fds, strict=True))
        behind += [drive.option(disk_name(index), fd) for index, (drive, fd) in disks]
        behind += [card_flag(card, card_name(i)) for i, card in enumerate(plan.cards)]
        descriptors = [*extra.descriptors, *(fd for fd in held.fds if fd >= 0)]
        qemu.become([*shape.options, *behind, *extra.options], descriptors)
        os.set_blocking(qemu.port, False)
        spare = plan.accelerator == "tcg" and threads == THREAD_EACH
        machine = Machine(qemu, claim, held, spare)
        stack.pop_all()
        return machine


def kernel_flags(plan: Plan) -> list[Option | Flag]:
    """Return what makes a machine of `plan` boot its kernel."""
    return [Flag("kernel", plan.kernel), Flag("initrd", plan.initrd), Flag("append", plan.append)]


def boot(
    plan: Plan, shape: Shape, directories: Mapping[str, Directory], more: Extra = NOTHING
) -> Machine:
    """Start a machine that boots and will say `ready`."""
    backing = Backing(directories, Ram(shared=bool(plan.virtiofsd)))
    extra = more.after(*kernel_flags(plan))
    machine = start_machine(plan, shape, backing, extra, take(plan.qemu))
    machine.monitor.open()
    return machine


def restore(
    plan: Plan,
    shape: Shape,
    directories: Mapping[str, Directory],
    snapshot: Snapshot,
    more: Extra = NOTHING,
) -> Machine:
    """Start a machine from a snapshot, which the caller holds until the machine has ended.

    It needs no kernel: what QEMU loads for a boot is in the saved RAM. The commands are sent at
    once. A QEMU that refuses them says so on its monitor; a state that it cannot load is the end
    of `Machine.port`.
    """
    backing = Backing(directories, Ram(snapshot.ram))
    machine = start_machine(plan, shape, backing, more.after(INCOMING), take(plan.qemu))
    try:
        machine.monitor.load(snapshot.state)
    except BaseException:
        machine.close()
        raise
    return machine


def save(machine: Machine, state: str, limit: float) -> None:
    """Write the waiting `machine`'s devices to the new file `state`, then end it.

    The machine must have been started with a shared RAM file. Saved without `stop`, a restored
    machine runs by itself. Raises `QemuError` when QEMU fails or takes over `limit` seconds.
    """
    fd = os.open(state, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        machine.monitor.save(fd, limit)
    finally:
        os.close(fd)
    machine.monitor.send("quit")
    machine.wait(limit)
