"""What is refused before anything is prepared."""

import os
from pathlib import Path

import pytest

from vimto.errors import ConfigError
from vimto.plan.prepare import _check_proc


@pytest.mark.parametrize(
    ("seen", "reason"),
    [(str(os.getpid()), ""), ("1234567", "that of another process namespace"), ("", "there is no")],
)
def test_proc_must_be_ours(tmp_path: Path, seen: str, reason: str) -> None:
    if seen:
        (tmp_path / "self").symlink_to(seen)
    if not reason:
        _check_proc(str(tmp_path))
        return
    with pytest.raises(ConfigError, match=reason) as caught:
        _check_proc(str(tmp_path))
    assert "mount -t proc" in caught.value.hint
