"""`vimto shell`: the user's shell in a machine, in this directory."""

import os
import pwd

from vimto.commands.exec import run_command
from vimto.config import Config

_FALLBACK = "/bin/sh"
# The shell's own start-up may take seconds over 9p, and says nothing meanwhile.
_GREETING = "the machine ends with this shell"


def run_shell(config: Config, argv: list[str]) -> int:
    """Run the user's shell with the arguments `argv` and return its status."""
    words = [find_shell(os.environ.get("SHELL", "")), *argv]
    return run_command(config, words, greeting=_GREETING)


def find_shell(preferred: str) -> str:
    """Return `preferred` if it can be run, else the shell that passwd(5) has for our user."""
    candidates = [preferred]
    try:
        candidates.append(pwd.getpwuid(os.getuid()).pw_shell)
    except KeyError:
        pass
    for path in candidates:
        if os.path.isabs(path) and os.access(path, os.X_OK):
            return path
    return _FALLBACK
