"""Devices: each is one decision, and says what it adds to the options of QEMU and the kernel.

What a device is to the guest stands here, and is what a snapshot is keyed by. What is behind it on
the host differs from machine to machine: see `vimto.qemu.backends`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from vimto.qemu.options import Flag, Option

# `-no-reboot` with `panic=-1` turns a panic into QEMU's end at once. What the kernel does not know
# becomes the guest program's environment: it needs no signals from its runtime to be fair to its
# own few goroutines, and under emulation each one is a detour through code that nothing else runs.
_KERNEL_ARGS = ("panic=-1", "GODEBUG=asyncpreemptoff=1")

# The first PCI slot for the 9p devices: below it QEMU places what has no address of its own.
_FIRST_SHARE_SLOT = 0x10
# And that for disks, behind those: the guest finds them in the order of their addresses.
_FIRST_DISK_SLOT = 0x18
MOST_DISKS = 32
# What QEMU's events call the port that the guest program listens at.
PORT = "port"
# What every QEMU is told (`vimto.qemu.process`), and so need not be told again.
_EVERY_MODEL = "max"


class Device(Protocol):
    """One part of the machine."""

    def options(self) -> Sequence[Option | Flag]:
        """Return what this device adds to QEMU's options."""
        ...

    def kernel_args(self) -> list[str]:
        """Return the arguments this device adds to the kernel's command line."""
        ...


class Hardware(NamedTuple):
    """A machine as its guest sees it: QEMU's options, and the kernel's command line."""

    options: list[Option | Flag]
    append: str


def assemble(devices: Sequence[Device], kernel_args: Sequence[str] = ()) -> Hardware:
    """Return the hardware made of `devices`, in their order. Pure; tests compare it whole."""
    # Nobody looks at a CD drive, and an HPET that interrupts is a cost under emulation.
    off = dict.fromkeys(("smm", "vmport", "sata", "usb"), "off")
    options: list[Option | Flag] = [Option("machine", "q35", {"memory-backend": "ram", **off})]
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
    """`number` processors of a `model`: by itself one with all that the accelerator can offer."""

    number: int
    accelerator: str
    model: str = _EVERY_MODEL

    def options(self) -> list[Option | Flag]:
        chosen = [] if self.model == _EVERY_MODEL else [Flag("cpu", self.model)]
        return [Option("smp", str(self.number)), *chosen]

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
            # With an identifier, QEMU tells who opens and closes it.
            Option("device", "virtserialport", {"chardev": "agent", "name": self.name}, id=PORT),
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
            values = {"fsdev": tag, "mount_tag": tag, **_address(_FIRST_SHARE_SLOT, index)}
            options.append(Option("device", "virtio-9p-pci", values))
        return options

    def kernel_args(self) -> list[str]:
        return []


def _address(first: int, index: int) -> dict[str, str]:
    """Return the PCI address of one of several devices that begin at the slot `first`."""
    slot, function = divmod(index, 8)
    address = {"addr": f"0x{first + slot:x}.{function}"}
    return {**address, "multifunction": "on"} if function == 0 else address


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


class Disks(NamedTuple):
    """`number` disks, `/dev/vda` first. What they hold is no part of the machine.

    No guest looks at one before its order comes, so it need not be what it was when saved: see
    guest/internal/modules/devices.go.
    """

    number: int

    def options(self) -> list[Option]:
        options = []
        for index in range(self.number):
            name = disk_name(index)
            values = {
                # A full disk of the host's is an error of the guest's, and does not stop it.
                "drive": name,
                "serial": name,
                "werror": "report",
                "rerror": "report",
                **_address(_FIRST_DISK_SLOT, index),
            }
            options.append(Option("device", "virtio-blk-pci", values))
        return options

    def kernel_args(self) -> list[str]:
        return []


def disk_name(index: int) -> str:
    """Return what a disk, counted from 0, is called between device and backend."""
    return f"disk{index}"


class NetworkCards(NamedTuple):
    """Network cards as their user describes them: each is a model and its options."""

    cards: Sequence[tuple[str, Mapping[str, str]]]

    def options(self) -> list[Option]:
        options = []
        for index, (model, given) in enumerate(self.cards):
            # What it would boot from: nobody does, and it costs time.
            rom = {"romfile": ""} if model.startswith("virtio-net-pci") else {}
            values = {"netdev": card_name(index), **rom, **given}
            options.append(Option("device", model, values))
        return options

    def kernel_args(self) -> list[str]:
        return []


def card_name(index: int) -> str:
    """Return what a card, counted from 0, is called between device and backend."""
    return f"nic{index}"


class Verbatim(NamedTuple):
    """What QEMU is told in its user's own words: devices first, then any arguments."""

    devices: Sequence[str]
    arguments: Sequence[Sequence[str]]

    def options(self) -> list[Flag]:
        flags = [Flag("device", text) for text in self.devices]
        for words in self.arguments:
            for word in words:
                if word.startswith("-"):
                    flags.append(Flag(word[1:]))
                else:
                    flags.append(Flag(flags.pop().name, word))
        return flags

    def kernel_args(self) -> list[str]:
        return []
