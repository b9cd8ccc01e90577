"""What all tests share: tools that may be missing, and the vimto that is installed."""

import os
import shutil
import signal

import pytest

# A shell starts its background jobs with two of these ignored, nohup(1) the third, and what is
# ignored stays so in every child: without this, tests of signals would depend on how they started.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def need(*commands: str) -> None:
    """Skip the test where a command is missing; in CI, where `hack/test` installs all, fail."""
    missing = [command for command in commands if shutil.which(command) is None]
    if missing:
        message = f"not installed: {', '.join(missing)}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)


def without_own_config(environ: dict[str, str], home: str) -> dict[str, str]:
    """Return `environ` with `home` for configuration, but go's own file where it is.

    What a developer has told vimto for every repository is not what tests are about.
    """
    base = environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return {"GOENV": f"{base}/go/env", **environ, "XDG_CONFIG_HOME": home}
