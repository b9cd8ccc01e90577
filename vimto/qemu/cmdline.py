"""The assembler: devices in, a command line with holes out. Pure; tests compare it whole."""

from collections.abc import Sequence
from typing import NamedTuple

from vimto.qemu.devices import Device

# `-no-reboot` with `panic=-1` turns a panic into QEMU's end at once. What the kernel does not know
# becomes the guest program's environment: it needs no signals from its runtime to be fair to its
# own few goroutines, and under emulation each one is a detour through code that nothing else runs.
_KERNEL_ARGS = ("panic=-1", "GODEBUG=asyncpreemptoff=1")

# The first PCI slot for the 9p devices: below it QEMU places what has no address of its own.
FIRST_SHARE_SLOT = 0x10


class CommandLine(NamedTuple):
    """QEMU's words without the kernel, and the kernel's; both may hold holes."""

    machine: tuple[str, ...]
    append: str


def assemble(qemu: str, devices: Sequence[Device], kernel_args: Sequence[str] = ()) -> CommandLine:
    """Return the command line of a machine made of `devices`, in their order."""
    words = [qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    # Nobody looks at a CD drive, and an HPET that interrupts is a cost under emulation.
    words += ["-machine", "q35,memory-backend=ram,smm=off,vmport=off,sata=off,usb=off"]
    append = list(_KERNEL_ARGS)
    for device in devices:
        words += device.argv()
        append += device.kernel_args()
    return CommandLine(machine=tuple(words), append=" ".join([*append, *kernel_args]))
