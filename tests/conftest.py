"""What all tests share: tools that may be missing, and the vimto that is installed."""

import os
import shutil
import signal
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vimto.config import load_config

if TYPE_CHECKING:
    import pluggy

# A shell starts its background jobs with two of these ignored, nohup(1) the third, and what is
# ignored stays so in every child: without this, tests of signals would depend on how they started.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Generator[None, "pluggy.Result[pytest.TestReport]", None]:
    """Make a skip a failure in CI, where `hack/test` has installed what the tests need."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which in CI is a failure: {report.longrepr[-1]}"  # type: ignore[index]


def need(*commands: str) -> None:
    """Skip the test where a command is missing."""
    missing = [command for command in commands if shutil.which(command) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def is_running(pid: int) -> bool:
    """Say whether a process has not ended; one that nobody has reaped, as in a container, has."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(")")[2].split()[0] not in ("Z", "X")


def without_own_config(environ: dict[str, str], home: str) -> dict[str, str]:
    """Return `environ` with `home` for configuration, but go's own file where it is.

    What a developer has told vimto for every repository is not what tests are about.
    """
    base = environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return {"GOENV": f"{base}/go/env", **environ, "XDG_CONFIG_HOME": home}


def builtin_kernel() -> Path:
    """Return the directory of a kernel without modules, which `hack/kernels` makes."""
    cache = load_config({}, os.environ, os.sep).cache_dir
    for image in (cache / "builtin").glob("[!.]*/boot/vmlinuz"):
        return image.parents[1]
    pytest.skip("`hack/kernels builtin` has not been run")
