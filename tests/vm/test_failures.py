"""What can go wrong: said clearly, with status 125, and nothing is left of it."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import builtin_kernel, need
from tests.vm.conftest import STABLE, Module, Vimto, kill_group, unpacked

# A shell says on stderr how its foreground process was ended; so this one is in the background.
WAITING = "trap 'echo got; exit 9' USR1; echo up; sleep 1000000 & wait"
ENDLESS = """
func TestEndless(t *testing.T) {
	println("up")
	select {}
}
"""


def machines(vimto: Vimto) -> list[int]:
    """Return the pids of vimto's QEMU processes."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                marked = vimto.mark.encode() in (entry / "environ").read_bytes()
                name = (entry / "comm").read_text()
            except OSError:
                continue
            if marked and name.startswith("qemu-system"):
                found.append(int(entry.name))
    return found


def start_waiting(vimto: Vimto, *flags: str) -> "subprocess.Popen[bytes]":
    """Start a command that waits in a machine, in a process group of its own."""
    process = vimto.start(*flags, "exec", "sh", "-c", WAITING, start_new_session=True)
    assert process.stdout and process.stdout.readline() == b"up\n"
    return process


def finish(process: "subprocess.Popen[bytes]") -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout.decode(), stderr.decode()


def test_a_panic_is_no_failure_of_the_test(either: Vimto) -> None:
    script = "echo before; read go; echo c > /proc/sysrq-trigger; sleep 100"
    process = either.start("exec", "sh", "-c", script, stdin=subprocess.PIPE)
    assert process.stdin and process.stdout
    assert process.stdout.readline() == b"before\n"  # on its way at the panic, it may be lost
    process.stdin.write(b"go\n")
    status, _, errors = finish(process)
    assert status == 125
    assert re.search(
        r"^error: the machine ended .*: kernel panic \d+\.\d s after boot$", errors, re.M
    )
    assert "this is not a failure of the test" in errors
    assert "| [" in errors and "sysrq triggered crash" in errors


def test_a_machine_that_is_killed_is_lost(vimto: Vimto) -> None:
    process = start_waiting(vimto)
    (pid,) = machines(vimto)
    os.kill(pid, signal.SIGKILL)
    status, _, errors = finish(process)
    assert status == 125
    reason = "the machine ended before the command reported its status: QEMU was ended by SIGKILL"
    assert reason in errors
    assert "not a failure of the test" in errors


# reboot(2) with each of its commands: linux/reboot.h. perl is there wherever dpkg is.
REBOOT = "syscall(169, 0xfee1dead, 672274793, {}, 0); sleep 1000000"
# kexec_file_load(2) of the kernel's own image, without an initramfs: it panics soon.
KEXEC = """
my ($path) = glob "/boot/vmlinuz-*"; open(my $kernel, "<", $path);
my $line = "panic=-1 console=ttyS0 quiet";
syscall(320, fileno $kernel, -1, 1 + length $line, $line, 4) == 0 or die "kexec_file_load: $!";
"""


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (REBOOT.format("0x1234567"), "the guest rebooted the machine"),
        (REBOOT.format("0x4321fedc"), "the guest powered the machine off"),
        (REBOOT.format("0xcdef0123"), "the guest halted the machine"),
        (KEXEC + REBOOT.format("0x45584543"), "the guest started another kernel (kexec)"),
    ],
    ids=["reboot", "poweroff", "halt", "kexec"],
)
def test_what_a_command_does_to_its_machine_is_told(vimto: Vimto, program: str, said: str) -> None:
    need("perl")
    outcome = vimto("-sudo", "exec", "perl", "-e", program).check(125)
    (error,) = (line for line in outcome.errors.splitlines() if line.startswith("error: "))
    assert error.endswith(f": {said}")
    assert "hint: a machine has one kernel and one boot" in outcome.errors


def test_a_reset_that_no_kernel_speaks_of_is_a_lost_machine(vimto: Vimto) -> None:
    outcome = vimto.script("echo b > /proc/sysrq-trigger; sleep 100").check(125)
    reason = "the machine ended before the command reported its status: it was reset"
    assert reason in outcome.errors


def test_vimtos_own_limit(vimto: Vimto) -> None:
    outcome = vimto("-timeout", "2s", "exec", "sleep", "1000000").check(125)
    assert "still running after 2 s, vimto's own `-timeout`" in outcome.errors


def test_a_boot_that_takes_too_long(vimto: Vimto) -> None:
    outcome = vimto("-no-snapshot", "-boot-timeout", "500ms", "exec", "true").check(125)
    assert "the machine did not boot within 0.5 s" in outcome.errors
    assert "hint: " in outcome.errors and "boot-timeout" in outcome.errors


