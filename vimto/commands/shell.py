"""`vimto shell`: the user's shell in a machine, in this directory."""

import os
import pwd

from vimto.commands.exec import run_command
from vimto.config import Config

_FALLBACK = "/bin/sh"


def run_shell(config: Config, argv: list[str]) -> int:
    """Run the user's shell with the arguments `argv` and return its status."""
    return run_command(config, [find_shell(os.environ.get("SHELL", "")), *argv])


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
