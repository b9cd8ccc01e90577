"""`vimto exec`: one command in a machine of its own; and vimto called as `go test -exec` itself."""

import contextlib
import os

from vimto import console
from vimto.commands.catalog import usage
from vimto.config import Config, find_repository
from vimto.errors import UsageError
from vimto.qemu.find import find_qemu
from vimto.qemu.process import drop_ahead, load_ahead

# Seconds: well below the minute by which go's timer is longer than the test's own.
_GO_WAIT = 30.0


def run_exec(config: Config, argv: list[str]) -> int:
    """Run `argv` (the arguments after `exec`) in a machine and return the command's status."""
    words = argv[1:] if argv[:1] == ["--"] else argv
    if not words:
        raise UsageError("`vimto exec` needs a command", hint=usage("exec"))
    return run_command(config, words)


def run_for_go(config: Config, words: list[str]) -> int:
    """Run the test binary that go gives us, as its `-exec`, like `run_exec`."""
    return run_command(config, words, one_of_many=True)


def run_command(
    config: Config,
    words: list[str],
    *,
    greeting: str = "",
    one_of_many: bool = False,
) -> int:
    """Run a command in this directory; its repository is shared, as for go's tests.

    A `greeting` is shown with the kernel's name once that is known, on a terminal.
    """
    with contextlib.ExitStack() as stack:
        qemu = find_qemu(config.qemu)
        if config.snapshot:
            load_ahead(qemu)
        else:
            drop_ahead()  # a machine that boots has no use for it
        # Imported while QEMU loads.
        from vimto.commands.interactive import attended
        from vimto.plan.prepare import prepare
        from vimto.vm.request import Companion
        from vimto.vm.run import run

        repository = find_repository(os.getcwd())
        shares = [(repository, False)] if repository else []
        companion = Companion()
        if config.gdb:
            from vimto.commands.gdb import wait_for_gdb

            config, companion = stack.enter_context(wait_for_gdb(config))
        request = stack.enter_context(attended(config))
        plan = stack.enter_context(prepare(config, shares=shares, one_of_many=one_of_many))
        if greeting and request.terminal:
            console.note(f"{plan.kernel_name}: {greeting}")
        return run(
            plan,
            request._replace(argv=words, companion=companion, wait_limit=wait_limit(words)),
        )


def wait_limit(words: list[str]) -> float | None:
    """Return how long `words` may wait for a machine; None where nothing presses.

    go's own timer for a test, `-timeout` and a minute, starts with us where go runs us itself.
    """
    return _GO_WAIT if "-test.paniconexit0" in words else None
