"""The command line: flags, then a command; the only place where vimto's errors end."""

import os
import signal
import sys
from collections.abc import Callable

from vimto import __version__, console
from vimto.cache.place import choose_cache
from vimto.commands import catalog
from vimto.config import Config, load_config
from vimto.errors import VIMTO_FAILED, UsageError, VimtoError, scarcity
from vimto.go.args import is_go_word
from vimto.settings import parse_flags
from vimto.vm.launch import Launch
from vimto.vm.signals import end_by_exception


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
    except Exception as exc:
        if scarce := scarcity(exc):
            console.error(scarce)
        else:
            # A fault of ours. Python's own end would be the status 1, as of a test that failed.
            console.fault()
        return VIMTO_FAILED


def _dispatch(argv: list[str], launch: Launch | None) -> int:
    flags, words = parse_flags(argv)
    console.set_verbosity(flags.get("verbose", 0))
    if launch and words[:1] != ["exec"]:
        launch.close()
    asked = _asked_for_help(words)
    if asked is not None or not words:
        console.show(catalog.help_text(asked or []))
        return 0 if words else VIMTO_FAILED
    if words[0] in ("version", "-version", "--version"):
        if words[1:]:
            raise UsageError(f"unexpected argument `{words[1]}`", hint=catalog.usage("version"))
        console.show(f"vimto {__version__}\n")
        return 0
    row, command = _find_command(words, launch)
    if row and row.flags_follow:
        flags, rest = parse_flags(words[1:], flags, catalog.own_flags(row))
        words = [words[0], *rest]
        if (asked := _asked_for_help(words)) is not None:
            console.show(catalog.help_text(asked))
            return 0
    config = load_config(flags, os.environ, _working_directory())
    console.set_verbosity(config.verbose)
    if words[0] != "config":
        config = config._replace(cache_dir=choose_cache(config.cache_dir))
    return command(config, words if row is None or row.named else words[1:])


def _asked_for_help(words: list[str]) -> list[str] | None:
    """Return the command whose help is asked for, an empty one for vimto's own, or None."""
    if words[:1] == ["help"] or (words[:1] and words[0] in catalog.HELP_FLAGS):
        return words[1:]
    row = catalog.find_command(words)
    count = row.name.count(" ") + 1 if row else 0
    group = row is not None and bool(catalog.children(row.name)) and row.name != "go"
    following = words[count : count + 1]
    if row and following and following[0] in catalog.HELP_FLAGS:
        return words[:count]
    if group and (not following or following == ["help"]):  # `vimto kernel help pull`
        return [*words[:count], *words[count + 1 :]]
    return None


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError as exc:
        raise UsageError(
            f"the working directory cannot be used: {(exc.strerror or '').lower()}",
            hint="it may have been removed, or made anew: `cd` there again",
        ) from exc


Run = Callable[[Config, list[str]], int]


def _find_command(words: list[str], launch: Launch | None) -> tuple[catalog.Command | None, Run]:
    """Return the command that `words` start with, imported only now: `exec` must be quick."""
    word = words[0]
    row = catalog.find_command(["go" if is_go_word(word) else word])
    if row and row.run:
        import importlib

        module, _, name = row.run.partition(":")
        function = getattr(importlib.import_module(module), name)
        if row.name == "exec":
            return row, lambda config, words: function(config, words, launch)
        return row, function
    if os.sep in word:  # go's `-exec vimto`
        from vimto.commands.exec import run_for_go

        return None, run_for_go
    raise catalog.unknown_command([word])
