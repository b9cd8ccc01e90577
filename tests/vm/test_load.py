"""Many machines on a host that has other things to do: slow, and right."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.vm.conftest import Module, Vimto
from vimto.vm.claims import Turn

# However long it takes; this only keeps a machine that is stuck from holding up everything.
_LIMIT = 3000.0


@pytest.fixture
def busy() -> Iterator[None]:
    """Other work for every processor of the host, several times over."""
    loop = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(loop) for _ in range(6 * len(os.sched_getaffinity(0)))]
    yield
    for other in others:
        other.kill()
        other.wait()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("flags", [(), ("-no-snapshot",)])
def test_machines_wait_for_each_other(vimto: Vimto, busy: None, flags: tuple[str, ...]) -> None:
    vimto("exec", "true", limit=_LIMIT).check()
    number = 3 if flags else 16
    processes = [vimto.start(*flags, "exec", "echo", str(index)) for index in range(number)]
    for index, process in enumerate(processes):
        stdout, stderr = process.communicate(timeout=_LIMIT)
        assert (process.returncode, stdout) == (0, f"{index}\n".encode()), stderr.decode()
        said = stderr.decode().splitlines()
        assert all(line.startswith("vimto: waiting: ") for line in said), said


@pytest.fixture
def queue(vimto: Vimto, cache: Path) -> Iterator[ExitStack]:
    """As many machines as may start at once, that never do; a wait is told of at once."""
    vimto("exec", "true").check()
    code = (
        "import vimto.vm.claims as c, vimto.commands.exec as e; c._SAID_AFTER = e._GO_WAIT = 0.0\n"
        "import vimto.__main__; vimto.__main__.main()"
    )
    vimto.program, vimto.flags = sys.executable, ("-c", code, *vimto.flags)
    with ExitStack() as stack:
        for _ in os.sched_getaffinity(0):
            stack.enter_context(closing(Turn(str(cache / "snapshots")))).take()
        yield stack


def test_a_machine_that_waits_for_its_turn(vimto: Vimto, queue: ExitStack) -> None:
    """It says so, ends when it is told to, and starts when the others have."""
    processes = [vimto.start("exec", "echo", "hi") for _ in range(3)]
    for process in processes:
        assert process.stderr
        assert process.stderr.readline() == b"vimto: waiting: other machines start first\n"
    for process, number in zip(processes, (signal.SIGINT, signal.SIGTERM, 0), strict=True):
        if number:
            process.send_signal(number)
            assert process.communicate()[0] == b""
            assert process.returncode == 128 + number
    queue.close()
    assert processes[-1].communicate() == (b"hi\n", b"")


def test_under_go_itself_no_machine_waits_for_long(
    vimto: Vimto, queue: ExitStack, module: Module, tmp_path: Path
) -> None:
    module.test("a_test.go", "func TestNothing(t *testing.T) {}")
    script = tmp_path / "vimto"
    words = " ".join(f"'{word}'" for word in (vimto.program, *vimto.flags))
    script.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    script.chmod(0o755)
    go = ["go", "test", "-exec", str(script), "-v", "."]
    done = subprocess.run(
        go, cwd=vimto.directory, env=vimto.environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = "no longer waiting, for go's own timer has started: other machines start first"
    assert done.stdout.count(said) == 1
    assert "--- PASS: TestNothing" in done.stdout
