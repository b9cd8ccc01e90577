"""What is refused before anything is prepared."""

from pathlib import Path

import pytest

from vimto.errors import ConfigError
from vimto.plan.prepare import _check_proc


def test_proc_must_show_us(tmp_path: Path) -> None:
    """Of a namespace that is not above ours, `self` leads nowhere."""
    for target in ("", "none"):
        if target:
            (tmp_path / "self").symlink_to(target)
        with pytest.raises(ConfigError, match="does not show this process") as caught:
            _check_proc(str(tmp_path))
        assert "mount -t proc" in caught.value.hint
    _check_proc()
