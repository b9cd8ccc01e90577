"""Machines that no longer react: whatever happens in them, their user can end them."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.conftest import need
from tests.vm.conftest import Module, Vimto
from tests.vm.keyboard import Keyboard, sit_at

# Programs that no other one may interrupt, the guest program as little as any, on every processor.
DEAD = """
echo -1 >/proc/sys/kernel/sched_rt_runtime_us
for cpu in 0 1; do
    (sleep 1; exec taskset -c $cpu chrt -f 99 sh -c 'while :; do :; done') &
done
echo ready
wait
"""
# A file system that is frozen holds who writes to it, whatever signal comes.
STUCK = """
truncate -s 16M /tmp/image
mkfs.ext4 -q /tmp/image
mkdir /tmp/frozen
mount -o loop /tmp/image /tmp/frozen
fsfreeze -f /tmp/frozen
until grep -q '^State:.D' /proc/$$/status; do sleep 0.05; done && echo ready &
: >/tmp/frozen/file
"""


@contextmanager
def locked_up(vimto: Vimto) -> Iterator[Keyboard]:
    need("chrt", "taskset")
    with sit_at(vimto, "-sudo", "exec", "sh", "-c", DEAD) as person:
        person.expect("ready")
        while True:  # until nothing comes back any more
            person.type("x")
            try:
                person.expect("x", limit=2)
            except pytest.fail.Exception:
                break
        yield person


def test_the_escape_works_without_the_guest(vimto: Vimto) -> None:
    with locked_up(vimto) as person:
        for _ in range(5):
            person.type("\x03")
        person.expect("vimto: the machine does not answer; `~.` at the beginning of a line")
        person.type("\x1c\r~.")
        assert person.end() == 130
        assert b"the machine was ended by `~.`" in person.screen


def test_a_dead_guest_ends_with_its_terminal(vimto: Vimto) -> None:
    with locked_up(vimto) as person:
        person.hang_up()
        assert person.process.wait(60) == 128 + signal.SIGHUP
        vimto.wait_gone()


def test_a_signal_that_is_not_acknowledged_ends_a_dead_guest(vimto: Vimto) -> None:
    vimto.flags = (*vimto.flags, "-stop-timeout", "3s")
    with locked_up(vimto) as person:
        person.process.send_signal(signal.SIGTERM)
        assert person.end() == 128 + signal.SIGTERM
        assert (
            b"ended 3 s after SIGTERM: the guest program does not answer any more" in person.screen
        )


def test_one_signal_ends_an_unkillable_command(vimto: Vimto) -> None:
    need("fsfreeze", "mkfs.ext4")
    vimto.flags = (*vimto.flags, "-stop-timeout", "3s")
    with vimto.start("-sudo", "exec", "sh", "-c", STUCK) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        errors = process.stderr.read().decode()
        assert process.wait(60) == 128 + signal.SIGTERM, errors
        assert "ended 3 s after SIGTERM: `sh` (process " in errors
        assert "is in uninterruptible sleep\n" in errors


def test_what_is_shared_is_kept_when_the_terminal_is_closed(vimto: Vimto) -> None:
    # (Each `sleep` ends in a short uninterruptible one, which is not to be taken for a long one.)
    script = "trap 'echo hung up >>log' HUP; echo ready; while :; do sleep 0.01; done"
    teardown = ("-teardown", "sh -c 'echo torn down >>log'", "-stop-timeout", "1m")
    with sit_at(vimto, *teardown, "exec", "sh", "-c", script, stderr=subprocess.PIPE) as person:
        person.expect("ready")
        person.hang_up()
        assert person.process.stderr is not None
        errors = person.process.stderr.read().decode()
        assert person.process.wait(60) == 128 + signal.SIGHUP
        vimto.wait_gone()
    assert "did not end when the terminal was closed, and was killed" in errors
    assert (vimto.directory / "log").read_text() == "hung up\ntorn down\n", errors


def test_a_command_may_ignore_a_signal(vimto: Vimto) -> None:
    vimto.flags = (*vimto.flags, "-stop-timeout", "1s")
    script = "trap '' TERM; echo ready; sleep 4; echo done"
    with vimto.start("exec", "sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        os.kill(process.pid, signal.SIGTERM)
        assert process.stdout.read() == b"done\n"
        assert process.wait(60) == 0


COUNTING = """
func TestSignals(t *testing.T) {
	seen := make(chan os.Signal, 9)
	signal.Notify(seen, os.Interrupt)
	os.WriteFile("ready", nil, 0o666)
	time.Sleep(5 * time.Second)
	os.WriteFile("seen", []byte(strconv.Itoa(len(seen))), 0o666)
}
"""


@pytest.mark.parametrize("alone", [False, True])
def test_go_is_interrupted_once(vimto: Vimto, module: Module, alone: bool) -> None:
    for name in ("a", "b"):
        module.test(f"{name}/{name}_test.go", COUNTING, "os", "os/signal", "strconv", "time")
    first, second = module.root / "a", module.root / "b"
    with sit_at(vimto, "go", "test", "-p", "1", "./...") as person:
        while not (first / "ready").exists():
            assert person.process.poll() is None
            time.sleep(0.05)
        if alone:  # as an IDE's stop button: the test in its machine goes on, as go has it
            person.process.send_signal(signal.SIGINT)
        else:
            person.type("\x03")
        assert person.end() == 1
    assert (first / "seen").read_text() == ("0" if alone else "1")
    assert not (second / "ready").exists()
