"""`vimto setup-ci`: makes a CI runner fit, and tells what the CI's own cache should keep.

On stdout are `name=value` lines alone, a name with several values once for each:

    key            the cache's key: another one as soon as anything that counts is another
    restore-keys   beginnings of keys whose caches serve as well, the best first
    path           a pattern, as a shell's, for what to keep; what it names need not be there
    cache-dir      the directory that all these are in
    accelerator    `kvm` or `tcg`
    snapshots      `true` if snapshots are among what is kept
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

from vimto import __version__, console, quoting
from vimto.cache.digest import Table, digest
from vimto.cache.place import travelling
from vimto.commands.catalog import usage
from vimto.commands.kernel import name_kernel
from vimto.config import Config, find_repository
from vimto.errors import AgentError, CommandError, ConfigError, QemuError, UsageError
from vimto.kernel.reference import KernelReference
from vimto.plan.agent import name_agent
from vimto.plan.identity import identify_kernel
from vimto.plan.kernels import choose_kernel, named_kernel, wanted_kernel
from vimto.plan.shares import Share, refuse_cache
from vimto.process import proc
from vimto.process.spawn import which
from vimto.qemu import probe
from vimto.qemu.find import find_qemu
from vimto.settings import SETTINGS

Outputs = Sequence[tuple[str, Sequence[str]]]

# What Debian and Ubuntu call QEMU for the machines of a host.
_PACKAGES = {"x86_64": "qemu-system-x86", "aarch64": "qemu-system-arm"}
_RULES = "/etc/udev/rules.d"
# As systemd's own rule has it unless the distribution decided otherwise (its option dev-kvm-mode).
_RULE = 'KERNEL=="kvm", MODE="0666", OPTIONS+="static_node=kvm"\n'
# Settings that no entry of the cache depends on; the kernel's name counts as what it refers to.
_ELSEWHERE = """
kernel user sudo setup teardown share sysctl accel qemu boot_timeout timeout stop_timeout verbose
cache_dir cache_limit snapshot_limit link_limit pull pull_fresh image_limit insecure_registry
forward gdb vmlinux
"""


class Step(NamedTuple):
    """A command to run as root, and its stdin."""

    argv: tuple[str, ...]
    input: str = ""

    def show(self, prefix: Sequence[str]) -> str:
        """Return the line that does the same in a shell."""
        line = quoting.show([*prefix, *self.argv])
        return f"echo {quoting.show([self.input.rstrip()])} | {line}" if self.input else line


def run(config: Config, argv: list[str]) -> int:
    """Do all of it; returns 1 without a QEMU that runs, else 0."""
    apply = argv[:1] in (["-apply"], ["--apply"])
    names = argv[1:] if apply else argv
    for word in names:
        if word.startswith("-"):
            raise UsageError(f"`vimto setup-ci` does not know `{word}`", hint=usage("setup-ci"))
    configs = [name_kernel(config, name) for name in names] or [config]
    references = [_or_chosen(wanted_kernel(each)) for each in configs]
    # Without what a lock makes of it: one that is renewed leaves the beginning of the key as it is.
    named = [_or_chosen(named_kernel(each)) for each in configs]
    repository = find_repository(os.getcwd())
    refuse_cache([Share(repository)] if repository else [], str(config.cache_dir))
    qemu = provide_qemu(config, apply=apply)
    if qemu is None:
        return 1
    accelerator = provide_kvm(config, apply=apply)
    identities = [
        identify_kernel(reference, each)
        for reference, each in zip(references, configs, strict=True)
    ]
    snapshots = config.snapshot and accelerator.emulated
    keys = name_cache(
        asked=[*shaping(config), *map(str, named)],
        host=describe_host(config, qemu, accelerator, snapshots=snapshots),
        kernels=identities,
        accelerator=accelerator.name,
    )
    tell(
        [
            ("key", keys[:1]),
            ("restore-keys", keys[1:]),
            ("path", travelling(config.cache_dir, snapshots=snapshots)),
            ("cache-dir", [str(config.cache_dir)]),
            ("accelerator", [accelerator.name]),
            ("snapshots", [str(snapshots).lower()]),
        ]
    )
    return 0


def _or_chosen(reference: KernelReference | None) -> KernelReference:
    return choose_kernel() if reference is None else reference  # `HostKernel()` is falsy


def provide_qemu(config: Config, *, apply: bool) -> probe.QemuBinary | None:
    """Return QEMU, which is installed first where it is missing and `apply` says so.

    None where there is none in the end, or one that does not run, which the user is told.
    """
    try:
        find_qemu(config.qemu)
    except QemuError as exc:
        steps = [] if config.qemu else install_steps()
        if not steps:
            console.error(QemuError(exc.message, hint=_hint(exc, config)))
            return None
        console.note("QEMU is not installed")
        if not carry_out(steps, apply=apply):
            return None
    try:
        qemu = probe.probe_qemu(find_qemu(config.qemu), config.cache_dir)
    except QemuError as exc:
        console.error(exc)
        return None
    console.note(f"QEMU {'.'.join(map(str, qemu.version))} is here: {qemu.path}")
    return qemu


def _hint(exc: QemuError, config: Config) -> str:
    return exc.hint if config.qemu else "there is no apt here; install QEMU 7.0 or newer"


def install_steps() -> list[Step]:
    """Return what installs QEMU, nothing where there is no apt."""
    if which("apt-get") is None:
        return []
    # A fresh machine may be at its unattended upgrades.
    install = "env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -q"
    package = _PACKAGES.get(os.uname().machine, "qemu-system")
    return [
        Step(("apt-get", "update", "-q")),
        Step((*install.split(), "--no-install-recommends", package)),
    ]


def provide_kvm(config: Config, *, apply: bool) -> probe.Accelerator:
    """Return the accelerator; before, what keeps KVM from us is mended where `apply` says so."""
    wanted = config.accel != "tcg"
    # Twice: the device of a module that was loaded just now may lack rights.
    for _ in range(2 if wanted else 0):
        steps = kvm_steps(probe.find_obstacle())
        if not steps or not carry_out(steps, apply=apply):
            break
    accelerator = probe.choose_accelerator(config.accel)
    if accelerator.emulated:
        console.note(f"machines are emulated, which is ten times slower: {accelerator.reason}")
    else:
        console.note("machines run under KVM")
    return accelerator


def kvm_steps(obstacle: probe.Obstacle | None) -> list[Step]:
    """Return what mends `obstacle`, nothing where nothing does."""
    if obstacle and obstacle.module:
        return [Step(("modprobe", obstacle.module))]
    if not (obstacle and obstacle.rights):
        return []
    steps = [Step(("chmod", "0666", probe.KVM))]
    if os.path.isdir(_RULES) and which("udevadm"):
        # Without it, the next event of the device gives it its old mode again.
        rule = Step(("tee", f"{_RULES}/99-vimto-kvm.rules"), input=_RULE)
        steps = [rule, Step(("udevadm", "control", "--reload-rules")), *steps]
    return steps


def carry_out(steps: Sequence[Step], *, apply: bool) -> bool:
    """Run `steps` as root, each only after the one before has succeeded; say whether all have.

    Without `apply` the user is told what would be run.
    """
    prefix = _become_root()
    for step in steps:
        line = step.show(prefix or ())
        if not apply:
            console.note(f"`-apply` would run: {line}")
            continue
        if prefix is None:
            console.warn(f"not root, and without sudo: this was not run: {line}")
            return False
        console.note(f"running: {line}")
        try:
            proc.run([*prefix, *step.argv], input=step.input.encode(), limit=None)
        except CommandError as exc:
            console.warn("\n".join((exc.message, *exc.lines[-3:])))
            return False
    return apply


def _become_root() -> tuple[str, ...] | None:
    """Return what makes a command root's, None where nothing does."""
    if os.geteuid() == 0:
        return ()
    return ("sudo", "-n") if which("sudo") else None  # nobody is there to type a password


