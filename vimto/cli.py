"""The command line: flags, then a command; the only place where vimto's errors end."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from vimto import console
from vimto.cache.place import choose_cache
from vimto.commands import catalog
from vimto.config import DEFAULT, Config, find_repository, load_config
from vimto.errors import VIMTO_FAILED, UsageError, VimtoError
from vimto.go.args import is_go_word
from vimto.plan.users import find_homes
from vimto.qemu.process import drop_ahead
from vimto.settings import Flags, parse_flags
from vimto.vm.signals import end_by_exception


def main() -> None:
    """Run the command line of this process and exit.

    No standard descriptor may be closed.
    """
    end_by_exception()
    # Python has None for a closed stream, and what is written to it would be a traceback. (Of ours
    # nothing is: `console` writes to the descriptors.)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 (for as long as we live)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    status = run(sys.argv[1:])
    drop_ahead()
    os._exit(status)  # no interpreter shutdown: nothing is left to do, and it takes 10 ms


def run(argv: list[str]) -> int:
    """Run `argv` (without the program's name) and return the exit status."""
    try:
        return _dispatch(argv)
    except VimtoError as exc:
        console.error(exc)
        if console.verbosity() >= 2:
            console.fault()
        return exc.status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 128 + signal.SIGPIPE  # nobody reads what we write: as if the signal had ended us
    except Exception as exc:
        return console.unexpected(exc)


def _dispatch(argv: list[str]) -> int:
    flags, words = parse_flags(argv)
    console.set_verbosity(flags.get("verbose", 0))
    words = _say_help_as_command(words)
    row, rest = _find_command(words)
    if row is None or row.name != "exec":
        drop_ahead()  # the word was an argument
    if row and not row.configured:
        return _load(row)(rest) or 0
    if row and catalog.is_group(row):  # nothing to do is a mistake
        console.write(catalog.help_text(row.name.split()).rstrip("\n"))
        return VIMTO_FAILED
    if row and row.flags_follow:
        flags, rest = _split_flags(row, flags, rest)
        if rest[:1] and rest[0] in catalog.HELP_FLAGS:
            console.show(catalog.help_text(row.name.split()))
            return 0
    config = load_config(flags, os.environ, _working_directory())
    console.set_verbosity(config.verbose)
    if row is None or row.name != "config":
        config = config._replace(cache_dir=_choose_cache(config))
    if row is None:
        from vimto.commands.exec import run_for_go

        return run_for_go(config, rest)
    return _load(row)(config, rest) or 0


def _split_flags(row: catalog.Command, flags: Flags, words: list[str]) -> tuple[Flags, list[str]]:
    """Take vimto's own flags from before, between and behind those of the command itself."""
    own: list[str] = []
    while True:
        flags, words = parse_flags(words, flags, catalog.own_flags(row))
        if not words or words[0].replace("--", "-", 1) not in catalog.own_flags(row):
            return flags, [*own, *words]
        own.append(words.pop(0))


def _choose_cache(config: Config) -> Path:
    # Whoever keeps the home directory in a repository shares it with the machines started there,
    # and would have to name a cache elsewhere each time. (`plan` refuses one that was named.)
    repository = find_repository(_working_directory())
    named = config.origins["cache_dir"] != DEFAULT
    at_home = not named and repository and os.path.realpath(repository) in find_homes()
    shared = repository if repository and at_home else ""
    return choose_cache(config.cache_dir, shared, named=bool(named))


def _say_help_as_command(words: list[str]) -> list[str]:
    """Return `words`, but as the command `help` or `version` where they ask for that by a flag."""
    if not words:
        return words
    if words[0] in catalog.HELP_FLAGS:
        return ["help", *words[1:]]
    if words[0] in ("-version", "--version"):
        return ["version", *words[1:]]
    row = catalog.find_command(words)
    name = row.name.split() if row else []
    after = words[len(name) : len(name) + 1]
    if row and after and after[0] in catalog.HELP_FLAGS:
        return ["help", *name]
    if row and catalog.is_group(row) and after == ["help"]:  # `vimto kernel help pull`
        return ["help", *name, *words[len(name) + 1 :]]
    return words


def _find_command(words: list[str]) -> tuple[catalog.Command | None, list[str]]:
    """Return the row that `words` begin with, and what of them its function is to get.

    None stands for the program that go's `-exec vimto` names. Raises `UsageError` for words that
    name no command.
    """
    if not words:
        return catalog.VIMTO, []
    first = "go" if is_go_word(words[0]) else words[0]
    row = catalog.find_command([first, *words[1:]], runs=True)
    if row and catalog.is_group(row) and words[1:]:
        raise catalog.unknown_command(words[:2])
    if row:
        return row, words if row.named else words[row.name.count(" ") + 1 :]
    if os.sep in first:
        return None, words
    raise catalog.unknown_command([first])


def _load(row: catalog.Command) -> Callable[..., int | None]:
    """Return the function of a command, imported only now: `exec` must be quick."""
    import importlib

    module, _, name = row.run.partition(":")
    function: Callable[..., int | None] = getattr(importlib.import_module(module), name)
    return function


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError as exc:
        raise UsageError(
            f"the working directory cannot be used: {(exc.strerror or '').lower()}",
            hint="it may have been removed, or made anew: `cd` there again",
        ) from exc
