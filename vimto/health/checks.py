"""The checks, one after the other, each within its limit."""

import contextlib
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from vimto import console
from vimto.config import Config
from vimto.errors import VimtoError
from vimto.health import cache, host, kernel, machine, tools
from vimto.health.finding import Finding, Verdict
from vimto.vm.signals import Interrupted

# Seconds between two alarms, where the first one was lost in somebody's hands.
_AGAIN = 10.0


class Check(NamedTuple):
    """A function from the configuration to its findings, and the seconds that it may take.

    Where it fails, no run can succeed, unless it is `spare`.
    """

    what: str
    find: Callable[[Config], Iterable[Finding]]
    limit: float = 120.0
    spare: bool = False

    def failed(self, detail: str, hint: str = "", lines: tuple[str, ...] = ()) -> Finding:
        """Return that it could not be made."""
        verdict = Verdict.WEAK if self.spare else Verdict.MISSING
        return Finding(verdict=verdict, what=self.what, detail=detail, hint=hint, lines=lines)


# go may fetch a toolchain, and a kernel is a download of 100 MB.
_GO, _DOWNLOAD, _TRIAL = 600.0, 3600.0, 1200.0
CHECKS: tuple[Check, ...] = (
    Check("vimto", host.check_vimto, spare=True),
    Check("host", host.check_host, spare=True),
    Check("config", host.check_files, spare=True),
    Check("setpriv", tools.check_setpriv),
    Check("qemu", machine.check_qemu),
    Check("accelerator", machine.check_accelerator),
    Check("snapshots", machine.check_fitness, spare=True),
    Check("memory", machine.check_memory),
    Check("cache", cache.check_cache),
    Check("go", tools.check_go, _GO),
    Check("agent", tools.check_agent, _GO),
    Check("dlv", tools.check_dlv, _GO, spare=True),
    Check("gdb", tools.check_debugger, spare=True),
    Check("kernel", kernel.check_kernel, _DOWNLOAD),
    Check("trial", machine.check_trial, _TRIAL),
)


def examine(config: Config, checks: Iterable[Check] = CHECKS) -> Iterator[Finding]:
    """Make all checks, one after the other, and yield what each has found once it has ended.

    Nothing but a signal to us ends them: what a check raises, or that it takes too long, is a
    finding. One that fails for what has been found missing already is skipped.
    """
    said: set[str] = set()
    for check in checks:
        found: list[Finding] = []
        try:
            with _limited(check.limit):
                found.extend(check.find(config))
        except Interrupted:
            raise
        except VimtoError as exc:
            found.append(_explain(check, exc, known=exc.message in said))
            said.add(exc.message)
        except _Overtime:
            found.append(check.failed(f"no answer within {check.limit:g} s"))
        except Exception as exc:
            if console.verbosity() >= 2:
                console.fault()
            detail = f"cannot be told: {type(exc).__name__}: {exc}"
            found.append(check.failed(detail, "`-v -v` shows where it happened"))
        yield from found


def _explain(check: Check, exc: VimtoError, *, known: bool) -> Finding:
    if known:
        detail = "not tried, for something that it needs is missing (see above)"
        return Finding(verdict=Verdict.SKIPPED, what=check.what, detail=detail)
    message = exc.message.partition("\n")[0]  # what follows is about a test
    return check.failed(message, exc.hint, exc.lines)


class _Overtime(BaseException):
    """A check has taken too long; whoever catches failures of its own does not catch this."""


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise `_Overtime` inside it, whatever it is doing, once so many seconds have passed."""

    def ring(_number: int, _frame: object) -> None:
        raise _Overtime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
