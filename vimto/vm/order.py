"""The order: what the guest program is told of its command, its mounts, and this host."""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from vimto.diskimage import WRITTEN
from vimto.plan.plan import IMAGE_TAG, ROOT_TAG, Plan, share_tag
from vimto.plan.views import Link
from vimto.vm import cores, likeness, protocol
from vimto.vm.protocol import wire_text
from vimto.vm.request import Places, Request

# Ours, and what points at a directory that the guest does not have.
_HIDDEN_ENVIRONMENT = ("TMPDIR=", "VIMTO_")
_UNLIMITED = (-1, -1)


class Host(NamedTuple):
    """What a machine is told of this host, and of the moment.

    `hosts` is the text of its /etc/hosts, `links` are the host's in /run, `entropy` is random,
    for each machine of a snapshot begins with the same state. `limits` are the command's.
    """

    hostname: str
    hosts: bytes
    links: Sequence[Link]
    time_ns: int
    entropy: bytes
    umask: int
    limits: Mapping[str, Sequence[int]]


def describe_host() -> Host:
    """Return what a machine that is ordered now is to be told."""
    hostname = f"vimto-{os.urandom(3).hex()}"
    return Host(
        hostname=hostname,
        hosts=likeness.describe_hosts(hostname),
        links=likeness.find_links(),
        time_ns=time.time_ns(),
        entropy=os.urandom(64),
        umask=_umask(),
        limits=_limits(),
    )


def make_order(
    plan: Plan,
    request: Request,
    places: Places,
    host: Host,
    modes: Mapping[str, str],
    *,
    warm_up: bool = False,
) -> dict[str, Any]:
    """Return the order for `request` in a machine that has `places`, as the wire takes it.

    `modes` are what the command's streams are, by their names.
    """
    return {
        "protocol": protocol.VERSION,
        "argv": _on_the_wire(request.argv),
        "env": _environment(request.environment),
        "dir": wire_text(request.cwd),
        "umask": host.umask,
        "uid": plan.uid,
        "gid": plan.gid,
        "groups": plan.groups,
        **modes,
        "pty": request.terminal.size() if request.terminal else None,
        "hostname": host.hostname,
        "hosts": wire_text(host.hosts),
        "links": [
            {"path": wire_text(link.path), "target": wire_text(link.target)}
            for link in (*host.links, *places.links)
        ],
        "time_ns": host.time_ns,
        "entropy": wire_text(host.entropy),
        "root": _root(plan),
        "shares": [
            {
                "fs": plan.fs,
                "tag": share_tag(index),
                "path": wire_text(share.path),
                "readonly": share.readonly,
            }
            for index, share in enumerate(places.shares)
        ],
        "views": [
            {"path": wire_text(view.path), "source": wire_text(view.source)}
            for view in places.views
        ],
        "sysctls": dict(map(_on_the_wire, {**cores.SYSCTLS, **plan.sysctls}.items())),
        "rlimits": host.limits,
        "setup": [_on_the_wire(words) for words in plan.setup],
        "teardown": [_on_the_wire(words) for words in plan.teardown],
        "network": plan.network,
        **_devices(plan),
        "warm_up": warm_up,
        "gdb_pause": request.companion.pauses,
    }


def _root(plan: Plan) -> dict[str, Any]:
    return {
        "fs": plan.fs,
        "tag": ROOT_TAG,
        "image": IMAGE_TAG if plan.image else "",
        "tmpfs_percent": 25,
        "msize": 512000,
    }


def _devices(plan: Plan) -> dict[str, Any]:
    return {
        "devices": plan.has_devices,
        "disks": len(plan.drives),
        "write_back": any(drive.mode == WRITTEN for drive in plan.drives),
    }


def _on_the_wire(words: Iterable[str]) -> list[str]:
    return [wire_text(word) for word in words]


def _environment(environment: Mapping[bytes, bytes]) -> list[str]:
    entries = (wire_text(name + b"=" + value) for name, value in environment.items())
    return [entry for entry in entries if not entry.startswith(_HIDDEN_ENVIRONMENT)]


def _umask() -> int:
    mask = os.umask(0o77)
    os.umask(mask)
    return mask


def _limits() -> dict[str, Sequence[int]]:
    """Return the limits of the command: ours, but core dumps and locked memory without one."""
    import resource

    return {
        "core": _UNLIMITED,
        "memlock": _UNLIMITED,
        "nofile": resource.getrlimit(resource.RLIMIT_NOFILE),
        "nproc": _UNLIMITED,
        "stack": resource.getrlimit(resource.RLIMIT_STACK),
    }
