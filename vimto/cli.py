"""The command line: flags, then a command; the only place where vimto's errors end."""

import os
import signal
import sys
from collections.abc import Callable

from vimto import __version__, console
from vimto.cache.place import choose_cache
from vimto.config import Config, load_config
from vimto.errors import VIMTO_FAILED, UsageError, VimtoError
from vimto.go.args import is_go_word
from vimto.settings import SETTINGS, near_misses, parse_flags
from vimto.vm.launch import Launch
from vimto.vm.signals import end_by_exception

USAGE = """\
usage: vimto [flags] command

Runs Go tests in an ephemeral virtual machine, under a Linux kernel of your choice.

commands:
  go test …          go's own `test`, each test binary in a machine of its own
  go run …           go's own `run`, likewise
  exec command …     a command in a machine
  shell              your shell in a machine, in this directory
  dlv test …         Delve's own commands, with the program and Delve in a machine
  gdb-kernel …       a test, or `exec command`, in a machine whose kernel gdb holds
  kernel …           pull, list, describe and remove kernels: `vimto kernel help`
  config             every setting, its value, and where it came from
  doctor             what this host and the kernel have, and what they lack
  version            the version of vimto

As `go test -exec vimto` it runs the test binary it is given.
"""


def main(launch: Launch | None = None) -> None:
    """Run the command line of this process and exit.

    A QEMU that was started in advance is used or ended. No standard descriptor may be closed.
    """
    end_by_exception()
    # Python has None for a closed stream, and what is written to it would be a traceback. (Of ours
    # nothing is: `console` writes to the descriptors.)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 (for as long as we live)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    status = run(sys.argv[1:], launch)
    if launch:
        launch.close()
    os._exit(status)  # no interpreter shutdown: nothing is left to do, and it takes 10 ms


def run(argv: list[str], launch: Launch | None = None) -> int:
    """Run `argv` (without the program's name) and return the exit status."""
    try:
        return _dispatch(argv, launch)
    except VimtoError as exc:
        console.error(exc)
        if console.verbosity() >= 2:
            console.fault()
        return exc.status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 128 + signal.SIGPIPE  # nobody reads what we write: as if the signal had ended us
    except Exception:
        # A fault of ours. Python's own end would be the status 1, as of a test that failed.
        console.fault()
        return VIMTO_FAILED


_HELP = ("-h", "-help", "--help")
# Their first word could be nobody else's flag; the others answer for themselves, or pass it on.
_EXPLAINED = ("exec", "config", "doctor")
# `vimto doctor -kernel X`: where no flags of another program can follow, ours may.
_FLAGS_FOLLOW = ("doctor", "exec")


def _dispatch(argv: list[str], launch: Launch | None) -> int:
    flags, words = parse_flags(argv)
    console.set_verbosity(flags.get("verbose", 0))
    if not words or words[0] == "help" or words[0] in _HELP:
        console.show(usage())
        return 0 if words else VIMTO_FAILED
    if words[0] in ("version", "-version", "--version"):
        console.show(f"vimto {__version__}\n")
        return 0
    if launch and words[0] != "exec":
        launch.close()
    command = _find_command(words, launch)
    if words[0] in _FLAGS_FOLLOW:
        flags, rest = parse_flags(words[1:], flags)
        words = [words[0], *rest]
    if words[0] in _EXPLAINED and words[1:] and words[1] in _HELP:
        import importlib

        console.show(importlib.import_module(f"vimto.commands.{words[0]}").USAGE)
        return 0
    config = load_config(flags, os.environ, os.getcwd())
    console.set_verbosity(config.verbose)
    if words[0] != "config":
        config = config._replace(cache_dir=choose_cache(config.cache_dir))
    return command(config, words)


def _find_command(words: list[str], launch: Launch | None) -> Callable[[Config, list[str]], int]:
    """Return the command that `words` start with, imported only now: `exec` must be quick."""
    word = words[0]
    if word == "exec":
        from vimto.commands.exec import run_exec

        return lambda config, words: run_exec(config, words[1:], launch)
    if word == "shell":
        from vimto.commands.shell import run_shell

        return lambda config, words: run_shell(config, words[1:])
    if word == "dlv":
        from vimto.commands.dlv import run_dlv

        return lambda config, words: run_dlv(config, words[1:])
    if word == "gdb-kernel":
        from vimto.commands.gdb import run_gdb

        return lambda config, words: run_gdb(config, words[1:])
    if is_go_word(word):
        from vimto.commands.go import run_go

        return run_go
    if word == "config":
        from vimto.commands import config as config_command

        return lambda config, words: config_command.run(config, words[1:])
    if word in ("kernel", "flush-cache"):
        from vimto.commands import kernel

        return lambda config, words: kernel.run(config, words[1:] if word == "kernel" else words)
    if word == "doctor":
        from vimto.commands import doctor

        return lambda config, words: doctor.run(config, words[1:])
    if os.sep in word:  # go's `-exec vimto`
        from vimto.commands.exec import run_for_go

        return run_for_go
    raise _unknown_command(word)


_COMMANDS = (
    "go",
    "exec",
    "shell",
    "dlv",
    "gdb-kernel",
    "kernel",
    "config",
    "doctor",
    "version",
    "help",
)


def _unknown_command(word: str) -> UsageError:
    near = near_misses(word, list(_COMMANDS))
    hint = f"did you mean `{near[0]}`?" if near else f"to run a program: `vimto exec {word}`"
    return UsageError(f"vimto has no command `{word}`", hint=hint)


def usage() -> str:
    """Return the help text: the commands, and a line for each flag."""
    import textwrap

    lines = [USAGE, "flags:"]
    for row in SETTINGS:
        flag = f"-{row.flags[0]}" + (f" {row.metavar}" if row.metavar else "")
        wrapped = textwrap.wrap(row.help, 70)
        head = f"  {flag:<24}"
        lines += [head + wrapped[0] if len(flag) < 24 else head.rstrip()]
        lines += [" " * 26 + line for line in (wrapped[1:] if len(flag) < 24 else wrapped)]
    return "\n".join(lines) + "\n"
