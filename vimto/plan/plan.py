"""The plan: all that a machine and its command need, resolved once before anything runs.

`plan.prepare` makes it, the shim reads it, one JSON object. Nothing in it depends on which
test binary runs, so that forty shims at once have nothing left to decide but their shares.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from vimto import __version__
from vimto.errors import ConfigError

# The mount tags of what each machine has in its fixed slots: the host's root, the kernel's tree.
ROOT_TAG = "root"
IMAGE_TAG = "kernel"


class Tier(NamedTuple):
    """A machine with room for `shares` shared directories.

    `machine` is QEMU's command line with holes, without the kernel; `save` the key of its snapshot,
    empty where machines of this plan are always booted.
    """

    shares: int
    machine: list[str]
    save: str


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
    for messages. `virtiofsd` are the command lines, with holes, of a server that writes and of one
    that only reads, where `fs` is `virtiofs`. `go_timeout` is there under `go test` only.
    """

    kernel: str
    initrd: str
    append: str
    kernel_name: str
    image: str
    fs: str
    virtiofsd: list[list[str]]
    memory: int
    smp: int
    tiers: list[Tier]
    saves: str
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
    go_timeout: GoTimeout | None = None

    def tier_for(self, shares: int) -> Tier:
        """Return the smallest machine that holds `shares`; raises `ConfigError` beyond all."""
        for tier in self.tiers:
            if shares <= tier.shares:
                return tier
        raise ConfigError(
            f"{shares} directories are to be shared, {self.tiers[-1].shares} are the most",
            hint="name a common parent with `-share`: it takes the place of all below it",
        )

    def dump(self) -> bytes:
        """Return the plan as `load_plan` reads it."""
        value = {"version": __version__, **self._asdict()}
        value["tiers"] = [tier._asdict() for tier in self.tiers]
        value["go_timeout"] = self.go_timeout and self.go_timeout._asdict()
        return json.dumps(value).encode("ascii")


def load_plan(data: bytes) -> Plan:
    """Return the plan in `data`; raises `ConfigError` when another vimto wrote it."""
    value: dict[str, Any] = json.loads(data)
    if value.pop("version", None) != __version__:
        raise ConfigError("the plan was written by another version of vimto")
    value["tiers"] = [Tier(**tier) for tier in value["tiers"]]
    value["go_timeout"] = value["go_timeout"] and GoTimeout(**value["go_timeout"])
    value["shares"] = [(path, readonly) for path, readonly in value["shares"]]
    return Plan(**value)
