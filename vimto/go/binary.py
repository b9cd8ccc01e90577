"""Test binaries: which packages have tests, and building one as `go test` would."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vimto.errors import UsageError
from vimto.go.args import GoCommand
from vimto.process import proc

# Flags about what go does with the binary; the others shape it.
_NOT_FOR_BUILDING = frozenset(("C", "c", "json", "n", "o", "vet", "exec"))
_LIST_FLAGS = frozenset(("tags", "mod", "modfile", "overlay", "race", "msan", "asan"))

# What go gives a test binary when nothing else is asked for.
_DEFAULTS = (("paniconexit0", "true"), ("timeout", "10m0s"))


@dataclass(frozen=True, kw_only=True)
class TestPackage:
    """A package with tests: its import path, and its directory, in which the tests run."""

    path: str
    directory: str

    @property
    def binary_name(self) -> str:
        """The name go gives the test binary."""
        return f"{self.path.rsplit('/', 1)[-1]}.test"


def list_test_packages(
    go: str, command: GoCommand, cwd: str, env: Mapping[str, str]
) -> list[TestPackage]:
    """Return the packages of `go test …` that have tests, in go's order.

    Raises `CommandError` with go's own words, and `UsageError` when none has tests.
    """
    form = "{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}\t{{.Dir}}{{end}}"
    flags = [f"-{flag.name}={flag.value}" for flag in command.flags if flag.name in _LIST_FLAGS]
    patterns = list(command.packages) or ["."]
    answer = proc.run([go, "list", *flags, "-f", form, *patterns], cwd=cwd, env=env, limit=None)
    # Not `splitlines`, which ends a line at U+2028 too: a directory's name may hold that.
    found = [line.partition("\t") for line in answer.text.split("\n") if line]
    if not found:
        raise UsageError(f"no test files in {' '.join(patterns)}")
    return [TestPackage(path=path, directory=directory) for path, _, directory in found]


def build_test(
    go: str,
    command: GoCommand,
    package: TestPackage,
    into: Path,
    cwd: str,
    more: Sequence[str] = (),
) -> tuple[Path, int]:
    """Build the test binary of `package` below `into`, with flags `more`; return it and the status.

    go writes to our stderr itself. Must be called from the main thread.
    """
    target = into / package.binary_name
    flags = [
        f"-{flag.name}={flag.value}"
        for flag in command.build_flags
        if flag.name not in _NOT_FOR_BUILDING
    ]
    words = [go, "test", "-c", *more, *flags, "-o", str(target), package.path]
    status = proc.foreground(words, cwd=cwd)
    return target, status


def test_words(command: GoCommand, binary: Path) -> list[str]:
    """Return the command line of the test binary, as go would start it."""
    given = [(flag.name, flag.value) for flag in command.test_flags]
    names = {name for name, _ in given}
    defaults = [pair for pair in _DEFAULTS if pair[0] not in names]
    return [
        os.fspath(binary),
        *(f"-test.{name}={value}" for name, value in (*defaults, *given)),
        *command.rest,
    ]
