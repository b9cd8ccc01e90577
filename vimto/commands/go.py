"""`vimto go test` and `vimto go run`: the user's go, with a machine around each program it runs.

vimto go test ── plan (in memory) ──> go test -exec 'python shim.py …' ──> shim ──> machine
     └─ a snapshot is made, if there is none, while go compiles
"""

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from vimto import shim
from vimto.cache.snapshots import is_saved
from vimto.config import Config
from vimto.errors import UsageError
from vimto.go.args import GoCommand, parse_go
from vimto.go.duration import MINUTE, SECOND, format_duration, parse_duration
from vimto.go.tool import check_target, go_env, writable_roots
from vimto.plan.links import kept_links
from vimto.plan.plan import GoTimeout, Plan
from vimto.plan.prepare import default_temporary, prepare
from vimto.process import proc
from vimto.process.spawn import end, spawn
from vimto.vm.blame import are_off
from vimto.vm.request import Request
from vimto.vm.run import choose_machine

_DEFAULT_TIMEOUT = "10m"


class SharedPlan(NamedTuple):
    """What the shim finds in our /proc: the plan, and the end of a pipe that closes with us."""

    plan: int
    lifeline: int
    qemu: str

    def shim(self, *words: str) -> list[str]:
        """Return the command line of the shim that runs `words`, or what go adds."""
        python = os.path.realpath(sys.executable)
        script = os.path.abspath(shim.__file__)
        # By the name that shims see: /proc may be that of a process namespace above ours.
        pid = os.readlink("/proc/self")
        qemu = "" if words else self.qemu
        place = [pid, str(self.plan), str(self.lifeline), qemu]
        return [python, "-I", "-S", script, *place, *words]


def run_go(config: Config, argv: list[str]) -> int:
    """Run the go command `argv` (its first item is the go binary) and return its status."""
    go, cwd = argv[0], os.getcwd()
    if shutil.which(go) is None:
        raise UsageError(
            f"`{go}` is not installed or not on PATH",
            hint="install Go, or put its `bin` directory on PATH",
        )
    command = parse_go(argv)
    if config.gdb and command.runs_programs:
        raise UsageError(
            "`-gdb` is for `vimto exec`", hint="`vimto gdb-kernel` holds the kernel under a test"
        )
    if not command.runs_programs:
        return proc.foreground(argv)
    directory = command.directory(cwd)
    if not os.path.isdir(directory):
        raise UsageError(f"`{command.chdir}` of go's `-C` is not a directory")
    env = go_env(go, directory, os.environ)
    command = parse_go(argv, goflags=env.goflags)
    if command.compiles_only:
        return proc.foreground(argv)
    check_target(env)
    roots = writable_roots(go, directory, env, os.environ)
    shares = [(root, False) for root in (*roots, *_outputs(command, cwd))]
    temporary = env.gotmpdir or default_temporary()
    timeout = go_timeout(command)
    with (
        prepare(config, shares=shares, temporary=temporary, directory=directory) as plan,
        share_plan(plan._replace(go_timeout=timeout)) as shared,
        kept_links(config, env, command.flags) as links,
        background_snapshot(plan, shared, [f"{temporary}/go-build/b001/test"], directory),
    ):
        return proc.foreground(command.with_exec(shared.shim(), timeless=bool(timeout), more=links))


def go_timeout(command: GoCommand) -> GoTimeout | None:
    """Return what go would make of its `-timeout`; None where it sets no limit, or refuses it.

    Source: cmd/go/internal/test/test.go of Go 1.26.
    """
    if command.verb != "test":
        return None
    try:
        value = parse_duration(command.value("timeout", _DEFAULT_TIMEOUT))
    except ValueError:
        return None
    if value <= 0:
        return None
    grace = max(value // 10, 5 * SECOND)
    total = value + max(grace, MINUTE)
    # Fuzzing and benchmarking may go on for ever, but for what the binary itself makes of it.
    endless = bool(command.value("fuzz") or command.value("bench"))
    return GoTimeout(
        value=format_duration(value),
        places=max(1, len(command.timeouts_at)),
        total=format_duration(total),
        kill=0.0 if endless else total / SECOND,
        grace=grace / SECOND,
    )


def _outputs(command: GoCommand, cwd: str) -> list[str]:
    return [path for path in command.output_directories(cwd) if os.path.isdir(path)]


@contextlib.contextmanager
def share_plan(plan: Plan) -> Iterator[SharedPlan]:
    """Make the plan readable for shims, for as long as the context lasts.

    Both descriptors live in this process alone, so nothing is left however it ends.
    """
    memory = os.memfd_create("vimto-plan")
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        os.write(memory, plan.dump())
        yield SharedPlan(memory, reading, plan.qemu if plan.may_load_ahead else "")
    finally:
        for fd in (memory, reading, writing):
            os.close(fd)


@contextlib.contextmanager
def background_snapshot(
    plan: Plan, shared: SharedPlan, argv: Sequence[str], cwd: str
) -> Iterator[None]:
    """Let the kernel boot, and be saved, beside what the context does; shims wait for it.

    `argv` in `cwd` is a command like theirs: which machine it needs follows from its directories.
    """
    _, shape = choose_machine(plan, Request(list(argv), cwd, os.environb))
    off = shape.key and are_off(plan, shape, told=False)  # once, and not in each test's output
    if not shape.key or off or is_saved(plan.snapshots, shape.key):
        yield
        return
    pid = spawn(shared.shim("--snapshot", str(shape.shares)), log=2)
    try:
        yield
    finally:
        end(pid, signal.SIGTERM)
