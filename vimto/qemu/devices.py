"""Devices: each is one decision, and says what it adds to the options of QEMU and the kernel.

What a device is to the guest stands here, and is what a snapshot is keyed by. What is behind it on
the host differs from machine to machine: see `vimto.qemu.backends`.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from vimto.qemu.options import Option

# `-no-reboot` with `panic=-1` turns a panic into QEMU's end at once. What the kernel does not know
# becomes the guest program's environment: it needs no signals from its runtime to be fair to its
# own few goroutines, and under emulation each one is a detour through code that nothing else runs.
_KERNEL_ARGS = ("panic=-1", "GODEBUG=asyncpreemptoff=1")

# The first PCI slot for the 9p devices: below it QEMU places what has no address of its own.
_FIRST_SHARE_SLOT = 0x10


class Device(Protocol):
    """One part of the machine."""

    def options(self) -> list[Option]:
        """Return what this device adds to QEMU's options."""
        ...

    def kernel_args(self) -> list[str]:
        """Return the arguments this device adds to the kernel's command line."""
        ...


class Hardware(NamedTuple):
    """A machine as its guest sees it: QEMU's options, and the kernel's command line."""

    options: list[Option]
    append: str


def assemble(devices: Sequence[Device], kernel_args: Sequence[str] = ()) -> Hardware:
    """Return the hardware made of `devices`, in their order. Pure; tests compare it whole."""
    # Nobody looks at a CD drive, and an HPET that interrupts is a cost under emulation.
    off = dict.fromkeys(("smm", "vmport", "sata", "usb"), "off")
    options = [Option("machine", "q35", {"memory-backend": "ram", **off})]
    append = list(_KERNEL_ARGS)
    for device in devices:
        options += device.options()
        append += device.kernel_args()
    return Hardware(options, " ".join([*append, *kernel_args]))


class Memory(NamedTuple):
    """`mebibytes` of RAM in one block."""

    mebibytes: int

    def options(self) -> list[Option]:
        return [Option("m", f"{self.mebibytes}M")]

    def kernel_args(self) -> list[str]:
        return []


class Processors(NamedTuple):
    """`number` processors, with all that the accelerator can offer of the host's features."""

    number: int
    accelerator: str

    def options(self) -> list[Option]:
        return [Option("smp", str(self.number))]

    def kernel_args(self) -> list[str]:
        # Linux counts timer interrupts in a few milliseconds of its own time, and panics where
        # there are none ("IO-APIC + timer doesn't work"). On a host under load an emulated timer
        # is late: seen in one boot of 15 at a load of 15. Under KVM the kernel omits it by itself.
        # Nor can Linux judge an emulated TSC by other emulated clocks: 6.1 marks it unstable at
        # boot and uses the HPET, each look at which takes microseconds; 7.2 does so under load,
        # with seven lines in the log of whatever test runs. A restored TSC goes on where it was.
        return ["no_timer_check", "tsc=reliable"] if self.accelerator == "tcg" else []


class SerialConsole(NamedTuple):
    """The kernel's log. (`vimto.qemu.process` gives every QEMU the serial port for it.)"""

    verbose: bool

    def options(self) -> list[Option]:
        return []

    def kernel_args(self) -> list[str]:
        # Each byte on an emulated UART costs microseconds; an oops raises the level by itself.
        return ["console=ttyS0", "ignore_loglevel" if self.verbose else "quiet"]


class AgentPort(NamedTuple):
    """The virtio-serial port to the guest program, at the chardev that every QEMU has for it."""

    name: str

    def options(self) -> list[Option]:
        return [
            Option("device", "virtio-serial-pci", {"max_ports": "2"}),
            Option("device", "virtserialport", {"chardev": "agent", "name": self.name}),
        ]

    def kernel_args(self) -> list[str]:
        return []


class EntropySource(NamedTuple):
    """The host's random numbers, so that nothing in the guest waits for entropy."""

    def options(self) -> list[Option]:
        return [
            Option("object", "rng-random", {"filename": "/dev/urandom"}, id="rng"),
            Option("device", "virtio-rng-pci", {"rng": "rng"}),
        ]

    def kernel_args(self) -> list[str]:
        return ["random.trust_cpu=on"]


class NinePSlots(NamedTuple):
    """9p devices for the mount tags `tags`, eight to a PCI slot."""

    tags: Sequence[str]

    def options(self) -> list[Option]:
        options = []
        for index, tag in enumerate(self.tags):
            slot, function = divmod(index, 8)
            address = {"addr": f"0x{_FIRST_SHARE_SLOT + slot:x}.{function}"}
            if function == 0:
                address["multifunction"] = "on"
            values = {"fsdev": tag, "mount_tag": tag, **address}
            options.append(Option("device", "virtio-9p-pci", values))
        return options

    def kernel_args(self) -> list[str]:
        return []


class VirtiofsSlots(NamedTuple):
    """virtiofs devices for the mount tags `tags`."""

    tags: Sequence[str]

    def options(self) -> list[Option]:
        return [
            Option("device", "vhost-user-fs-pci", {"chardev": tag, "tag": tag}) for tag in self.tags
        ]

    def kernel_args(self) -> list[str]:
        return []


class UserNetwork(NamedTuple):
    """One network card behind QEMU's own NAT: outgoing connections and DNS."""

    def options(self) -> list[Option]:
        return [
            Option("netdev", "user", id="net"),
            Option("device", "virtio-net-pci", {"netdev": "net", "romfile": ""}),
        ]

    def kernel_args(self) -> list[str]:
        return []
