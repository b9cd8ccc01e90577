"""Why a machine was lost, from the kernel's last words."""

import signal
from types import SimpleNamespace
from typing import Any, cast

import pytest

from vimto import console
from vimto.errors import BootError, EmulatorFaultError, LostMachineError, VimtoError
from vimto.plan.plan import Plan, Shape
from vimto.vm import loss, run
from vimto.vm.loss import explain, qemu_lines, show_log
from vimto.vm.machine import Machine
from vimto.vm.request import Companion, Request


class Ended:
    """A machine that has ended, or not, and left a log."""

    def __init__(self, lines: list[str], ended: bool = True, status: int = 0) -> None:
        self.status = status if ended else None
        self.lines = lines
        self.ended = ended
        self.monitor = SimpleNamespace(shutdown="", port_closed=False)

    def hear(self) -> None:
        pass

    def wait(self, _limit: float) -> bool:
        return self.ended

    def read_console(self) -> list[str]:
        return self.lines


def told(exc: VimtoError, lines: list[str], ended: bool = True, smp: int = 2) -> VimtoError:
    return explain(exc, cast(Machine, Ended(lines, ended)), cast(Plan, SimpleNamespace(smp=smp)))


PANIC = "[    1.298113] Kernel panic - not syncing: sysrq triggered crash"


def test_a_panic_is_named_with_its_time_and_its_own_lines() -> None:
    before = [f"[    1.0] line {number}" for number in range(30)]
    after = [f"[    1.3] trace {number}" for number in range(40)]
    error = told(LostMachineError("the machine ended"), [*before, PANIC, *after])
    assert isinstance(error, LostMachineError)
    assert error.message.startswith("the machine ended: kernel panic 1.3 s after boot\n")
    assert "not a failure of the test" in error.message
    assert error.lines[0] == "(20 of 71 console lines; `-v -v` shows all)"
    assert error.lines[1:4] == (before[-2], before[-1], PANIC)
    assert len(error.lines) == 21


def test_the_last_lines_are_shown_where_no_cause_is_known() -> None:
    lines = [f"line {number}" for number in range(50)]
    error = told(LostMachineError("the machine ended", hint="h"), lines)
    assert error.lines == ("(last 20 of 50 console lines; `-v -v` shows all)", *lines[-20:])
    assert (error.hint, error.message.count("\n")) == ("h", 1)
    assert told(LostMachineError("m"), ["only"]).lines == ("only",)


def test_who_was_killed_is_told() -> None:
    ended = cast(Machine, Ended(["a line"], status=signal.SIGKILL))
    error = explain(LostMachineError("gone"), ended, cast(Plan, SimpleNamespace(smp=2)))
    assert error.message.startswith("gone: QEMU was ended by SIGKILL\n")


@pytest.mark.parametrize(
    ("status", "limit", "hint"),
    [
        (signal.SIGKILL, 512 << 20, "processes may use 512 MiB here"),
        (signal.SIGKILL, None, ""),
        (signal.SIGSEGV, 512 << 20, ""),
        (0, 512 << 20, ""),
    ],
)
def test_a_limit_of_memory_may_be_why(
    monkeypatch: pytest.MonkeyPatch, status: int, limit: int | None, hint: str
) -> None:
    monkeypatch.setattr(loss, "memory_limit", lambda: limit)
    ended = cast(Machine, Ended(["a line"], status=status))
    error = explain(LostMachineError("gone"), ended, cast(Plan, SimpleNamespace(smp=2)))
    assert error.hint.startswith(hint) and bool(error.hint) == bool(hint)


@pytest.mark.parametrize(
    ("shutdown", "closed", "line", "said"),
    [
        ("guest-shutdown", True, "[   14.1] reboot: Power down", "powered the machine off"),
        ("guest-reset", True, "[   14.1] reboot: Restarting system", "rebooted the machine"),
        ("", True, "[   14.1] reboot: System halted", "halted the machine"),
        ("guest-reset", True, "[    2.1] Kernel panic - not syncing: x", "another kernel (kexec)"),
        ("guest-reset", False, "[    2.1] VFS: Unable to mount root fs", "another kernel (kexec)"),
        ("", False, "[    2.1] kexec_core: Starting new kernel", "another kernel (kexec)"),
    ],
)
def test_what_a_command_does_to_its_machine_is_told(
    shutdown: str, closed: bool, line: str, said: str
) -> None:
    ended = Ended(["a line", line])
    ended.monitor = SimpleNamespace(shutdown=shutdown, port_closed=closed)
    plan: Any = SimpleNamespace(smp=2, qemu="/q", has_devices=False)
    error = explain(LostMachineError("gone"), cast(Machine, ended), plan)
    assert error.message.startswith("gone: the guest ") and said in error.message
    assert "one kernel and one boot" in error.hint
    # Before there is a command it is the guest program, or the kernel, that gives up.
    booting = explain(BootError("gone"), cast(Machine, ended), plan)
    assert said not in booting.message


