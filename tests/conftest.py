"""What all tests share: tools that may be missing, and the vimto that is installed."""

import os
import shutil

import pytest


def need(*commands: str) -> None:
    """Skip the test where a command is missing; in CI, where `hack/test` installs all, fail."""
    missing = [command for command in commands if shutil.which(command) is None]
    if missing:
        message = f"not installed: {', '.join(missing)}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
