"""What unit tests must not see of whoever runs them."""

import os
from pathlib import Path

import pytest

from tests.conftest import without_own_config


@pytest.fixture(autouse=True)
def config_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty `$XDG_CONFIG_HOME`: the developer's own file is not ours."""
    home = tmp_path_factory.mktemp("config")
    for name, value in without_own_config(dict(os.environ), str(home)).items():
        monkeypatch.setenv(name, value)
    return home