def test_a_reset_without_a_word_is_told() -> None:
    ended = Ended(["a line"])
    ended.monitor = SimpleNamespace(shutdown="guest-reset", port_closed=False)
    plan: Any = SimpleNamespace(smp=2, qemu="/q", has_devices=False)
    error = explain(LostMachineError("gone"), cast(Machine, ended), plan)
    assert error.message.startswith("gone: it was reset, and its kernel said nothing of it\n")
    ended.lines.append(PANIC)
    assert "kernel panic" in explain(LostMachineError("gone"), cast(Machine, ended), plan).message


def test_what_qemu_refuses_is_told_in_its_own_words() -> None:
    lines = ["qemu-system-x86_64: -device foo: 'foo' is not a valid device model name"]
    ended = cast(Machine, Ended(lines, status=1 << 8))
    plan: Any = SimpleNamespace(smp=2, qemu="/q", has_devices=True)
    error = explain(BootError("the machine ended"), ended, plan)
    assert error.message.startswith(
        "the machine ended: QEMU: -device foo: 'foo' is not a valid device model name\n"
    )
    assert "-qemu-args" in error.hint
    plan = SimpleNamespace(smp=2, qemu="/q", has_devices=False)
    assert not explain(BootError("the machine ended"), ended, plan).hint


def test_all_lines_with_two_v(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_verbosity", [2])
    assert len(told(LostMachineError("m"), ["x"] * 100).lines) == 100


@pytest.mark.parametrize(
    ("line", "said", "advice"),
    [
        ("vimto: boot: no virtio port `vimto.agent` after 1m0s", "virtio-serial", "VIRTIO_CONSOLE"),
        ("VFS: Unable to mount root fs on unknown-block(0,0)", "initramfs", "BLK_DEV_INITRD"),
        ("qemu: could not load PC BIOS 'bios-256k.bin'", "firmware", "seabios"),
        ("qemu: cannot set up guest memory: Cannot allocate memory", "too little memory", "-p 1"),
        ("Out of memory and no killable processes...", "out of memory", "-memory"),
    ],
)
def test_causes_come_with_advice(line: str, said: str, advice: str) -> None:
    error = told(BootError("the machine ended"), ["noise", line, PANIC])
    assert said in error.message and advice in error.hint


def test_a_silent_kernel_may_lack_a_driver() -> None:
    error = told(BootError("the machine did not boot"), [], ended=False)
    assert "virtio driver" in error.hint and error.lines == ()


def test_more_processors_than_a_host_can_emulate_may_be_why_it_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loss, "host_processors", lambda: 2)
    error = told(BootError("the machine did not boot"), [], ended=False, smp=255)
    assert error.hint.startswith("`-smp 255` is much for a host with 2:")


@pytest.mark.parametrize("program", ["/usr/bin/qemu-system-x86_64", "/opt/my-qemu"])
def test_a_state_that_is_not_loaded_is_told_in_qemu_s_words(program: str) -> None:
    name = program.rpartition("/")[2]
    lines = [
        "[    1.298113] qemu: a guest may say anything",
        f"{name}: Not a migration stream",
        "/lib/qemu-system-x86_64: load of migration failed: Invalid argument",
    ]
    assert qemu_lines(lines, program) == [
        "Not a migration stream",
        "load of migration failed: Invalid argument",
    ]


def test_two_v_show_the_log_of_a_machine_that_did_well(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    machine = cast(Machine, Ended(["one", "two"]))
    for level, shown in ((1, ""), (2, "  | one\n  | two\n")):
        monkeypatch.setattr(console, "_verbosity", [level])
        show_log(machine)
        assert capfd.readouterr().err == shown


STALE = "[    1.997038] Oops: int3: 0000 [#2] PREEMPT SMP NOPTI"


def test_a_fault_of_the_emulator_is_worth_another_boot_but_not_another_run() -> None:
    booting = told(BootError("the machine ended"), [STALE, PANIC])
    assert isinstance(booting, EmulatorFaultError)
    assert "a fault of QEMU's emulation 2.0 s after boot" in booting.message
    assert booting.hint == "`-smp 1` rules it out"
    running = told(LostMachineError("the machine ended"), [STALE, PANIC])
    assert type(running) is LostMachineError


@pytest.mark.parametrize(("faults", "begun"), [(1, False), (2, False), (1, True)])
def test_a_boot_is_tried_twice(faults: int, begun: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """But not where a gdb has been there from the first instruction: that would be two gdbs."""
    tries: list[int] = []

    def boot(_job: object) -> int:
        tries.append(1)
        if len(tries) <= faults:
            raise EmulatorFaultError("the machine ended")
        return 7

    monkeypatch.setattr(run.Job, "run_booted", boot)
    shape = Shape([], [], "")
    plan = SimpleNamespace(
        shares=[], shown=[], homes=[], temporary="/tmp", snapshots="/none", uid=0, gid=0
    )
    plan.shape_for = lambda _count: shape
    companion = Companion()
    companion.begun = begun
    request = Request(["true"], "/", {}, companion=companion)
    if faults == 1 and not begun:
        assert run.run(cast(Plan, plan), request) == 7
    else:
        with pytest.raises(EmulatorFaultError):
            run.run(cast(Plan, plan), request)
    assert len(tries) == (1 if begun else 2)
