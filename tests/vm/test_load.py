"""Many machines on a host that has other things to do: slow, and right."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.vm.conftest import Vimto

# However long it takes; this only keeps a machine that is stuck from holding up everything.
_LIMIT = 3000.0


@pytest.fixture
def busy() -> Iterator[None]:
    """Other work for every processor of the host, several times over."""
    loop = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(loop) for _ in range(8 * len(os.sched_getaffinity(0)))]
    yield
    for other in others:
        other.kill()
        other.wait()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("flags", [(), ("-no-snapshot",)])
def test_machines_wait_for_each_other(vimto: Vimto, busy: None, flags: tuple[str, ...]) -> None:
    vimto("exec", "true", limit=_LIMIT).check()
    number = 4 if flags else 16
    processes = [vimto.start(*flags, "exec", "echo", str(index)) for index in range(number)]
    for index, process in enumerate(processes):
        stdout, stderr = process.communicate(timeout=_LIMIT)
        assert (process.returncode, stdout) == (0, f"{index}\n".encode()), stderr.decode()
        said = stderr.decode().splitlines()
        assert all(line.startswith("vimto: waiting: ") for line in said), said
