"""A person at a terminal, with a machine behind it."""

import os
import shlex
import signal
import subprocess

from tests.vm.conftest import Vimto
from tests.vm.keyboard import find_machine, seat, sit_at


def test_exec_has_a_terminal_of_our_size(vimto: Vimto) -> None:
    script = "tty; stty size; trap 'stty size; echo resized' WINCH; echo ready; cat; cat; echo bye"
    with sit_at(vimto, "exec", "sh", "-c", script) as person:
        person.expect("/dev/pts/0")
        person.expect("30 100")
        person.expect("ready")
        person.resize(40, 120)
        person.type("line\r")
        person.expect("line\r\nline")
        person.type("\x04")  # a shell runs a trap when its child has ended
        person.expect("40 120")
        person.expect("resized")
        person.type("\x04")
        person.expect("bye")
        assert person.end() == 0


def test_ctrl_c_is_the_command_s(vimto: Vimto) -> None:
    script = "trap 'echo caught; exit 7' INT; echo ready; while :; do sleep 0.1; done"
    with sit_at(vimto, "exec", "sh", "-c", script) as person:
        person.expect("ready")
        person.type("\x03")
        person.expect("caught")
        assert person.end() == 7


def test_a_shell_has_jobs(vimto: Vimto) -> None:
    with sit_at(vimto, "shell", "--norc", "--noprofile", "-i") as person:
        person.expect("vimto: Linux 6.1.")
        person.expect("the machine ends with this shell\r\n")
        person.type("PS1='$ '; echo in $PWD\r")
        person.expect(f"in {vimto.directory}\r\n")
        person.type("sh -c \"trap 'echo goes on' CONT; echo runs; while :; do sleep 0.1; done\"\r")
        person.expect("\rruns")
        person.type("\x1a")
        person.expect("Stopped")
        person.type("fg\r")
        person.expect("\ngoes on")
        person.type("\x03")
        person.expect("^C")
        person.expect("$ ")
        person.type("echo after $?\r")
        person.expect("\rafter 130")
        person.type("touch kept; (exit 3)\r\x04")
        assert person.end() == 3
    assert (vimto.directory / "kept").exists()


def test_a_shell_reads_commands_from_a_pipe(vimto: Vimto) -> None:
    done = vimto("shell", input=b"tty; echo $((6*7)); exit 5\n", env={"SHELL": "/bin/sh"})
    assert done.errors == "", "a greeting is for a person"
    assert done.check(5).text == "not a tty\n42\n"


def test_a_redirected_stderr_stays_apart(vimto: Vimto) -> None:
    script = "echo out; echo err >&2; tty"
    with sit_at(vimto, "exec", "sh", "-c", script, stderr=subprocess.PIPE) as person:
        person.expect("out\r\n/dev/pts/0")
        assert person.end() == 0
        assert person.process.stderr is not None
        assert person.process.stderr.read().endswith(b"err\n")


def test_ctrl_c_during_the_boot_ends_vimto(vimto: Vimto) -> None:
    vimto.flags = (*vimto.flags, "-no-snapshot")
    with sit_at(vimto, "exec", "sleep", "1000") as person:
        find_machine(vimto, "-kernel")
        person.type("\x03")
        assert person.end() == 130
        assert b"interrupted by SIGINT" in person.screen


def test_the_terminal_survives_a_killed_machine(vimto: Vimto) -> None:
    with sit_at(vimto, "exec", "sh", "-c", "echo ready; sleep 1000") as person:
        person.expect("ready")
        os.kill(find_machine(vimto), signal.SIGKILL)
        assert person.end() == 125
        person.expect("error: the machine ended before the command reported its status")


def test_the_terminal_survives_a_signal(vimto: Vimto) -> None:
    with sit_at(vimto, "exec", "sh", "-c", "echo ready; exec sleep 1000") as person:
        person.expect("ready")
        person.process.send_signal(signal.SIGTERM)
        assert person.end() == 128 + signal.SIGTERM


def start_shell(vimto: Vimto, **options: object) -> "subprocess.Popen[bytes]":
    words = ["bash", "--norc", "--noprofile", "-i"]
    env = {**vimto.environment(), "HISTFILE": ""}
    return subprocess.Popen(words, cwd=vimto.directory, env=env, **options)  # type: ignore[call-overload]


def test_a_job_of_a_shell(vimto: Vimto) -> None:
    command = "echo r''uns; read line; echo got $line; exit 5"
    words = shlex.join([vimto.program, *vimto.flags, "exec", "sh", "-c", command])
    with seat(lambda **options: start_shell(vimto, **options)) as person:
        person.type(f"PS1='$ '\r{words} &\r")
        person.expect("runs")
        person.type("jobs; echo lis''ted\r")
        assert b"Running" in person.expect("listed")  # not stopped, though keys came
        person.type("fg\r")
        person.expect("sh -c")
        person.type("hello\r")
        person.expect("got hello")
        person.expect("$ ")  # what is typed before is read ahead
        person.type("exit $?\r")
        assert person.end() == 5
