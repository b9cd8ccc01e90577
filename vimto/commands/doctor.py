"""`vimto doctor`: what this host and the kernel have for a run, and what they lack.

Every check is a function from the configuration to its findings; what would stop a run is told
apart from what only some runs need. Nothing is changed but the cache: a kernel that is not here
is fetched, as a run would.
"""

import contextlib
import enum
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vimto import console
from vimto.cache import entry
from vimto.commands.catalog import usage
from vimto.config import Config
from vimto.errors import CacheError, QemuError, UsageError, VimtoError
from vimto.go.tool import check_target, go_env
from vimto.kernel import boot
from vimto.kernel.boot import KernelFiles
from vimto.plan.agent import build_agent
from vimto.plan.agent import check_go as check_go_version
from vimto.plan.kernels import locate_kernel, wanted_kernel
from vimto.process.spawn import SETPRIV
from vimto.qemu import probe
from vimto.qemu.find import find_qemu
from vimto.quoting import visible
from vimto.values import GIB, MIB
from vimto.vm.trial import try_snapshot

# A snapshot of 1 GiB of memory, a kernel image, and some room.
_ROOM = 3 * GIB


class Verdict(enum.Enum):
    """What a finding means for a run; the value is shown."""

    GOOD = "ok"
    WEAK = "weak"
    MISSING = "missing"

    @property
    def stops_a_run(self) -> bool:
        """Whether no run can succeed."""
        return self is Verdict.MISSING


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report about `what`, and what to do about it."""

    verdict: Verdict
    what: str
    detail: str
    hint: str = ""


# What a kernel can do for tests beyond what every run needs; `boot.settle_drivers` knows that.
_OPTIONS: Mapping[str, str] = {
    "PVH": "booting without self-extraction",
    "HW_RANDOM_VIRTIO": "randomness from the host",
    "VIRTIO_NET": "the network of `-net user`",
    "TMPFS": "an empty /tmp and a writable root",
    "DEVTMPFS": "/dev",
    "UNIX98_PTYS": "terminals",
    "CGROUPS": "/sys/fs/cgroup",
    "BPF_SYSCALL": "BPF, and /sys/fs/bpf",
    "BPF_JIT": "compiled BPF programs",
    "DEBUG_INFO_BTF": "BPF programs that fit any kernel (CO-RE)",
    "DEBUG_FS": "/sys/kernel/debug",
    "FTRACE": "/sys/kernel/tracing",
    "KPROBES": "kprobes",
    "UPROBES": "uprobes",
    "SECURITYFS": "/sys/kernel/security",
    "KALLSYMS": "names in stack traces, and in gdb without debug information",
}


def run(config: Config, argv: list[str]) -> int:
    """Print all findings to stdout; return 0 if a run can succeed, else 1."""
    if argv:
        raise UsageError(f"unexpected argument `{argv[0]}`", hint=usage("doctor"))
    bad = False
    for finding in examine(config):
        bad = bad or finding.verdict.stops_a_run
        console.show(show(finding))  # at once: the next one may have to fetch a kernel
    return int(bad)


def show(finding: Finding) -> str:
    """Return a finding as a line, its hint as another one below it."""
    detail, hint = visible(finding.detail, keep=""), visible(finding.hint, keep="")
    line = f"{finding.verdict.value:<8} {finding.what:<12} {detail}\n"
    return line + (f"{'':<21} hint: {hint}\n" if hint else "")


def examine(config: Config) -> Iterator[Finding]:
    """Make all checks, one after the other; none of them raises `VimtoError`."""
    for what, check in _CHECKS:
        try:
            yield from check(config)
        except VimtoError as exc:
            detail = "; ".join((exc.message, *exc.lines[-3:]))
            yield Finding(verdict=Verdict.MISSING, what=what, detail=detail, hint=exc.hint)


def _good(what: str, detail: str) -> Finding:
    return Finding(verdict=Verdict.GOOD, what=what, detail=detail)


def _weak(what: str, detail: str, hint: str = "") -> Finding:
    return Finding(verdict=Verdict.WEAK, what=what, detail=detail, hint=hint)


def check_file(config: Config) -> Iterable[Finding]:
    """Name the configuration files; that they can be used has been seen already."""
    files = [str(path) for path in (config.user_file, config.file) if path]
    yield _good("config", ", ".join(files) or "no file; defaults")


def check_qemu(config: Config) -> Iterable[Finding]:
    """Find QEMU, and the program that ties its life to ours."""
    qemu = probe.probe_qemu(find_qemu(config.qemu), config.cache_dir)
    version = ".".join(map(str, qemu.version))
    yield _good("qemu", f"{version}, {qemu.path}")
    if not qemu.makes_special_files:
        yield _weak(
            "shares",
            f"QEMU {version} makes no sockets, FIFOs and device nodes in shared directories",
            "the machine's own /tmp takes them, and QEMU 10 or later makes them everywhere",
        )
    if not os.access(SETPRIV, os.X_OK):
        yield Finding(
            verdict=Verdict.MISSING,
            what="setpriv",
            detail=f"there is no {SETPRIV}, and QEMU is started through it",
            hint="on Debian and Ubuntu: sudo apt-get install util-linux",
        )


def check_accelerator(config: Config) -> Iterable[Finding]:
    """Say whether machines run on the processor or are emulated, and why."""
    accelerator = probe.choose_accelerator(config.accel)
    if not accelerator.emulated:
        yield _good("accelerator", "kvm")
    elif config.accel == "tcg":
        yield _good("accelerator", "tcg, as configured")
    else:
        detail = f"tcg (emulation, ten times slower): {accelerator.reason}"
        yield _weak("accelerator", detail, accelerator.remedy)


def check_snapshots(config: Config) -> Iterable[Finding]:
    """Save a machine without a guest, and restore it."""
    if not config.snapshot:
        yield _good("snapshots", "none, as configured")
        return
    qemu, accelerator = find_qemu(config.qemu), probe.choose_accelerator(config.accel)
    try:
        try_snapshot(qemu, accelerator.name)
    except QemuError as exc:
        detail = "; ".join(("each machine boots", exc.message, *exc.lines[-1:]))
        yield _weak("snapshots", detail)
    else:
        yield _good("snapshots", "this QEMU saves a machine and restores it")


def check_memory(config: Config) -> Iterable[Finding]:
    """Compare the machine's memory with what the host has, and has to spare."""
    probe.check_memory(config.memory)
    free = probe.available_memory()
    sizes = f"{config.memory} MiB for each machine, {free // MIB} MiB available"
    if free and free < config.memory * MIB:
        yield _weak("memory", sizes, "machines take memory as they use it; `-memory` asks for less")
    else:
        yield _good("memory", sizes)


