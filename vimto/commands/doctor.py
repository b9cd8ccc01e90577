"""`vimto doctor`: whether runs will succeed here, as lines for people or as JSON for programs."""

import json
from collections.abc import Iterable, Sequence

from vimto import __version__, console
from vimto.commands.catalog import usage
from vimto.config import Config
from vimto.errors import UsageError
from vimto.health.checks import examine
from vimto.health.finding import Finding, Verdict
from vimto.quoting import visible

# Raise it when what is there already changes its name or meaning.
_SCHEMA = 1
_WORST_FIRST = (Verdict.MISSING, Verdict.WEAK)
_INDENT = " " * 21


def run(config: Config, argv: list[str]) -> int:
    """Print all findings to stdout; return 0 if a run can succeed, else 1."""
    flags = [word.replace("--", "-", 1) for word in argv]
    for flag, word in zip(flags, argv, strict=True):
        if flag != "-json":
            raise UsageError(f"unexpected argument `{word}`", hint=usage("doctor"))
    found = []
    for finding in examine(config):
        found.append(finding)
        if not flags:
            console.show(show(finding))  # at once: the next one may have to fetch a kernel
    if flags:
        console.show(show_json(found))
    return int(any(finding.verdict.stops_a_run for finding in found))


def show(finding: Finding) -> str:
    """Return a finding as a line, with those of its log and its hint below it."""
    line = f"{finding.verdict.value:<8} {finding.what:<12} {visible(finding.detail, keep='')}\n"
    more = [f"| {visible(text, keep='')}" for text in finding.lines]
    more += [f"hint: {visible(finding.hint, keep='')}"] if finding.hint else []
    return line + "".join(f"{_INDENT} {text}\n" for text in more)


def show_json(found: Sequence[Finding]) -> str:
    """Return all findings as a document; docs/doctor.md describes it."""
    document = {
        "schema": _SCHEMA,
        "vimto": __version__,
        "verdict": summary(found).value,
        "findings": [
            {
                "verdict": finding.verdict.value,
                "what": finding.what,
                "detail": finding.detail,
                "hint": finding.hint,
                "lines": list(finding.lines),
                "data": dict(finding.data),
            }
            for finding in found
        ],
    }
    return json.dumps(document, indent=2) + "\n"


def summary(found: Iterable[Finding]) -> Verdict:
    """Return the worst verdict."""
    verdicts = {finding.verdict for finding in found}
    return next((verdict for verdict in _WORST_FIRST if verdict in verdicts), Verdict.GOOD)
