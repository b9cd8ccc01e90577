"""From the configuration to the plan: the one place that knows kernels and QEMU alike."""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator

from vimto import console
from vimto.cache.digest import Table
from vimto.cache.entry import make_directory
from vimto.cache.place import Limits, is_unmeasured
from vimto.config import Config
from vimto.errors import ConfigError
from vimto.go.outside import find_outside
from vimto.kernel.reference import KernelReference
from vimto.plan.drives import find_drives
from vimto.plan.kernels import BootParts, resolve_kernel, wanted_kernel
from vimto.plan.plan import Plan, too_many
from vimto.plan.shape import ROOMS, Hardware, Origin, shape_machines
from vimto.plan.shares import Command, Share, collapse, refuse_cache
from vimto.plan.users import find_homes, resolve_user
from vimto.plan.views import is_ephemeral
from vimto.qemu.devices import Verbatim
from vimto.qemu.find import find_qemu
from vimto.qemu.probe import (
    Accelerator,
    QemuBinary,
    check_memory,
    choose_accelerator,
    identify_host_cpu,
    probe_qemu,
)
from vimto.qemu.virtiofsd import find_virtiofsd
from vimto.verbatim import find_file, parse_card

BOOT_LIMIT = {"kvm": 60.0, "tcg": 180.0}


@contextlib.contextmanager
def prepare(
    config: Config,
    *,
    shares: Iterable[tuple[str, bool]] = (),
    shown: Iterable[str] = (),
    temporary: str = "",
    directory: str = "",
    one_of_many: bool = False,
) -> Iterator[Plan]:
    """Resolve all that `config` asks for, fetching the kernel if need be.

    `shares` are directories, with whether they are read-only, that every machine of the plan gets
    besides the configured ones, `shown` are paths that each can read. `temporary` is where go makes
    its work directories (where the environment says, when empty), `directory` where the command
    runs (ours, when empty); with `one_of_many`, go calls us for each package, and what could be
    better is not told each time. While the context lasts, the kernel's image is not removed from
    the cache.
    """
    _check_proc()
    reference = check_settings(config)
    started = time.time() - 0.1  # files have the time of the clock's last tick
    shared = [*_configured_shares(config), *shares]
    _check_shares([Share(*share) for share in shared], str(config.cache_dir))
    # One that is full and read-only serves as well. (Path.is_dir raises where it may not look.)
    if not (os.path.isdir(config.cache_dir) and os.access(config.cache_dir, os.X_OK)):
        make_directory(config.cache_dir)
    qemu = probe_qemu(find_qemu(config.qemu), config.cache_dir)
    check_memory(config.memory)
    accelerator = choose_accelerator(config.accel)
    if accelerator.reason and config.accel == "auto":
        _tell_accelerator(accelerator, one_of_many=one_of_many)
    with contextlib.ExitStack() as stack:
        parts = resolve_kernel(config, reference, stack)
        directory = directory or os.getcwd()
        plan = _plan(config, qemu, accelerator, parts)._replace(
            shares=shared,
            shown=[*shown, *find_outside(directory, os.environ)],
            temporary=temporary or default_temporary(),
        )
        if not one_of_many:
            _tell_of_loss(plan, directory)
        yield plan
        limits = Limits(config.cache_limit, config.snapshot_limit, config.link_limit)
        if is_unmeasured(config.cache_dir, limits):
            from vimto.inventory import keep_limit

            keep_limit(config.cache_dir, limits, since=started)


def check_settings(config: Config) -> KernelReference | None:
    """Return which kernel is wanted, None for none in particular.

    Raises `ConfigError` or `KernelError` for what can be known to be wrong before anything is
    fetched or started.
    """
    resolve_user("root" if config.sudo else config.user)
    _sysctls(config)
    _configured_shares(config)
    find_drives(config)
    return wanted_kernel(config)


def _check_proc(proc: str = "/proc") -> None:
    """Raise `ConfigError` where /proc does not show us: by its names descriptors are given."""
    if not os.path.isdir(f"{proc}/self/fd"):
        raise ConfigError(
            f"`{proc}` does not show this process:"
            " it is not mounted, or is that of another process namespace",
            hint="`mount -t proc proc /proc` mounts it, and so does `unshare --mount-proc`",
        )


def _check_shares(shares: list[Share], cache: str) -> None:
    """Raise `ConfigError` for what no machine could have, whatever runs in it."""
    refuse_cache(shares, cache)
    kept = collapse(shares)
    if len(kept) > ROOMS[-1]:
        raise too_many(len(kept), ROOMS[-1])


