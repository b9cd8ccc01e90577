"""The programs that a run, or a debugger's command, starts on this host."""

import os
import re
import shutil
from collections.abc import Iterable

from vimto.config import Config
from vimto.errors import CommandError, VimtoError
from vimto.gdb.program import check_gdb
from vimto.go.delve import is_too_old, parse_version
from vimto.go.tool import check_target, go_env
from vimto.health.finding import Finding, good, missing, weak
from vimto.plan.agent import build_agent
from vimto.plan.agent import check_go as check_go_version
from vimto.process import proc
from vimto.process.spawn import SETPRIV

_DLV_NEEDED_BY = "only `vimto dlv` needs it"
_GET_DLV = "go install github.com/go-delve/delve/cmd/dlv@latest"
# Seconds for a program that only tells its version.
_LIMIT = 20.0


def check_setpriv(config: Config) -> Iterable[Finding]:
    """Look for the program that ties the lives of all others to ours."""
    if os.access(SETPRIV, os.X_OK):
        yield good("setpriv", SETPRIV, path=SETPRIV)
    else:
        yield missing(
            "setpriv",
            f"there is no {SETPRIV}, through which vimto starts every process",
            "on Debian and Ubuntu: sudo apt-get install util-linux",
        )


def check_go(config: Config) -> Iterable[Finding]:
    """Ask go for its version and its target."""
    env = go_env("go", os.getcwd(), os.environ)
    check_go_version(env.goversion)
    version, path = env.goversion.removeprefix("go"), shutil.which("go")
    yield good("go", f"{version}, {path}", version=version, path=path)
    check_target(env)


def check_agent(config: Config) -> Iterable[Finding]:
    """Build the guest program, unless it is there."""
    agent = build_agent(cache=config.cache_dir)
    yield good("agent", str(agent.path), path=str(agent.path), digest=agent.digest)


def check_dlv(config: Config) -> Iterable[Finding]:
    """Look for Delve, and whether it knows what this go builds."""
    path = shutil.which("dlv")
    if path is None:
        yield weak("dlv", f"not on PATH; {_DLV_NEEDED_BY}", _GET_DLV)
        return
    try:
        version = parse_version(proc.run([path, "version"], limit=_LIMIT).text)
    except CommandError as exc:
        detail = "; ".join((exc.message, *exc.lines[-1:]))
        yield weak("dlv", f"{detail}; {_DLV_NEEDED_BY}", _GET_DLV, path=path)
        return
    if not version:
        yield weak("dlv", f"`{path}` does not tell its version", _GET_DLV, path=path)
        return
    try:
        go = go_env("go", os.getcwd(), os.environ).goversion
    except CommandError:
        go = ""  # which is told where go is looked for
    if is_too_old(version, go):
        detail = f"{version} is too old for what {go.replace('go', 'Go ', 1)} builds, {path}"
        yield weak("dlv", detail, _GET_DLV, path=path, version=version)
    else:
        yield good("dlv", f"{version}, {path}", path=path, version=version)


def check_debugger(config: Config) -> Iterable[Finding]:
    """Look for a gdb that has Python."""
    try:
        check_gdb()
    except VimtoError as exc:
        yield weak("gdb", f"{exc.message}; only `vimto gdb-kernel` needs it", exc.hint)
        return
    path = shutil.which("gdb") or ""
    first = proc.run([path, "--version"], check=False, limit=_LIMIT).text.partition("\n")[0]
    found = re.search(r"\d+(\.\d+)+", first.rpartition(")")[2] or first)
    version = found[0] if found else "of unknown version"
    yield good("gdb", f"{version}, {path}", path=path, version=version)
