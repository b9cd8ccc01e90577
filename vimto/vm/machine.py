"""One QEMU process, from its command line to its end; knows nothing of what runs inside.

start_machine ──> Machine: port (frames), monitor (QMP), console (the kernel's log)
    booted      a kernel is loaded; the agent says `ready` when it waits
    restored    the saved machine goes on where it waited; it has said `ready` already
"""

import os
import select
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from vimto import console
from vimto.plan.plan import Plan, Tier
from vimto.process.spawn import end, spawn
from vimto.qemu.qmp import Monitor
from vimto.quoting import escape, show
from vimto.vm.crowd import ALONE, Seat
from vimto.vm.launch import Launch, Wiring
from vimto.vm.log import Log
from vimto.vm.virtiofs import Servers, start_servers

if TYPE_CHECKING:
    from vimto.cache.snapshots import Snapshot

# What the option value of a mount tag ends with.
READ_ONLY = ",readonly=on"


class Memory(NamedTuple):
    """What backs the guest's RAM: nothing (`path` empty), or a file, private or shared."""

    path: str = ""
    shared: bool = False

    def option(self, mebibytes: int) -> str:
        """Return the value of QEMU's `-object`."""
        if not self.path:
            kind = "memory-backend-memfd,share=on" if self.shared else "memory-backend-ram"
            return f"{kind},id=ram,size={mebibytes}M"
        shared = "on" if self.shared else "off"
        path = escape(self.path)
        return f"memory-backend-file,id=ram,size={mebibytes}M,mem-path={path},share={shared}"


