"""Where dlv keeps its history: in the home directory of its user, if that is ours to change."""

import os
import pwd
from pathlib import Path

import pytest

from vimto.commands import dlv
from vimto.config import load_config


@pytest.mark.parametrize(("another", "there"), [(False, False), (True, False), (True, True)])
def test_nothing_is_made_in_the_home_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, another: bool, there: bool
) -> None:
    home = tmp_path / "home"
    place = home / ".config/dlv"
    if there:
        place.mkdir(parents=True)
    uid = os.geteuid() + another
    entry = pwd.struct_passwd(("x", "", uid, uid, "", str(home), ""))
    monkeypatch.setattr(dlv, "find_user", lambda _name: entry)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    found = dlv._config_directory(load_config({"user": "x"}, {}, tmp_path))
    assert found == ("" if another and not there else str(place))
    assert home.exists() == (not another or there)