def shaping(config: Config) -> list[str]:
    """Return the settings that what is in the cache may depend on."""
    rows = [row for row in SETTINGS if row.key not in _ELSEWHERE.split()]
    return [f"{row.key} = {row.kind.show(getattr(config, row.key))}" for row in rows]


def describe_host(
    config: Config, qemu: probe.QemuBinary, accelerator: probe.Accelerator, *, snapshots: bool
) -> list[str]:
    """Return what of this host the entries of the cache depend on, with or without snapshots."""
    try:
        found = [name_agent(cache=config.cache_dir)]
    except AgentError as exc:
        console.warn(f"{exc.message}; install it first, the cache's key depends on its version")
        found = []
    if snapshots:
        try:
            found.append(Table(config.cache_dir).digest(qemu.path))
        except OSError:  # it may be executed, but not read
            found.append(qemu.identity)
        found.append(probe.identify_host_cpu(emulated=accelerator.emulated))
    return found


def name_cache(
    *, asked: Sequence[str], host: Sequence[str], kernels: Sequence[str], accelerator: str
) -> list[str]:
    """Return the cache's key, and the beginnings of others, the most like it first.

    A CI keeps the cache of a key as it was when it was first saved. So all that leads to other
    entries is in it; what a kernel's name means comes last, for most of it changes most often.
    """
    parts = ["vimto", __version__, os.uname().machine, accelerator, _short(asked)]
    beginnings = ["-".join(parts) + "-"]
    for part in (host, kernels):
        beginnings.insert(0, f"{beginnings[0]}{_short(part)}-")
    return [beginnings[0].removesuffix("-"), *beginnings[1:]]


def _short(parts: Sequence[str]) -> str:
    return digest("\0".join(parts).encode("utf-8", "surrogateescape"))[:12]


def tell(outputs: Outputs) -> None:
    """Write `outputs` to stdout, and append them to the file that a GitHub runner reads."""
    for name, values in outputs:
        for value in values:
            if "\n" in value:
                raise ConfigError(f"`{name}` cannot be told, for it holds a newline: {value!r}")
            console.show(f"{name}={value}\n")
    file = os.environ.get("GITHUB_OUTPUT")
    if file:
        # Nobody can know the mark beforehand, so no value can pretend to end before its end.
        mark = f"vimto-{os.urandom(16).hex()}"
        text = "".join(
            "\n".join((f"{name}<<{mark}", *values, mark, "")) for name, values in outputs
        )
        try:
            with open(file, "a", encoding="utf-8", errors="surrogateescape") as out:
                out.write(text)
        except OSError as exc:
            raise ConfigError(f"`$GITHUB_OUTPUT` cannot be written: {exc.strerror}") from exc
