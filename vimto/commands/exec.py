"""`vimto exec`: one command in a machine of its own; and vimto called as `go test -exec` itself."""

import contextlib
import os

from vimto.commands.interactive import attended
from vimto.commands.prepare import prepare
from vimto.config import Config, find_repository
from vimto.errors import UsageError
from vimto.vm.run import Companion, run

USAGE = """\
usage: vimto [flags] exec [--] command [arguments]

Runs a command in a virtual machine: same directory, same user, same environment. What it writes
below the repository and the working directory stays, all else is gone with the machine.
"""


def run_exec(config: Config, argv: list[str]) -> int:
    """Run `argv` (the words after `exec`) in a machine and return the command's status."""
    words = argv[1:] if argv[:1] == ["--"] else argv
    if not words:
        raise UsageError("`vimto exec` needs a command", hint=USAGE.splitlines()[0])
    return run_command(config, words)


def run_command(config: Config, words: list[str]) -> int:
    """Run a command in this directory; its repository is shared, as for go's tests."""
    cwd = os.getcwd()
    repository = find_repository(cwd)
    shares = [(repository, False)] if repository else []
    companion = Companion()
    with contextlib.ExitStack() as stack:
        if config.gdb:
            from vimto.commands.gdb import wait_for_gdb

            config, companion = stack.enter_context(wait_for_gdb(config))
        request = stack.enter_context(attended(config))
        plan = stack.enter_context(prepare(config, shares=shares))
        return run(plan, request._replace(argv=words, companion=companion))
