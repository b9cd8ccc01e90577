"""Which machines a plan has, and by what their snapshots are found. Nothing is asked or read.

A machine's shape is all that its guest sees of it. Two machines of one shape and one origin are
the same to a guest, so one may be restored from the other's snapshot; whatever could tell them
apart belongs into the key.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vimto import __version__
from vimto.cache.digest import digest
from vimto.plan.plan import IMAGE_TAG, ROOT_TAG, Shape, share_tag
from vimto.qemu import devices
from vimto.qemu.options import Flag, Option
from vimto.qemu.process import ALWAYS

# The guest program looks for its port by this name: guest/internal/wire/port.go.
_PORT = "vimto.agent"
# Raise it when the same plan would give a machine that an older snapshot does not fit.
_SNAPSHOT_FORMAT = 2
# Each 9p device costs a restored machine 6 ms, so most get few: for the repository and go's work
# directory. The others are for `-share` and for workspaces of many modules.
ROOMS = (2, 5, 12, 28)


class Hardware(NamedTuple):
    """What all machines of a plan have in common, whatever is shared with them.

    `memory` is MiB. With `verbose` the kernel writes its log to the console from the start; with
    `network` there is QEMU's own. `transport` is `9p` or `virtiofs`; with an `image` the kernel's
    tree has a mount tag. `kernel_args` are more of the kernel's. `model` is the processors'; of
    `cards` each is a model and its options.
    """

    memory: int
    processors: int
    accelerator: str
    verbose: bool
    network: bool
    transport: str
    image: bool
    kernel_args: Sequence[str] = ()
    model: str = "max"
    disks: int = 0
    cards: Sequence[tuple[str, Mapping[str, str]]] = ()
    verbatim: devices.Verbatim = devices.Verbatim((), ())


class Origin(NamedTuple):
    """What a snapshot was made with: only the same can restore it.

    `contents` are the digests of QEMU, kernel and initramfs, `version` is QEMU's, `cpu` what the
    guest has of the host's processor.
    """

    contents: Sequence[str]
    version: Sequence[int]
    cpu: str


def shape_machines(hardware: Hardware, origin: Origin | None) -> tuple[str, list[Shape]]:
    """Return the kernel's command line and the machines, the one with the least room first.

    Without an `origin` they have no key, and are always booted.
    """
    fixed: list[devices.Device] = [
        devices.Memory(mebibytes=hardware.memory),
        devices.Processors(hardware.processors, hardware.accelerator, hardware.model),
        devices.SerialConsole(verbose=hardware.verbose),
        devices.AgentPort(name=_PORT),
        devices.EntropySource(),
    ]
    if hardware.network:
        fixed.append(devices.UserNetwork())
    fixed += [devices.NetworkCards(hardware.cards), devices.Disks(hardware.disks)]
    shapes = []
    append = ""
    for room in ROOMS:
        own_tags = (ROOT_TAG, IMAGE_TAG) if hardware.image else (ROOT_TAG,)
        tags = [*own_tags, *map(share_tag, range(room))]
        slots: devices.Device = (
            devices.VirtiofsSlots(tags=tags)
            if hardware.transport == "virtiofs"
            else devices.NinePSlots(tags=tags)
        )
        options, append = devices.assemble([*fixed, slots, hardware.verbatim], hardware.kernel_args)
        parts: list[str | Option | Flag] = [*ALWAYS, hardware.accelerator, *options]
        key = snapshot_key(parts, append, origin) if origin else ""
        shapes.append(Shape(tags, options, key))
    return append, shapes


def snapshot_key(parts: Sequence[str | Option | Flag], append: str, origin: Origin) -> str:
    """Name a machine's snapshot by everything that shaped it, and by nothing that a host adds.

    `parts` are what QEMU is told, `append` is the kernel's command line.
    """
    contents, version = list(origin.contents), list(origin.version)
    shape = [_SNAPSHOT_FORMAT, __version__, *contents, version, origin.cpu, parts, append]
    return digest(json.dumps(shape).encode())
