"""Whose cache is used, and where it may lie: told by commands that start no machine."""

import os
from pathlib import Path

import pytest

from tests.vm.conftest import Vimto

_OTHER = 54321


def test_a_cache_in_the_repository_is_refused(vimto: Vimto) -> None:
    (vimto.directory / ".git").mkdir()
    cache = vimto.directory / ".cache/vimto"
    vimto.variables = {"VIMTO_CACHE_DIR": str(cache)}
    for words in (["exec", "true"], ["go", "test", "./..."]):
        (vimto.directory / "go.mod").write_text("module m\n\ngo 1.21\n")
        outcome = vimto(*words).check(125)
        assert outcome.stdout == b""
        assert "error: the cache `" in outcome.errors
        assert "where the machine may write" in outcome.errors
        assert "hint: a guest could alter what later runs trust" in outcome.errors
    assert not cache.parent.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_another_user_s_cache_is_not_used(vimto: Vimto, tmp_path: Path) -> None:
    """Nor one in which a single directory is theirs; and each user has their own."""
    theirs, own = tmp_path / "theirs", tmp_path / "xdg/vimto"
    (theirs / "snapshots").mkdir(parents=True)
    vimto.variables = {"VIMTO_CACHE_DIR": str(theirs), "XDG_CACHE_HOME": str(own.parent)}
    assert vimto("kernel", "ls").check().stderr == b""
    for foreign in (theirs / "snapshots", theirs):
        os.chown(foreign, _OTHER, _OTHER)
        outcome = vimto("kernel", "ls").check()
        assert outcome.text.splitlines()[-1].endswith(f" in {own}")
        (line,) = outcome.errors.splitlines()
        assert line.startswith(f"warning: the cache `{theirs}` is not used: `{foreign}` belongs to")
        assert line.endswith(f"`{own}` is used instead")
    theirs.chmod(0o777)
    os.chown(theirs, 0, 0)
    assert "others can write to" in vimto("kernel", "ls").check().errors
