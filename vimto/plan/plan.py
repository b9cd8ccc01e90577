"""The plan: all that a machine and its command need, resolved once before anything runs.

`plan.prepare` makes it, the shim reads it, one JSON object. Nothing in it depends on which
test binary runs, so that forty shims at once have nothing left to decide but their shares.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from vimto import __version__
from vimto.errors import ConfigError
from vimto.qemu.backends import Drive
from vimto.qemu.options import Flag, Option
from vimto.qemu.virtiofsd import Server

# Mount tags that every machine has (the second, where there is an image), before its shares'.
ROOT_TAG = "root"
IMAGE_TAG = "kernel"
_SHARE_TAG = "share"


def share_tag(index: int) -> str:
    """Return the mount tag of one of a machine's shared directories, counted from 0."""
    return f"{_SHARE_TAG}{index}"


class Shape(NamedTuple):
    """A machine as its guest sees it, without its kernel: all that a snapshot depends on.

    `slots` are the mount tags of its file systems, in their order. `key` is that of its snapshot,
    empty where machines of this plan are always booted.
    """

    slots: list[str]
    options: list[Option | Flag]
    key: str

    @property
    def shares(self) -> int:
        """How many shared directories there is room for."""
        return sum(tag.startswith(_SHARE_TAG) for tag in self.slots)


class GoTimeout(NamedTuple):
    """go's `-timeout`, which is kept here and not by go.

    A binary is told `value` in the first `places` of its arguments that say there is none. It is
    asked to end when it has run for `kill` seconds (0: never), which is `total` in go's words,
    and killed `grace` seconds later.
    """

    value: str
    places: int
    total: str
    kill: float
    grace: float

    def told(self, words: Sequence[str]) -> list[str]:
        """Return the test binary's command line `words` with the timeout in its place."""
        left, told = self.places, []
        for word in words:
            if left and word == _NO_TIMEOUT:
                word, left = f"-test.timeout={self.value}", left - 1
            told.append(word)
        return told


# What go passes on of the `-timeout=0` that it is given.
_NO_TIMEOUT = "-test.timeout=0s"


class Plan(NamedTuple):
    """What `plan.prepare` resolved.

    Paths are absolute. `memory` is MiB, `smp` the number of processors. `image` is the tree to lay
    over the host's root ("" for none), `shares` are (path, read-only) pairs that every machine
    gets, `shown` are paths that each can read, `homes` are the real paths of home directories,
    `temporary` is where go makes its work directories, `snapshot_limit` is bytes of snapshots on
    disk, `boot_timeout`, `timeout` and `stop_timeout` are seconds (0: no limit). `kernel_name` is
    for messages. `qemu` is the program, `accelerator` `kvm` or `tcg`, `shapes` what machines there
    are, the smallest first. `virtiofsd` is there where `fs` is `virtiofs`, `go_timeout` under
    `go test` only. `drives` are behind the disks, `cards` behind the network cards, in their order;
    `has_devices` says that a machine has any that the user has asked for.
    """

    qemu: str
    accelerator: str
    kernel: str
    initrd: str
    append: str
    kernel_name: str
    image: str
    fs: str
    virtiofsd: Server | None
    memory: int
    smp: int
    shapes: list[Shape]
    snapshots: str
    snapshot_limit: int
    boot_timeout: float
    timeout: float
    stop_timeout: float
    shares: list[tuple[str, bool]]
    shown: list[str]
    homes: list[str]
    temporary: str
    uid: int
    gid: int
    groups: list[int]
    setup: list[list[str]]
    teardown: list[list[str]]
    sysctls: dict[str, str]
    network: bool
    verbose: int
    drives: list[Drive]
    cards: list[str]
    has_devices: bool
    go_timeout: GoTimeout | None = None

    def shape_for(self, shares: int) -> Shape:
        """Return the smallest machine that holds `shares`; raises `ConfigError` beyond all."""
        for shape in self.shapes:
            if shares <= shape.shares:
                return shape
        raise too_many(shares, self.shapes[-1].shares)

    @property
    def may_load_ahead(self) -> bool:
        """Whether QEMU may load before it knows its machine: see `vimto.qemu.process`.

        That takes one which is restored, inherits no descriptors, and of which all can be told by a
        configuration file.
        """
        smallest = self.shapes[0]
        told = all(isinstance(option, Option) for option in smallest.options)
        images = any(drive.path for drive in self.drives)
        return bool(smallest.key) and told and not (self.cards or images)

    def dump(self) -> bytes:
        """Return the plan as `load_plan` reads it."""
        value = {"version": __version__, **self._asdict()}
        value["go_timeout"] = self.go_timeout and self.go_timeout._asdict()
        return json.dumps(value).encode("ascii")


def too_many(shares: int, most: int) -> ConfigError:
    """Return the error for more directories than there is room for in any machine."""
    return ConfigError(
        f"{shares} directories are to be shared, {most} are the most",
        hint="name a common parent with `-share`: it takes the place of all below it",
    )


def load_plan(data: bytes) -> Plan:
    """Return the plan in `data`; raises `ConfigError` when another vimto wrote it."""
    value: dict[str, Any] = json.loads(data)
    if value.pop("version", None) != __version__:
        raise ConfigError("the plan was written by another version of vimto")
    value["shapes"] = [
        Shape(slots, [_load_option(option) for option in options], key)
        for slots, options, key in value["shapes"]
    ]
    value["virtiofsd"] = value["virtiofsd"] and Server(*value["virtiofsd"])
    value["go_timeout"] = value["go_timeout"] and GoTimeout(**value["go_timeout"])
    value["shares"] = [(path, readonly) for path, readonly in value["shares"]]
    value["drives"] = [Drive(*drive) for drive in value["drives"]]
    return Plan(**value)


def _load_option(value: list[Any]) -> Option | Flag:
    return Flag(*value) if len(value) == len(Flag._fields) else Option(*value)
