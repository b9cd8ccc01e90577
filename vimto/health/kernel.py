"""The kernel: its drivers, modules and options, and what tests will not find in it."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping

from vimto.config import Config
from vimto.errors import KernelError
from vimto.health.finding import Finding, good, weak
from vimto.kernel import boot, depmod
from vimto.kernel.boot import KernelFiles
from vimto.plan.kernels import locate_kernel, wanted_kernel
from vimto.qemu.virtiofsd import find_virtiofsd

# What a kernel can do for tests beyond what every run needs; `boot.settle_drivers` knows that.
OPTIONS: Mapping[str, str] = {
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


def check_kernel(config: Config) -> Iterable[Finding]:
    """Fetch the kernel if need be and look at what it has for the guest."""
    with contextlib.ExitStack() as stack:
        found = locate_kernel(config, wanted_kernel(config), stack)
        files = boot.resolve_kernel(found.place, cache=config.cache_dir)
        yield from judge_kernel(files)
        yield from judge_virtiofsd(files.transport)


def judge_kernel(files: KernelFiles) -> Iterator[Finding]:
    """Say what a kernel that boots brings along, and what tests will not find in it."""
    yield good("kernel", files.description, release=files.release, path=str(files.kernel))
    yield _drivers(files)
    yield from _modules(files)
    if files.pvh:
        yield good("entry", "PVH: QEMU starts the unpacked kernel", pvh=True)
    else:
        detail = "no PVH entry: the kernel unpacks itself, which takes seconds"
        yield weak("entry", detail, "build it with CONFIG_PVH=y", pvh=False)
    yield from _options(files.config)
    if files.vmlinux is None:
        yield weak(
            "symbols",
            "no vmlinux with debug information; gdb shows names alone",
            "`vimto gdb-kernel -fetch-debug` downloads that of a distribution's kernel",
        )
    else:
        yield good("symbols", str(files.vmlinux), path=str(files.vmlinux))


def _drivers(files: KernelFiles) -> Finding:
    plan = files.modules
    loaded = [module.name for module in plan.modules]
    groups = {"built in": plan.builtin, "modules": loaded, "without": plan.missing}
    shown = "; ".join(f"{what}: {', '.join(names)}" for what, names in groups.items() if names)
    return good(
        "drivers",
        f"files by {files.transport}; {shown}",
        transport=files.transport,
        built_in=list(plan.builtin),
        modules=loaded,
        missing=list(plan.missing),
    )


def _modules(files: KernelFiles) -> Iterator[Finding]:
    if files.module_count and files.module_directory:
        yield good(
            "modules",
            f"{files.module_count}, which load by name and by themselves",
            count=files.module_count,
            directory=str(files.module_directory),
        )
        own = depmod.compare_index(files.module_directory)
        words = {
            depmod.OwnIndex.CURRENT: "the kernel's own is current",
            depmod.OwnIndex.STALE: "the kernel's own is stale: it is of other modules than these",
            depmod.OwnIndex.NONE: "the kernel came without",
        }
        yield good("index", f"made by vimto; {words[own]}", made=True, own=own.value)
    elif files.config.get("CONFIG_MODULES") == "y":
        yield weak(
            "modules",
            "none found beside the kernel; what it does not have built in is missing",
            "name the directory that holds the kernel and its `lib/modules`",
            count=0,
        )


def _options(config: Mapping[str, str]) -> Iterator[Finding]:
    if not config:
        yield weak(
            "options",
            "unknown: the kernel came without its configuration",
            "a kernel with CONFIG_IKCONFIG=y has it in itself",
        )
        return
    states = {name: config.get(f"CONFIG_{name}", "n") for name in OPTIONS}
    built_in = [name for name, state in states.items() if state == "y"]
    modules = [name for name, state in states.items() if state == "m"]
    lacks = [name for name in OPTIONS if name not in (*built_in, *modules)]
    groups = {"built in": built_in, "modules": modules}
    shown = "; ".join(f"{what}: {', '.join(names)}" for what, names in groups.items() if names)
    yield good("options", shown or "none", built_in=built_in, modules=modules, missing=lacks)
    for name in lacks:
        hint = f"a kernel built with CONFIG_{name}=y has it"
        yield weak("options", f"CONFIG_{name} is off: {OPTIONS[name]}", hint, option=name)


def judge_virtiofsd(transport: str) -> Iterator[Finding]:
    """Look for virtiofsd as a run does; raises `KernelError` where one is needed, as there."""
    try:
        server = find_virtiofsd()
    except KernelError:
        if transport == "virtiofs":
            raise
        yield good("virtiofsd", "none for this user, and this kernel needs none", path="")
    else:
        kind = "the one in Rust" if server.is_rust else "the one in C"
        needed = "" if transport == "virtiofs" else "; this kernel needs none"
        yield good("virtiofsd", f"{server.path}, {kind}{needed}", path=server.path)
