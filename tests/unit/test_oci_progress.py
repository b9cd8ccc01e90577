"""What a pull says about itself."""

import pytest

from vimto.oci import progress
from vimto.oci.progress import PullProgress, show_bytes, show_time


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KiB"), (5 << 20, "5.0 MiB"), (3 << 30, "3.0 GiB")],
)
def test_bytes(count: int, text: str) -> None:
    assert show_bytes(count) == text


def test_time() -> None:
    assert [show_time(seconds) for seconds in (0.2, 59.6, 3601)] == ["0:00", "1:00", "60:01"]


def test_description() -> None:
    pull = PullProgress("x", 100 << 20)
    pull.add(20 << 20)
    assert pull.describe(0.1) == "20.0 MiB of 100.0 MiB"
    assert pull.describe(10) == "20.0 MiB of 100.0 MiB, 2.0 MiB/s, 0:40 left"
    pull.add(-(10 << 20))
    assert pull.describe(10) == "10.0 MiB of 100.0 MiB, 1.0 MiB/s, 1:30 left"


def test_lines(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with PullProgress("reg/x:1", 10 << 20) as pull:
        for _ in range(10):
            now[0] += 1
            pull.add(1 << 20)
        pull.unpacking()
    assert capfd.readouterr().err == (
        "vimto: pulling reg/x:1, 10.0 MiB\n"
        "vimto: pulling reg/x:1: 5.0 MiB of 10.0 MiB, 1.0 MiB/s, 0:05 left\n"
        "vimto: pulling reg/x:1: 10.0 MiB of 10.0 MiB, 1.0 MiB/s, 0:00 left\n"
    )