def fill(words: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Return `words` with each hole (a name between NULs) replaced by its value."""
    filled = []
    for word in words:
        parts = word.split("\0")
        parts[1::2] = [values[name] for name in parts[1::2]]
        filled.append("".join(parts))
    return filled


def emulated(tier: Tier, threads: str) -> Tier:
    """Return `tier` with how QEMU emulates its processors, whatever else runs on this host."""
    return tier._replace(machine=[word.replace("\0threads\0", threads) for word in tier.machine])


def slot_tags(tier: Tier) -> list[str]:
    """Return the mount tags of a machine's slots, in their order."""
    holes = [part for word in tier.machine for part in word.split("\0")[1::2]]
    return [name for name in holes if name not in ("agent", "monitor", "console", "ram", "threads")]


class Machine:
    """A running QEMU. Owns its process, servers, seat and descriptors; `close` ends all of them.

    `spare` says that QEMU emulates each processor in a thread, for which this host has room.
    """

    def __init__(
        self,
        pid: int,
        wiring: Wiring,
        seat: Seat,
        servers: Sequence[int],
        spare: bool = False,
    ) -> None:
        self.pid = pid
        self.spare = spare
        self._seat = seat
        self._servers = list(servers)
        self.port = wiring.port
        self.monitor = Monitor(wiring.monitor)
        self._console = wiring.console
        self.log = Log(wiring.console)
        self.status: int | None = None

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill QEMU, wait for its end and close the descriptors. Idempotent."""
        if self.status is None:
            self.status = end(self.pid)
            if self.status is None:
                console.warn(f"QEMU (process {self.pid}) cannot be killed, and is left behind")
                self.status = 0
        while self._servers:
            end(self._servers.pop())
        self.monitor.close()
        self._seat.close()
        for fd in (self.port, self._console):
            if fd >= 0:
                os.close(fd)
        self.port = self._console = -1

    def wait(self, limit: float) -> bool:
        """Wait up to `limit` seconds for QEMU to end by itself; say whether it did."""
        fd = os.pidfd_open(self.pid)
        try:
            if not select.select([fd], [], [], limit)[0]:
                return False
        finally:
            os.close(fd)
        self._reap()
        return True

    def _reap(self) -> None:
        if self.status is None:
            _, self.status = os.waitpid(self.pid, 0)

    def read_console(self) -> list[str]:
        """Return the lines of the kernel's log, and of QEMU's own complaints, so far."""
        return self.log.lines()


class Addition(NamedTuple):
    """What one run adds to QEMU's command line: arguments, and the descriptors that they name.

    The descriptors stay their owner's; QEMU inherits them under the same numbers.
    """

    words: Sequence[str] = ()
    descriptors: Sequence[int] = ()

    def after(self, *words: str) -> "Addition":
        """Return the same with `words` before."""
        return Addition([*words, *self.words], self.descriptors)


NOTHING = Addition()


def start_machine(
    plan: Plan,
    tier: Tier,
    slots: Mapping[str, str],
    memory: Memory,
    extra: Addition,
    launch: Launch | None = None,
) -> Machine:
    """Start QEMU for `tier` with the directories `slots` (mount tag to option value).

    `extra` is what makes it boot or restore, and whatever else this run wants of it. With a
    `launch` that one proceeds, or `ValueError` is raised. Raises `CommandError` when there is no
    process; a QEMU that ends at once shows as the end of `Machine.port`.
    """
    wiring = launch.wiring if launch else Wiring()
    servers = _start_servers(plan, slots, wiring.console)
    seat = Seat(plan.saves, plan.smp)
    threads = seat.threads()
    values = {
        "threads": threads,
        "agent": str(wiring.port_there),
        "monitor": str(wiring.monitor_there),
        "console": str(wiring.console),
        "ram": memory.option(plan.memory),
        **slots,
        **{tag: str(fd) for tag, fd in servers.sockets.items()},
    }
    argv = [*fill(tier.machine, values), *extra.words]
    try:
        if launch:
            pid = launch.proceed(argv)
        else:
            keep = [*wiring.inherited(), *servers.sockets.values(), *extra.descriptors]
            pid = spawn(argv, log=wiring.console, keep=keep)
        console.debug(lambda: f"$ {show(argv)}")
    except BaseException:
        seat.close()
        if not launch:
            wiring.close_ours()
        raise
    finally:
        if not launch:
            wiring.close_theirs()
        servers.close_sockets()
    os.set_blocking(wiring.port, False)
    spare = threads == ALONE and any("\0threads\0" in word for word in tier.machine)
    return Machine(pid, wiring, seat, servers.pids, spare)


def _start_servers(plan: Plan, slots: Mapping[str, str], log: int) -> Servers:
    if plan.fs != "virtiofs":
        return Servers({}, [])
    shares = {}
    for tag, value in slots.items():
        path = value.removesuffix(READ_ONLY)
        shares[tag] = (path.replace(",,", ","), path != value)
    return start_servers(plan.virtiofsd, shares, log)


def boot_words(plan: Plan) -> list[str]:
    """Return what makes a machine of `plan` boot its kernel."""
    return ["-kernel", plan.kernel, "-initrd", plan.initrd, "-append", plan.append]


def boot(plan: Plan, tier: Tier, slots: Mapping[str, str], more: Addition = NOTHING) -> Machine:
    """Start a machine that boots and will say `ready`."""
    memory = Memory(shared=plan.fs == "virtiofs")
    return start_machine(plan, tier, slots, memory, more.after(*boot_words(plan)))


def restore(
    plan: Plan,
    tier: Tier,
    slots: Mapping[str, str],
    saved: "Snapshot",
    more: Addition = NOTHING,
    launch: Launch | None = None,
) -> Machine:
    """Start a machine from a snapshot, which the caller holds until the machine has ended.

    It needs no kernel: what QEMU loads for a boot is in the saved RAM. The commands are sent at
    once. A QEMU that refuses them says so on its monitor; a state that it cannot load is the end
    of `Machine.port`. A `launch` proceeds, or is closed where it cannot.
    """
    words = more.after("-incoming", "defer")
    try:
        machine = start_machine(plan, tier, slots, Memory(saved.ram), words, launch=launch)
    except ValueError:
        if launch is None:
            raise
        launch.close()
        machine = start_machine(plan, tier, slots, Memory(saved.ram), words)
    machine.monitor.load(saved.state)
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
