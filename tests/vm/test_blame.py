"""A snapshot is lost for a fault of its own alone, and who boots instead is told."""

import os
import shlex
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from tests.vm.conftest import Vimto
from tests.vm.test_snapshot import snapshots_of

# Seconds that a restored machine may be silent here, in the place of 20.
_SILENCE = 2.0


@pytest.fixture
def fault(vimto: Vimto, cache: Path, tmp_path: Path) -> Path:
    """A file whose shell script the next QEMU runs before it starts, once; there is a snapshot."""
    real = shutil.which("qemu-system-x86_64")
    assert real
    place, wrapper = tmp_path / "fault", tmp_path / "qemu-system-wrapped"
    wrapper.write_text(
        f"#!/bin/sh\nif [ -e {place} ]; then mv {place} {place}.now; . {place}.now; fi\n"
        f'exec {shlex.quote(real)} "$@"\n'
    )
    wrapper.chmod(0o755)
    code = (
        f"import vimto.vm.run; vimto.vm.run._ACCEPT_LIMIT = {_SILENCE}\n"
        "import vimto.__main__; vimto.__main__.main()"
    )
    words = ("-c", code, *vimto.flags, "-qemu", str(wrapper))
    vimto.program, vimto.flags = sys.executable, words
    assert vimto("exec", "echo", "made").check().stdout == b"made\n"
    return place


def is_restored(vimto: Vimto) -> bool:
    vimto.flags = (*vimto.flags, "-v")
    errors = vimto("exec", "true").check().errors
    vimto.flags = vimto.flags[:-1]
    return "restored from a snapshot" in errors


def test_what_happens_to_qemu_does_not_cost_the_snapshot(
    vimto: Vimto, cache: Path, fault: Path
) -> None:
    (kept,) = snapshots_of(cache)
    identity = kept.stat().st_ino
    with socket.create_server(("127.0.0.1", 0)) as busy:
        listen = f"-gdb tcp:127.0.0.1:{busy.getsockname()[1]}"
        for script, said in (
            ("kill -KILL $$", ""),  # it is restored at the second try
            ("kill -SEGV $$", ""),
            ("ulimit -n 12", "Too many open files"),
            (f'set -- "$@" {listen}', "Address already in use"),
        ):
            fault.write_text(script + "\n")
            outcome = vimto("exec", "echo", "right").check()
            assert outcome.stdout == b"right\n"
            if said:
                assert outcome.errors.startswith("warning: the machine was not restored, booting: ")
                assert said in outcome.errors
                assert outcome.errors.endswith("; the snapshot is kept\n")
                assert outcome.errors.count("\n") == 1
            else:
                assert outcome.errors == ""
            assert not fault.exists()
    assert [path.stat().st_ino for path in snapshots_of(cache)] == [identity]
    assert is_restored(vimto)


def test_a_host_that_stalls_does_not_cost_the_snapshot(
    vimto: Vimto, cache: Path, fault: Path, tmp_path: Path
) -> None:
    """QEMU is stopped for longer than a machine may be silent."""
    pid = tmp_path / "pid"
    fault.write_text(f"echo $$ >{pid}; kill -STOP $$\n")
    with vimto.start("exec", "echo", "right") as process:
        while not (pid.exists() and pid.read_text()):
            time.sleep(0.05)
        time.sleep(2.5 * _SILENCE)
        os.kill(int(pid.read_text()), signal.SIGCONT)
        stdout, stderr = process.communicate()
    assert (process.returncode, stdout, stderr) == (0, b"right\n", b"")
    assert is_restored(vimto)


def test_two_machines_that_stay_silent_cost_the_snapshot(
    vimto: Vimto, cache: Path, fault: Path
) -> None:
    silent = "exec sleep 1000\n"
    for words in ("the snapshot is kept, and dropped if", "the snapshot is dropped"):
        fault.write_text(silent)
        outcome = vimto("exec", "echo", "right").check()
        assert outcome.stdout == b"right\n"
        assert f"the guest did not answer within {_SILENCE:g} s; {words}" in outcome.errors
        assert outcome.errors.count("\n") == 1
    assert snapshots_of(cache) == []
    # For a while machines boot, and say so.
    told = vimto("exec", "true").check().errors
    assert told.startswith("vimto: snapshots of this machine are off until ")
    assert "the guest did not answer" in told and "`vimto kernel prune`" in told
    assert told.count("\n") == 1
    assert snapshots_of(cache) == []
    vimto("kernel", "prune").check()
    assert vimto("exec", "true").check().errors == ""
    assert len(snapshots_of(cache)) == 1


def test_two_crashes_in_a_row_cost_the_snapshot(
    vimto: Vimto, cache: Path, fault: Path, tmp_path: Path
) -> None:
    """The second try comes in the same run."""
    (tmp_path / "second").write_text("kill -SEGV $$\n")
    fault.write_text(f"mv {tmp_path}/second {fault}; kill -SEGV $$\n")
    outcome = vimto("exec", "echo", "right").check()
    assert outcome.stdout == b"right\n"
    assert "QEMU was ended by SIGSEGV; the snapshot is dropped\n" in outcome.errors
    assert outcome.errors.count("\n") == 1
    assert snapshots_of(cache) == []