def _tell_of_loss(plan: Plan, directory: str) -> None:
    """Say so where what the command writes beside it does not stay."""
    command = Command([""], directory, homes=plan.homes)
    if is_ephemeral(command, [Share(path) for path, _ in plan.shares]):
        console.note(f"what is written in `{directory}` goes with the machine; `-share .` keeps it")


def _tell_accelerator(accelerator: Accelerator, *, one_of_many: bool) -> None:
    text = ": ".join(filter(None, (accelerator.reason, accelerator.remedy)))
    say = console.note if accelerator.remedy and not one_of_many else console.debug
    say(f"emulating, which is ten times slower, for {text}")


def _plan(
    config: Config,
    qemu: QemuBinary,
    accelerator: Accelerator,
    parts: BootParts,
) -> Plan:
    uid, gid, groups = resolve_user("root" if config.sudo else config.user)
    origin = _find_origin(config, qemu, accelerator, parts)
    append, shapes = shape_machines(_hardware(config, accelerator, parts), origin)
    return Plan(
        qemu=qemu.path,
        accelerator=accelerator.name,
        kernel=parts.kernel,
        initrd=parts.initrd,
        append=append,
        kernel_name=parts.name,
        image=parts.image,
        fs=parts.transport,
        virtiofsd=find_virtiofsd() if parts.transport == "virtiofs" else None,
        memory=config.memory,
        smp=config.smp,
        shapes=shapes,
        snapshots=str(config.cache_dir / "snapshots"),
        snapshot_limit=config.snapshot_limit,
        boot_timeout=config.boot_timeout or BOOT_LIMIT[accelerator.name],
        timeout=config.timeout,
        stop_timeout=config.stop_timeout,
        shares=[],
        shown=[],
        homes=find_homes(),
        temporary="",
        uid=uid,
        gid=gid,
        groups=groups,
        setup=[list(words) for words in config.setup],
        teardown=[list(words) for words in config.teardown],
        sysctls=_sysctls(config),
        network=config.net == "user",
        verbose=config.verbose,
        drives=find_drives(config),
        cards=[parse_card(text).backend for text in config.nic],
        has_devices=bool(config.disk or config.nic or config.device or config.qemu_args),
    )


def default_temporary() -> str:
    """Return where go makes its work directories, unless `go env -w` says otherwise."""
    return os.environ.get("GOTMPDIR") or os.environ.get("TMPDIR") or "/tmp"


def _hardware(config: Config, accelerator: Accelerator, parts: BootParts) -> Hardware:
    return Hardware(
        memory=config.memory,
        processors=config.smp,
        accelerator=accelerator.name,
        verbose=config.verbose >= 2,
        network=config.net == "user",
        transport=parts.transport,
        image=bool(parts.image),
        kernel_args=config.kernel_args,
        model=config.cpu,
        disks=len(config.disk),
        cards=[parse_card(text)[:2] for text in config.nic],
        verbatim=Verbatim(config.device, config.qemu_args),
    )


def _find_origin(
    config: Config, qemu: QemuBinary, accelerator: Accelerator, parts: BootParts
) -> Origin | None:
    """Return what snapshots are made with, None where machines are always booted."""
    if not config.snapshot or parts.transport != "9p":
        return None
    if option := find_file(config.qemu_args, config.device):
        # What is in it is not in the key, and a kernel that has read a disk remembers its blocks.
        console.note(
            f"the machine boots: a snapshot would remember what the file of QEMU's `{option}` held"
            " then (`-disk` does not)"
        )
        return None
    table = Table(config.cache_dir)
    try:
        program = table.digest(qemu.path)
    except OSError:  # it may be executed, but not read
        program = qemu.identity
    return Origin(
        contents=[program, table.digest(parts.kernel), table.digest(parts.initrd)],
        version=qemu.version,
        cpu=identify_host_cpu(emulated=accelerator.emulated),
    )


def _configured_shares(config: Config) -> list[tuple[str, bool]]:
    shares = []
    for text in config.share:
        path, readonly = (text[:-3], True) if text.endswith(":ro") else (text, False)
        path = os.path.abspath(os.path.expanduser(path))
        if not os.path.isdir(path):
            raise ConfigError(f"`{path}` cannot be shared: there is no such directory")
        shares.append((path, readonly))
    return shares


def _sysctls(config: Config) -> dict[str, str]:
    values = {}
    for text in config.sysctl:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigError(f"`{text}` is not a sysctl", hint="write NAME=VALUE")
        values[name.strip()] = value.strip()
    return values
