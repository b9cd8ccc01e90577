"""Stdin, stdout and stderr of the command: complete, apart, in order, and never a hang."""

import hashlib
import os
import resource
import signal
import subprocess
import threading
from pathlib import Path

from tests.vm.conftest import Module, Vimto
from tests.vm.keyboard import sit_at

# A command may be slow under emulation; a hang is what these tests are about.
LIMIT = 200.0


def test_a_million_lines_into_a_pipe_and_a_file(vimto: Vimto) -> None:
    expected = b"".join(b"%d\n" % i for i in range(1, 1_000_001))
    vimto("exec", "true").check()  # may have something to say, the first time
    outcome = vimto.script("seq 1000000; echo done >&2", limit=LIMIT).check()
    assert outcome.stdout == expected
    assert outcome.stderr == b"done\n"
    path = vimto.directory / "out"
    with path.open("wb") as file:
        vimto.script("seq 1000000", stdout=file, limit=LIMIT).check()
    assert path.read_bytes() == expected


def test_two_hundred_megabytes_arrive_as_they_are(vimto: Vimto) -> None:
    # All byte values, and a period that no buffer's size is a multiple of.
    block = bytes((i * 7 + i // 256) % 256 for i in range(1_000_003))
    (vimto.directory / "block").write_bytes(block)
    script = "i=0; while [ $i -lt 200 ]; do cat block; i=$((i + 1)); done"
    process = vimto.start("exec", "sh", "-c", script)
    assert process.stdout and process.stderr
    digest, count = hashlib.sha256(), 0
    with process:
        while chunk := process.stdout.read(1 << 20):
            digest.update(chunk)
            count += len(chunk)
        assert process.stderr.read() == b""
    assert (process.returncode, count) == (0, 200 * len(block))
    expected = hashlib.sha256()
    for _ in range(200):
        expected.update(block)
    assert digest.digest() == expected.digest()


def test_stdin_of_every_kind(vimto: Vimto) -> None:
    data = os.urandom(10_000_000)
    whole = vimto("exec", "sha256sum", input=data).check()
    assert whole.text.split()[0] == hashlib.sha256(data).hexdigest()
    assert vimto("exec", "cat", input=b"").check().stdout == b""
    assert vimto("exec", "readlink", "/proc/self/fd/0").check().text == "/dev/null\n"
    # A command that takes a line of much input leaves the rest where it is.
    assert vimto("exec", "head", "-n", "1", input=b"one\n" * 1_000_000).check().text == "one\n"
    file = vimto.directory / "in"
    file.write_bytes(data)
    with file.open("rb") as opened:
        assert vimto("exec", "sha256sum", stdin=opened).check().stdout == whole.stdout


def test_closed_streams_stay_closed(vimto: Vimto) -> None:
    def run(redirections: str, script: str) -> int:
        argv = ["sh", "-c", f'exec "$@" {redirections}', "sh", vimto.program, *vimto.flags]
        done = subprocess.run(
            [*argv, "exec", "sh", "-c", script],
            cwd=vimto.directory,
            env=vimto.environment(),
            timeout=LIMIT,
            check=False,
        )
        return done.returncode

    # Each open stream adds its bit.
    count = (
        "n=8; for fd in 0 1 2; do [ -e /proc/self/fd/$fd ] && n=$((n + (1 << fd))); done; exit $n"
    )
    assert run("<&-", count) == 8 + 6
    assert run("<&- >&-", count) == 8 + 4
    assert run("<&- >&- 2>&-", count) == 8
    assert run(">&- 2>&-", count) == 8 + 1
    assert run("", "echo >&-; exit 9") == 9


def test_stdout_and_stderr_stay_apart_or_in_order(vimto: Vimto) -> None:
    script = "i=0; while [ $i -lt 300 ]; do echo $i; echo $i- >&2; i=$((i + 1)); done"
    apart = vimto.script(script).check()
    assert apart.stdout == b"".join(b"%d\n" % i for i in range(300))
    assert apart.stderr == b"".join(b"%d-\n" % i for i in range(300))
    together = vimto.script(script, stderr=subprocess.STDOUT).check()
    assert together.stdout == b"".join(b"%d\n%d-\n" % (i, i) for i in range(300))


def test_a_reader_that_goes_away_ends_the_command(vimto: Vimto) -> None:
    process = vimto.start("exec", "sh", "-c", "trap '' TERM; yes; echo $? >&2")
    assert process.stdout and process.stderr
    with process:
        assert process.stdout.read(4) == b"y\ny\n"
        process.stdout.close()
        assert b"141" in process.stderr.read()
    assert process.returncode == 0


def test_what_cannot_be_written_is_no_success(vimto: Vimto, module: Module) -> None:
    vimto("exec", "true").check()
    message = "error: cannot write to {}: {}, after {} bytes\n"
    full = message.format("stdout", "no space left on device", 0)
    # The command learns of it as of a reader that has gone, and its end is awaited.
    script = "trap '' PIPE; echo hello; sleep 1; echo again || echo told >&2"
    with open("/dev/full", "wb") as device:
        done = vimto.script(script, stdout=device).check(125)
        assert done.errors.endswith("told\n" + full)
        done = vimto("-forward", "0=127.0.0.1:9", "exec", "echo", stdout=device).check(125)
        assert done.errors.endswith(full)
        vimto("exec", "true", stdout=device).check(0)
        module.test("a_test.go", 'func TestA(t *testing.T) { println("x") }')
        # go looks at no error of its own writing; here the test binary has its stdout.
        assert vimto.go("-v", stdout=device).check(1).errors.endswith(full)
        with sit_at(vimto, "exec", "sh", "-c", "echo seen; echo x >&2", stderr=device) as person:
            person.expect("seen")
            assert person.end() == 125
    limit = (1 << 16, 1 << 16)
    with (vimto.directory / "out").open("wb") as file:
        done = vimto.script(
            "yes | head -c 1000000",
            stdout=file,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
        ).check(125)
    assert done.errors == message.format("stdout", "file too large", 1 << 16)
    assert (vimto.directory / "out").read_bytes() == b"y\n" * (1 << 15)


def test_a_reader_that_never_reads_does_not_hold_up_the_end(vimto: Vimto) -> None:
    process = vimto.start("exec", "sh", "-c", "echo up >&2; exec yes")
    assert process.stderr
    with process:
        assert process.stderr.readline() == b"up\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 128 + signal.SIGTERM
        vimto.wait_gone()
        process.stderr.close()


def test_a_slow_reader_gets_everything(vimto: Vimto) -> None:
    process = vimto.start("exec", "sh", "-c", "seq 300000; echo said >&2")
    assert process.stdout and process.stderr
    with process:
        # Stdout is over its window by then; stderr is not held up by it.
        first = process.stdout.read(1)
        rest: list[bytes] = []
        reader = threading.Thread(target=lambda: rest.append(process.stdout.read()))  # type: ignore[union-attr]
        reader.start()
        reader.join()
        assert process.stderr.read() == b"said\n"
    assert first + rest[0] == b"".join(b"%d\n" % i for i in range(1, 300_001))


def test_a_grandchild_that_keeps_the_pipe_does_not_hold_up_the_end(vimto: Vimto) -> None:
    outcome = vimto.script("(trap '' HUP TERM; sleep 1000000) & echo parent; exit 5").check(5)
    assert outcome.text == "parent\n"


def test_one_descriptor_for_all_as_a_terminal_program_has_it(vimto: Vimto, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("ab") as file:
        vimto.script("echo a; echo b >&2; echo c", stdout=file, stderr=file).check()
    assert path.read_text() == "a\nb\nc\n"
