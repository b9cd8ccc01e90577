"""Asking go about its environment, and what follows from the answers."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields

from vimto.config import find_repository
from vimto.errors import CommandError, UsageError
from vimto.places import TEMPORARY
from vimto.process import proc

# Programs that the other one's kernel runs too (CONFIG_IA32_EMULATION, on in distributions).
_ALSO_RUNS = {"amd64": ("386",)}


@dataclass(frozen=True, kw_only=True)
class GoEnv:
    """What `go env` says, for one directory. Paths are absolute; "" where go names none.

    `gomod` and `gowork` are files, `os.devnull` being no module; `gowork` may be `off`.
    """

    gohostarch: str
    gohostos: str
    goarch: str
    goos: str
    gocache: str
    goflags: str
    gomod: str
    gomodcache: str
    goroot: str
    gotmpdir: str
    goversion: str
    gowork: str

    @property
    def module_root(self) -> str:
        """The directory of the main module's go.mod, "" outside of a module."""
        return os.path.dirname(self.gomod) if self.gomod not in ("", os.devnull) else ""

    @property
    def workspace(self) -> str:
        """The go.work in use, "" for none."""
        return "" if self.gowork == "off" else self.gowork


def go_env(go: str, cwd: str, env: Mapping[str, str]) -> GoEnv:
    """Ask the go command `go` in `cwd`.

    The names are listed because for all of them go starts the C compiler (12 ms against 5).
    Raises `CommandError` when go is missing or fails, with what it said.
    """
    names = [field.name.upper() for field in fields(GoEnv)]
    try:
        answer = proc.run([go, "env", "-json", *names], cwd=cwd, env=env, limit=None)
    except CommandError as exc:
        hint = "" if exc.lines else "install Go, or put its `bin` directory on PATH"
        raise CommandError(exc.message, lines=exc.lines, hint=hint) from exc
    values = json.loads(answer.stdout)
    return GoEnv(**{name.lower(): values.get(name, "") for name in names})


def check_target(env: GoEnv) -> None:
    """Raise `UsageError` unless what go builds can run on a kernel of this machine's kind."""
    if env.goos != "linux":
        raise UsageError(
            f"GOOS is `{env.goos}`, and vimto's machines run Linux",
            hint="unset GOOS, or look at `go env -changed`",
        )
    if env.goarch != env.gohostarch and env.goarch not in _ALSO_RUNS.get(env.gohostarch, ()):
        raise UsageError(
            f"GOARCH is `{env.goarch}`, and vimto's machines are `{env.gohostarch}`, as the host",
            hint="unset GOARCH, or look at `go env -changed`",
        )


def writable_roots(go: str, cwd: str, env: GoEnv, environ: Mapping[str, str]) -> list[str]:
    """Return the directories, absolute, that tests in `cwd` may write to as on the host.

    They are the root of the repository (without one, of the module), and of a workspace its own
    directory and each of its modules; what lies in another of them is left out, and so is `/`.
    Raises `CommandError` when go cannot read its go.work.
    """
    roots = [find_repository(cwd) or env.module_root]
    if env.module_root:
        roots.append(env.module_root)
    if env.workspace:
        base = os.path.dirname(env.workspace)
        roots += [
            base,
            *(os.path.join(base, path) for path in _used_modules(go, cwd, env, environ)),
        ]
    found: list[str] = []
    # Real paths: go believes $PWD, which may lead through a link, and then names things twice.
    for root in sorted({os.path.realpath(root) for root in roots if root} - {*TEMPORARY}):
        inside = any(root.startswith(f"{other}{os.sep}") for other in found)
        if not inside and root != os.sep and os.path.isdir(root):
            found.append(root)
    return found


def _used_modules(go: str, cwd: str, env: GoEnv, environ: Mapping[str, str]) -> list[str]:
    answer = proc.run([go, "work", "edit", "-json", env.workspace], cwd=cwd, env=environ)
    uses = json.loads(answer.stdout).get("Use") or []
    return [use["DiskPath"] for use in uses]