def test_kernels_that_cannot_be_booted(vimto: Vimto, tmp_path: Path) -> None:
    def refused(path: Path | str, *flags: str) -> str:
        outcome = vimto("-kernel", str(path), *flags, "exec", "true").check(125)
        assert "error: " in outcome.errors
        assert "Traceback" not in outcome.errors
        return outcome.errors

    assert "no kernel" in refused(tmp_path)
    assert "does not exist" in refused(tmp_path / "nothing")
    text = tmp_path / "text"
    text.write_text("no kernel at all\n" * 100)
    assert "neither" in refused(text)
    assert "error: " in refused("/bin/true")
    empty = tmp_path / "empty"
    empty.touch()
    refused(empty)
    image = _stable_image()
    truncated = tmp_path / "truncated"
    truncated.write_bytes(image.read_bytes()[: 1 << 20])
    refused(truncated)
    # Nothing tells that this one's drivers are modules, until it does not answer.
    alone = tmp_path / "alone"
    alone.write_bytes(image.read_bytes())
    errors = refused(alone, "-boot-timeout", "25s")
    assert "did not boot within 25 s" in errors and "virtio" in errors
    assert "`no-such-package-anywhere`" in refused("apt:no-such-package-anywhere")


def _stable_image() -> Path:
    return next(unpacked(STABLE).glob("boot/vmlinuz-*"))


def test_a_kernel_that_never_says_a_word(vimto: Vimto, tmp_path: Path) -> None:
    # What it was told makes it panic before the guest program runs.
    outcome = vimto(
        "-kernel-args", "rdinit=/nothing", "-kernel-args", "root=/dev/none", "exec", "true"
    ).check(125)
    assert "not a failure of the test" in outcome.errors
    assert "VFS: Unable to mount root fs" in outcome.errors


def test_an_unreadable_kernel(stranger: Vimto) -> None:
    kernel = stranger.directory / "vmlinuz"
    kernel.write_bytes(b"\0" * 4096)
    kernel.chmod(0)
    outcome = stranger("-kernel", "./vmlinuz", "exec", "true").check(125)
    assert "cannot be read" in outcome.errors or "permission denied" in outcome.errors.lower()
    assert "hint: " in outcome.errors


def test_tools_and_places_that_are_not_there(vimto: Vimto, stranger: Vimto) -> None:
    missing = vimto("-qemu", "qemu-of-nobody", "exec", "true").check(125)
    assert "`qemu-of-nobody`" in missing.errors and "hint: " in missing.errors
    no_program = vimto("-qemu", "/bin/false", "exec", "true").check(125)
    assert "/bin/false" in no_program.errors
    locked = stranger("exec", "true", env={"VIMTO_CACHE_DIR": "/root/vimto-cache"}).check(125)
    assert "/root/vimto-cache" in locked.errors and "hint: " in locked.errors
    assert "Traceback" not in locked.errors
    no_go = vimto("go1.99", "test", "./...").check(125)
    assert "`go1.99` is not installed" in no_go.errors and "hint: " in no_go.errors


def test_the_user_errs(vimto: Vimto) -> None:
    (vimto.directory / ".vimto.toml").write_text('kernal = "x"\nmemory = "lots"\nsmpp = 2\n')
    config = vimto("exec", "true").check(125)
    assert "2 unknown keys" in config.errors
    assert ".vimto.toml:1: `kernal`; did you mean `kernel`?" in config.errors
    assert ".vimto.toml:3: `smpp`; did you mean `smp`?" in config.errors
    (vimto.directory / ".vimto.toml").write_text('memory = "lots"\n')
    assert ".vimto.toml:1: `memory`: `lots`" in vimto("exec", "true").check(125).errors
    (vimto.directory / ".vimto.toml").unlink()
    for words, said in (
        (("-memry", "1G", "exec", "true"), "did you mean `-memory`"),
        (("exce", "true"), "did you mean `exec`"),
        (("exec",), "needs a command"),
        (("-memory",), "needs a value"),
        (("-share", "/no/such/place", "exec", "true"), "no such directory"),
        (("-share", "/proc/self", "exec", "true"), "the guest has its own /proc"),
        (("-sysctl", "x", "exec", "true"), "write NAME=VALUE"),
        (("-forward", "x", "exec", "true"), "forward"),
        (("-accel", "hvf", "exec", "true"), "hvf"),
        (("-memory", "1", "exec", "true"), "memory"),
        (("-memory", "900000G", "exec", "true"), "cannot be had: this host has "),
        (("-smp", "10000", "exec", "true"), "from 1 to 255"),
    ):
        outcome = vimto(*words).check(125)
        assert "error: " in outcome.errors and said in outcome.errors, words
        assert "Traceback" not in outcome.errors
    unknown = vimto("-sysctl", "no.such=1", "exec", "true").check(125)
    assert "sysctl `no.such`" in unknown.errors


