"""Devices: each is one decision, and says what it adds to QEMU's and the kernel's command line.

A word may hold placeholders (`hole`): descriptors and host paths that only the process which
starts QEMU knows. A command line with holes is the same for every machine of a plan, so it is
worked out once, and it is what a snapshot is keyed by.
"""

from typing import NamedTuple, Protocol

from vimto.quoting import escape


class Device(Protocol):
    """One part of the machine."""

    def argv(self) -> list[str]:
        """Return the words this device adds to QEMU's command line."""
        ...

    def kernel_args(self) -> list[str]:
        """Return the words this device adds to the kernel's command line."""
        ...


def hole(name: str) -> str:
    """Return the placeholder that `vm.machine.fill` replaces: NUL cannot occur in an argument."""
    return f"\0{name}\0"


class Memory(NamedTuple):
    """`mebibytes` of RAM in one block, whose backing (`ram`) each machine chooses."""

    mebibytes: int

    def argv(self) -> list[str]:
        return ["-m", f"{self.mebibytes}M", "-object", hole("ram")]

    def kernel_args(self) -> list[str]:
        return []


class Processors(NamedTuple):
    """`number` processors, all that the accelerator can offer of the host's features."""

    number: int
    accelerator: str

    def argv(self) -> list[str]:
        # Whether an emulator's processors share one thread is up to each machine: see `vm.crowd`.
        accel = self.accelerator
        if accel == "tcg":
            accel += f",thread={hole('threads')}"
        return ["-accel", accel, "-cpu", "max", "-smp", str(self.number)]

    def kernel_args(self) -> list[str]:
        # Linux counts timer interrupts in a few milliseconds of its own time, and panics where
        # there are none ("IO-APIC + timer doesn't work"). On a host under load an emulated timer
        # is late: seen in one boot of 15 at a load of 15. Under KVM the kernel omits it by itself.
        # Nor can Linux judge an emulated TSC by other emulated clocks: 6.1 marks it unstable at
        # boot and uses the HPET, each look at which takes microseconds; 7.2 does so under load,
        # with seven lines in the log of whatever test runs. A restored TSC goes on where it was.
        return ["no_timer_check", "tsc=reliable"] if self.accelerator == "tcg" else []


class SerialConsole(NamedTuple):
    """The kernel's log, into a descriptor of the process that starts QEMU."""

    verbose: bool

    def argv(self) -> list[str]:
        path = f"/dev/fd/{hole('console')}"
        return ["-chardev", f"file,id=console,path={path},append=on", "-serial", "chardev:console"]

    def kernel_args(self) -> list[str]:
        # Each byte on an emulated UART costs microseconds; an oops raises the level by itself.
        return ["console=ttyS0", "ignore_loglevel" if self.verbose else "quiet"]


class AgentPort(NamedTuple):
    """The virtio-serial port to the guest program, and the monitor beside it."""

    name: str

    def argv(self) -> list[str]:
        return [
            *("-device", "virtio-serial-pci,max_ports=2"),
            *("-chardev", f"socket,id=agent,fd={hole('agent')}"),
            *("-device", f"virtserialport,chardev=agent,name={escape(self.name)}"),
            *("-chardev", f"socket,id=monitor,fd={hole('monitor')}"),
            *("-qmp", "chardev:monitor"),  # 11 calls `-mon` deprecated
        ]

    def kernel_args(self) -> list[str]:
        return []


class EntropySource(NamedTuple):
    """The host's random numbers, so that nothing in the guest waits for entropy."""

    def argv(self) -> list[str]:
        return [
            *("-object", "rng-random,id=rng,filename=/dev/urandom"),
            *("-device", "virtio-rng-pci,rng=rng"),
        ]

    def kernel_args(self) -> list[str]:
        return ["random.trust_cpu=on"]


class NinePSlots(NamedTuple):
    """9p devices for the mount tags `tags`, eight to a PCI slot from `first_slot` on.

    Which directory is behind a tag is a hole: it is no part of a saved machine's state.
    """

    tags: tuple[str, ...]
    first_slot: int

    def argv(self) -> list[str]:
        words = []
        for index, tag in enumerate(self.tags):
            slot, function = divmod(index, 8)
            address = f"addr=0x{self.first_slot + slot:x}.{function}"
            if function == 0:
                address += ",multifunction=on"
            backend = f"local,id={tag},security_model=none,multidevs=remap,path={hole(tag)}"
            words += ["-fsdev", backend]
            words += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag},{address}"]
        return words

    def kernel_args(self) -> list[str]:
        return []


class VirtiofsSlots(NamedTuple):
    """virtiofs devices for the mount tags `tags`; each hole is a connection to a virtiofsd."""

    tags: tuple[str, ...]

    def argv(self) -> list[str]:
        words = []
        for tag in self.tags:
            words += ["-chardev", f"socket,id={tag},fd={hole(tag)}"]
            words += ["-device", f"vhost-user-fs-pci,chardev={tag},tag={tag}"]
        return words

    def kernel_args(self) -> list[str]:
        return []


class UserNetwork(NamedTuple):
    """One network card behind QEMU's own NAT: outgoing connections and DNS."""

    def argv(self) -> list[str]:
        return [
            *("-netdev", "user,id=net"),
            *("-device", "virtio-net-pci,netdev=net,romfile="),
        ]

    def kernel_args(self) -> list[str]:
        return []
