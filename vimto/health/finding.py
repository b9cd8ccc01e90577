"""What a check has found, and what that means for a run."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class Verdict(enum.Enum):
    """What a finding means for a run; the value is shown."""

    GOOD = "ok"
    WEAK = "weak"
    MISSING = "missing"
    SKIPPED = "skipped"

    @property
    def stops_a_run(self) -> bool:
        """Whether no run can succeed."""
        return self is Verdict.MISSING


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One statement about `what`, and what to do about it.

    `lines` are the last ones of a log, `data` what of the statement is for programs: values as JSON
    has them.
    """

    verdict: Verdict
    what: str
    detail: str
    hint: str = ""
    lines: tuple[str, ...] = ()
    data: Mapping[str, object] = field(default_factory=dict)


def good(what: str, detail: str, **data: object) -> Finding:
    """Return that all is well with `what`."""
    return Finding(verdict=Verdict.GOOD, what=what, detail=detail, data=data)


def weak(what: str, detail: str, hint: str = "", **data: object) -> Finding:
    """Return that runs succeed, but slower, or not those that need `what`."""
    return Finding(verdict=Verdict.WEAK, what=what, detail=detail, hint=hint, data=data)


def missing(what: str, detail: str, hint: str = "", **data: object) -> Finding:
    """Return that no run can succeed."""
    return Finding(verdict=Verdict.MISSING, what=what, detail=detail, hint=hint, data=data)