def test_commands_that_cannot_be_started(vimto: Vimto) -> None:
    assert "was not found in PATH" in vimto("exec", "no-such-command").check(127).errors
    assert "no such file" in vimto("exec", "./nothing").check(127).errors
    (vimto.directory / "plain").write_text("echo\n")
    assert "permission denied" in vimto("exec", "./plain").check(126).errors
    assert "is a directory" in vimto("exec", "/etc").check(126).errors


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"])
def test_signals_end_the_command_and_the_machine(vimto: Vimto, name: str) -> None:
    number = signal.Signals[name]
    process = start_waiting(vimto)
    kill_group(process, number)
    status, _, errors = finish(process)
    assert status == 128 + number, errors
    assert not machines(vimto)


def test_the_command_may_handle_signals(vimto: Vimto) -> None:
    process = start_waiting(vimto)
    process.send_signal(signal.SIGUSR1)
    assert finish(process) == (9, "got\n", "")
    stubborn = vimto.start(
        "exec", "sh", "-c", "trap '' INT QUIT TERM; echo up; while :; do sleep 1; done"
    )
    assert stubborn.stdout and stubborn.stdout.readline() == b"up\n"
    # Whoever means it says it three times; of one number, signals that wait would be one.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        stubborn.send_signal(number)
    status, _, _ = finish(stubborn)
    assert status - 128 in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


def test_no_machine_outlives_vimto(vimto: Vimto) -> None:
    process = start_waiting(vimto)
    assert machines(vimto)
    process.kill()
    process.communicate()
    vimto.wait_gone(limit=1.0)


def shim_of(vimto: Vimto) -> int:
    """Return the pid of the shim that go runs for a test of vimto's."""
    (shim,) = (
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _is_shim(entry, vimto.mark)
    )
    return shim


def _is_shim(entry: Path, mark: str) -> bool:
    try:
        words = (entry / "cmdline").read_bytes().split(b"\0")
        marked = mark.encode() in (entry / "environ").read_bytes()
    except OSError:
        return False
    is_shim = any(word.endswith(b"shim.py") for word in words)
    return marked and is_shim and b"--snapshot" not in words


def start_endless(vimto: Vimto, module: Module) -> "subprocess.Popen[bytes]":
    module.test("a_test.go", ENDLESS)
    process = vimto.start("go", "test", "-v", ".", start_new_session=True)
    assert process.stdout
    for line in process.stdout:
        if b"up" in line:
            break
    assert machines(vimto)
    return process


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_ctrl_c_during_go_test(vimto: Vimto, module: Module, name: str) -> None:
    process = start_endless(vimto, module)
    kill_group(process, signal.Signals[name])
    status, _, errors = finish(process)
    assert status != 0, errors
    vimto.wait_gone(limit=1.0)
    remove_work(vimto)


def remove_work(vimto: Vimto) -> None:
    """Remove what go leaves behind when a signal ends it, here as on any host."""
    for path in vimto.temporary.glob("go-build*"):
        shutil.rmtree(path)


def test_go_test_is_killed_and_nothing_outlives_it(vimto: Vimto, module: Module) -> None:
    process = start_endless(vimto, module)
    process.kill()
    process.communicate()
    vimto.wait_gone(limit=2.0)
    remove_work(vimto)


def test_the_shim_is_killed(vimto: Vimto, module: Module) -> None:
    process = start_endless(vimto, module)
    os.kill(shim_of(vimto), signal.SIGKILL)
    status, output, _ = finish(process)
    assert status == 1
    assert "signal: killed" in output
    vimto.wait_gone(limit=1.0)


def test_a_panic_during_go_test_is_said_by_the_shim(vimto: Vimto, module: Module) -> None:
    module.test(
        "a_test.go",
        'func TestPanic(t *testing.T) { os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0) }',
        "os",
    )
    outcome = vimto.go(".").check(1)
    assert "kernel panic" in outcome.text and "this is not a failure of the test" in outcome.text


def test_a_goroutine_dump_reaches_the_user(vimto: Vimto, module: Module) -> None:
    process = start_endless(vimto, module)
    os.kill(shim_of(vimto), signal.SIGQUIT)  # as go does when its own patience ends
    status, output, _ = finish(process)
    assert status == 1
    assert "SIGQUIT: quit" in output and "TestEndless" in output and "goroutine " in output


def test_a_kernel_without_9p_is_refused_before_it_boots(vimto: Vimto, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(builtin_kernel(), tree)
    config = tree / "boot/config"
    config.write_text(config.read_text().replace("CONFIG_9P_FS=y", ""))
    outcome = vimto("-kernel", str(tree), "exec", "true").check(125)
    assert "neither 9p nor virtiofs" in outcome.errors and "CONFIG_9P_FS" in outcome.errors
