"""Signals that come while no machine runs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# A stand-in for a download: something to clean up, and a helper that must not outlive us.
PROGRAM = """
import sys, vimto.cli, vimto.proc
from vimto.vm.signals import end_by_exception

def dispatch(argv, launch):
    try:
        vimto.proc.run(["sh", "-c", "echo $$ >&3; exec sleep 1000 3>&-"])
    finally:
        print("cleaned")
    return 0

vimto.cli._dispatch = dispatch
vimto.proc.mortal = lambda argv, plain=vimto.proc.mortal: plain(
    ["sh", "-c", 'exec "$@" 3>"$0"', sys.argv[1], *argv])
vimto.cli.main()
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_outside_of_a_machine_ends_cleanly(name: str, tmp_path: Path) -> None:

    pid_file = tmp_path / "pid"
    os.mkfifo(pid_file)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(pid_file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    child = int(pid_file.read_text())
    process.send_signal(signal.Signals[name])
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (128 + signal.Signals[name], b"cleaned\n"), stderr
    assert f"interrupted by {name}" in stderr.decode()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < deadline, "the helper outlives us"
        time.sleep(0.01)