def check_cache(config: Config) -> Iterable[Finding]:
    """Write into the cache, and look at the room it has."""
    directory = config.cache_dir
    try:
        with entry.workplace(directory / ".doctor~") as place:
            (place / "file").touch()
        free = shutil.disk_usage(directory).free
    except (OSError, CacheError) as exc:
        yield Finding(
            verdict=Verdict.MISSING,
            what="cache",
            detail=f"`{directory}` cannot be written: {exc.__cause__ or exc}",
            hint="`-cache-dir DIR` names another place",
        )
        return
    sizes = f"{directory}, {free / GIB:.1f} GiB free"
    if free < _ROOM:
        yield _weak("cache", sizes, "snapshots and kernels need a few GiB; `vimto kernel prune`")
    else:
        yield _good("cache", sizes)


def check_go(config: Config) -> Iterable[Finding]:
    """Ask go for its version and its target."""
    env = go_env("go", os.getcwd(), os.environ)
    check_go_version(env.goversion)
    yield _good("go", f"{env.goversion.removeprefix('go')}, {shutil.which('go')}")
    check_target(env)


def check_agent(config: Config) -> Iterable[Finding]:
    """Build the guest program, unless it is there."""
    agent = build_agent(cache=config.cache_dir)
    yield _good("agent", str(agent.path))


def check_kernel(config: Config) -> Iterable[Finding]:
    """Fetch the kernel if need be and look at what it has for the guest."""
    with contextlib.ExitStack() as stack:
        place = locate_kernel(config, wanted_kernel(config), stack).place
        files = boot.resolve_kernel(place, cache=config.cache_dir)
        yield from judge_kernel(files)
    if files.transport == "virtiofs" and not _find_virtiofsd():
        yield Finding(
            verdict=Verdict.MISSING,
            what="virtiofsd",
            detail="not installed, and this kernel has no 9p",
            hint="on Debian and Ubuntu: sudo apt-get install virtiofsd",
        )


def _find_virtiofsd() -> Path | None:
    places = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", shutil.which("virtiofsd") or "")
    return next((Path(place) for place in places if place and os.access(place, os.X_OK)), None)


def judge_kernel(files: KernelFiles) -> Iterator[Finding]:
    """Say what a kernel that boots brings along, and what tests will not find in it."""
    yield _good("kernel", files.description)
    plan = files.modules
    loaded = f"{len(plan.modules)} modules" if plan.modules else "all built in"
    yield _good("files", f"{files.transport}; drivers: {loaded}")
    if files.module_count:
        yield _good("modules", f"{files.module_count}, which load by name and by themselves")
    elif files.config.get("CONFIG_MODULES") == "y":
        yield _weak(
            "modules",
            "none found beside the kernel; what it does not have built in is missing",
            "name the directory that holds the kernel and its `lib/modules`",
        )
    if not files.pvh:
        yield _weak("entry", "no PVH entry: the kernel unpacks itself, which takes seconds")
    if not files.config:
        yield _weak("options", "unknown: the kernel came without its configuration")
        return
    lacks = [name for name in _OPTIONS if files.config.get(f"CONFIG_{name}") not in ("y", "m")]
    for name in lacks:
        yield _weak("options", f"CONFIG_{name} is off: {_OPTIONS[name]}")
    if not lacks:
        yield _good("options", f"all {len(_OPTIONS)} that tests like to have")
    if files.vmlinux is None:
        yield _weak("symbols", "no vmlinux with debug information; gdb shows names alone")
    else:
        yield _good("symbols", str(files.vmlinux))


def check_debuggers(config: Config) -> Iterable[Finding]:
    """Look for the debuggers, which only some commands need."""
    for program, what in (("dlv", "`vimto dlv`"), ("gdb", "`vimto gdb-kernel`")):
        path = shutil.which(program)
        if path:
            yield _good(program, path)
        else:
            yield _weak(program, f"not on PATH; only {what} needs it", _HOW_TO_GET[program])


_HOW_TO_GET = {
    "dlv": "go install github.com/go-delve/delve/cmd/dlv@latest",
    "gdb": "on Debian and Ubuntu: sudo apt-get install gdb",
}


def check_host(config: Config) -> Iterable[Finding]:
    """Name the host: what a bug report should begin with."""
    host = platform.uname()
    yield _good("host", f"Linux {host.release} {host.machine}, Python {platform.python_version()}")


_CHECKS: tuple[tuple[str, Callable[[Config], Iterable[Finding]]], ...] = (
    ("host", check_host),
    ("config", check_file),
    ("qemu", check_qemu),
    ("accelerator", check_accelerator),
    ("snapshots", check_snapshots),
    ("memory", check_memory),
    ("cache", check_cache),
    ("go", check_go),
    ("agent", check_agent),
    ("debuggers", check_debuggers),
    ("kernel", check_kernel),
)
