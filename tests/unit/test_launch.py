"""A QEMU that is started before it is known what for; a script plays it."""

import os
import time
from pathlib import Path

import pytest

from vimto.errors import CommandError
from vimto.process import spawn
from vimto.qemu.readconfig import EARLY
from vimto.vm.launch import Launch

MACHINE = [*EARLY, "-m", "64M"]


@pytest.fixture
def qemu(tmp_path: Path) -> str:
    """Writes its words, and what it reads then, into files beside it."""
    script = tmp_path / "qemu"
    script.write_text(
        '#!/bin/sh\necho $$ "$@" >"$0.words"\nfor last; do :; done\ncat "$last" >"$0.config"\n'
    )
    script.chmod(0o755)
    return str(script)


def descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


def test_it_waits_and_then_proceeds(qemu: str) -> None:
    before = descriptors()
    launch = Launch(qemu)
    number, _, words = read(qemu + ".words").partition(" ")
    assert words.startswith(" ".join(EARLY) + " -readconfig /dev/fd/")
    assert read(qemu + ".config", wait=False) == ""
    pid = launch.proceed([qemu, *MACHINE])
    assert pid == int(number)
    assert os.waitpid(pid, 0) == (pid, 0)
    assert read(qemu + ".config") == '[memory]\n  size = "64M"\n'
    launch.close()  # no longer its own
    launch.wiring.close_ours()
    assert descriptors() == before


def read(path: str, *, wait: bool = True) -> str:
    for _ in range(500 if wait else 1):
        if os.path.exists(path) and (text := Path(path).read_text()):
            return text
        time.sleep(0.01)
    return ""


def test_one_that_is_not_needed_ends(qemu: str) -> None:
    before = descriptors()
    with Launch(qemu) as launch:
        pid = int(read(qemu + ".words").split()[0])
        for argv in (["/other", *MACHINE], [qemu, "-S", *MACHINE]):
            with pytest.raises(ValueError, match=r"was not started|not in every machine"):
                launch.proceed(argv)
    assert descriptors() == before
    assert not os.path.exists(f"/proc/{pid}")
    launch.close()
    with pytest.raises(ValueError, match="was not started"):
        launch.proceed([qemu, *MACHINE])


def test_one_that_has_ended_is_for_its_port_to_tell() -> None:
    launch = Launch("/nonexistent/qemu")
    assert os.read(launch.wiring.port, 1) == b""
    pid = launch.proceed(["/nonexistent/qemu", *MACHINE])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0
    launch.wiring.close_ours()


def test_nothing_is_left_where_no_process_can_be(
    qemu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = descriptors()
    monkeypatch.setattr(spawn, "SETPRIV", "/nonexistent")
    with pytest.raises(CommandError):
        Launch(qemu)
    assert descriptors() == before
