"""Processes: what they inherit, what comes back, and that they die with us."""

import contextlib
import errno
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vimto.errors import CommandError
from vimto.process import proc, spawn


def test_run_returns_bytes_and_status(tmp_path: Path) -> None:
    done = proc.run(
        ["sh", "-c", 'cat; echo "$A" >&2; pwd; exit 3'],
        env={"A": "x\ny", "PATH": os.environ["PATH"]},
        cwd=tmp_path,
        input=b"in\xff\n",
        check=False,
    )
    assert done.stdout == b"in\xff\n" + os.fsencode(tmp_path) + b"\n"
    assert (done.stderr, done.status) == (b"x\ny\n", 3)
    assert proc.run(["sh", "-c", "kill -9 $$"], check=False).status == 137
    assert proc.run(["readlink", "/proc/self/fd/0"]).text == "/dev/null"
    assert proc.run(["printf", "%s", "a b'\"$x\n"]).stdout == b"a b'\"$x\n"


def test_run_explains_failures() -> None:
    with pytest.raises(CommandError, match="failed with status 3") as caught:
        proc.run(["sh", "-c", "seq 20 >&2; exit 3"])
    assert caught.value.lines == tuple(str(n) for n in range(11, 21))
    with pytest.raises(CommandError, match="no-such-program"):
        proc.run(["no-such-program"])


def our_children() -> set[str]:
    """The processes that are ours to reap, ended or not (proc(5), task/TID/children)."""
    lists = Path("/proc/self/task").glob("*/children")
    return {pid for file in lists for pid in file.read_text().split()}


@pytest.mark.parametrize(
    ("argv", "cwd", "reason"),
    [
        (["true"], "/nonexistent", "No such file or directory: '/nonexistent'"),
        (["echo", "a\0b"], None, "embedded null byte"),
        (["echo", "x" * (1 << 20)], None, "Argument list too long"),
    ],
)
def test_what_cannot_be_started_is_explained(argv: list[str], cwd: str | None, reason: str) -> None:
    for start in (proc.run, proc.foreground):
        before = our_children()
        with pytest.raises(CommandError, match=f"`{argv[0]}` cannot be started: {reason}"):
            start(argv, cwd=cwd)
        assert our_children() <= before  # none is left; those of other tests are theirs


def test_a_child_that_sh_has_reaped_itself_is_not_waited_for() -> None:
    """sh 2.4 leaves one that could not start, others need not; and another may run for hours."""
    code = (
        "import subprocess\nfrom vimto.process import proc\nproc._reap_failed()\n"
        "child = subprocess.Popen(['sleep', '1000'])\nproc._reap_failed()\n"
        "print(child.poll())\nchild.kill()\nchild.wait()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("None\n", "")


def test_a_grandchild_does_not_outlast_the_limit() -> None:
    with pytest.raises(CommandError, match="has not ended within"):
        proc.run(["sh", "-c", "sleep 20 & sleep 20"], limit=0.1)


def test_run_has_a_limit_or_says_what_it_waits_for(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CommandError, match="`sleep 1000` has not ended within"):
        proc.run(["sleep", "1000"], limit=0.1)
    monkeypatch.setattr(proc, "_SAID_AFTER", 0.1)
    assert proc.run(["sh", "-c", "sleep 1; echo done", "x"], limit=None).text == "done"
    assert capfd.readouterr().err == "vimto: waiting for `sh -c 'sleep 1; echo done' …`\n"
    monkeypatch.undo()
    proc.run(["true"], limit=None)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_can_be_interrupted(number: signal.Signals) -> None:
    code = (
        "from vimto.vm.signals import end_by_exception\nend_by_exception()\n"
        "try: print('up', flush=True); proc.run(['sleep', '1000'], limit=None)\n"
        "except BaseException as exc: print(type(exc).__name__, flush=True)\nimport os; os._exit(0)"
    )
    with in_a_process(code) as process:
        assert process.stdout and process.stdout.readline() == b"up\n"
        process.send_signal(number)
        assert process.stdout.read() in (b"KeyboardInterrupt\n", b"Interrupted\n")


def in_a_process(code: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", f"from vimto.process import proc, spawn\nimport sys\n{code}"],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
    )


@contextmanager
def on_a_terminal(code: str) -> "Iterator[tuple[subprocess.Popen[bytes], int]]":
    """Run `code` as the leader of a session with a terminal; yields that one's other end."""
    master, slave = os.openpty()
    program = (
        "from vimto.process import proc\nimport fcntl, sys, termios\n"
        f"fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n{code}"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    ) as process:
        os.close(slave)
        yield process, master
    with contextlib.suppress(OSError):
        os.close(master)


def read_until(master: int, word: bytes) -> bytes:
    """Return what appears up to `word`."""
    shown = b""
    while not shown.endswith(word):
        shown += os.read(master, 1)
    return shown


def test_which_finds_what_a_shell_would_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, mode in (("one/tool", 0o644), ("two/tool", 0o755), ("three/tool", 0o755)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(mode)
    (tmp_path / "two/directory").mkdir()
    path = ":".join(str(tmp_path / name) for name in ("none", "one", "two", "three"))
    monkeypatch.setenv("PATH", path)
    for program in ("tool", "directory", "absent", str(tmp_path / "three/tool"), "/absent"):
        assert spawn.which(program) == shutil.which(program), program
    assert spawn.which("tool") == str(tmp_path / "two/tool")


def test_foreground_has_our_streams_and_returns_the_status() -> None:
    code = "sys.exit(proc.foreground(['sh', '-c', 'read x; echo got $x; exit 4']))"
    with in_a_process(code) as process:
        stdout, _ = process.communicate(b"line\n")
    assert (stdout, process.returncode) == (b"got line\n", 4)
    with in_a_process("sys.exit(proc.foreground(['sh', '-c', 'kill -TERM $$']))") as process:
        process.communicate()
    assert process.returncode == 128 + 15


CAUGHT = """
import signal, sys, time
seen = []
for number in (1, 2, 3, 15):
    signal.signal(number, lambda number, _: seen.append(number))
print("up", flush=True)
while not seen:
    time.sleep(0.01)
time.sleep(0.3)  # a second one would come, too
print(*seen, flush=True)
sys.exit(9)
"""
ENDING = [signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", ENDING)
def test_foreground_passes_on_what_was_sent_to_us_alone(number: signal.Signals) -> None:
    with in_a_process(f"sys.exit(proc.foreground([sys.executable, '-c', {CAUGHT!r}]))") as process:
        assert process.stdout and process.stdout.readline() == b"up\n"
        process.send_signal(number)
        assert process.stdout.read() == f"{int(number)}\n".encode()
    assert process.returncode == 9


@pytest.mark.parametrize(("key", "echo", "number"), [("\x03", "^C", 2), ("\x1c", "^\\", 3)])
def test_a_terminal_s_keys_reach_the_child_once(key: str, echo: str, number: int) -> None:
    code = f"sys.exit(proc.foreground([sys.executable, '-c', {CAUGHT!r}]))"
    with on_a_terminal(code) as (process, master):
        read_until(master, b"up\r\n")
        os.write(master, key.encode())
        assert read_until(master, b"\r\n") == f"{echo}{number}\r\n".encode()
        assert process.wait() == 9


@pytest.mark.parametrize("leads", [True, False])
def test_a_terminal_that_hangs_up_reaches_the_child_once(leads: bool, tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = CAUGHT.replace("print(*seen, flush=True)", f"open({str(log)!r}, 'w').write(str(seen))")
    code = f"sys.exit(proc.foreground([sys.executable, '-c', {script!r}]))"
    if not leads:  # a shell does, which has no jobs
        code = f"import os; pid = os.fork()\nif pid: os.waitpid(pid, 0)\nelse: {code}"
    with on_a_terminal(code) as (process, master):
        read_until(master, b"up\r\n")
        os.close(master)
        process.wait()
        for _ in range(500):
            if log.exists() and log.read_text():
                break
            time.sleep(0.01)
    assert log.read_text() == "[1]"


def test_the_child_has_signals_that_are_not_blocked() -> None:
    script = "grep -E ^Sig[BI] /proc/self/status"
    with in_a_process(f"sys.exit(proc.foreground(['sh', '-c', {script!r}]))") as process:
        assert process.stdout
        shown = process.stdout.read().split()
    assert int(shown[1], 16) == 0 and int(shown[3], 16) & 0b100_0000_0000_0111 == 0


def test_no_signal_of_the_child_s_time_comes_afterwards() -> None:
    code = (
        "import os\nseen = []\nfor _ in range(300):\n"
        "    with proc.Relay((1, 2), seen.append): os.kill(os.getpid(), 2)\n"
        "print(len(seen))"
    )
    with in_a_process(code) as process:
        assert process.stdout and process.stdout.read() == b"300\n"


def test_our_signals_are_our_own_again() -> None:
    code = (
        "import os, signal\nproc.foreground(['true'])\nassert not signal.pthread_sigmask(0, [])\n"
        "try: os.kill(os.getpid(), 2); signal.pause()\nexcept KeyboardInterrupt: print('ours')"
    )
    with in_a_process(code) as process:
        assert process.stdout and process.stdout.read() == b"ours\n"


def test_the_child_can_be_interrupted_and_we_see_its_end() -> None:
    # Ctrl-C goes to the whole group; we must outlive the child to report its status.
    script = "trap 'exit 7' INT; echo up; while :; do sleep 0.05; done"
    code = f"sys.exit(proc.foreground(['sh', '-c', {script!r}]))"
    argv = [sys.executable, "-c", f"from vimto.process import proc, spawn\nimport sys\n{code}"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout and process.stdout.readline() == b"up\n"
        os.killpg(process.pid, signal.SIGINT)
        process.stdout.read()
    assert process.returncode == 7


def test_what_we_start_dies_with_us() -> None:
    for start in ("proc.foreground(argv)", "spawn.spawn(argv, log=1); sys.stdin.read()"):
        code = f"argv = ['sh', '-c', 'echo $$; exec sleep 1000']\n{start}"
        with in_a_process(code) as process:
            assert process.stdout
            child = int(process.stdout.readline())
            fd = os.pidfd_open(child)
            process.kill()
            assert select.select([fd], [], [], 10)[0], f"{start} outlived its parent"
            os.close(fd)


def test_a_child_is_asked_to_end_and_then_killed() -> None:
    script = "trap 'exit 7' TERM; {} echo up; while :; do sleep 0.05; done"
    for trap, status in (("", 7), ("trap '' TERM;", -9)):
        read, write = os.pipe()
        pid = spawn.spawn(["sh", "-c", script.format(trap)], log=write)
        assert os.read(read, 10) == b"up\n"
        ended = spawn.end(pid, signal.SIGTERM, limit=1.0)
        assert ended is not None and os.waitstatus_to_exitcode(ended) == status
        os.close(read)
        os.close(write)


def test_a_child_that_cannot_be_killed_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["sleep", "1000"]) as process:
        monkeypatch.setattr(os, "kill", lambda _pid, _number: None)
        assert spawn.end(process.pid, limit=0.05) is None
        monkeypatch.undo()
        process.kill()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EPERM, errno.ENOSYS])
def test_a_child_ends_where_its_end_cannot_be_watched(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(_pid: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    read, write = os.pipe()
    script = "trap '' TERM; echo up; while :; do sleep 0.05; done"
    pid = spawn.spawn(["sh", "-c", script], log=write)
    assert os.read(read, 10) == b"up\n"
    os.close(read)
    os.close(write)
    assert spawn.wait_end(pid, 0.05) is None
    ended = spawn.end(pid, signal.SIGTERM, limit=0.1)
    assert ended is not None and os.waitstatus_to_exitcode(ended) == -signal.SIGKILL


def test_spawn_inherits_what_is_said_and_no_more(tmp_path: Path) -> None:
    read, write = os.pipe()
    other = os.open("/", os.O_RDONLY)
    os.set_inheritable(other, False)
    log = tmp_path / "log"
    with log.open("wb") as file:
        pid = spawn.spawn(
            ["sh", "-c", "ls /proc/self/fd; echo err >&2; readlink /proc/$$/fd/0"],
            log=file.fileno(),
            keep=[write],
        )
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    names = log.read_text().split()
    assert str(write) in names and str(other) not in names and str(read) not in names
    assert names[-2:] == ["err", "/dev/null"]
    assert not os.get_inheritable(write)
    for fd in (read, write, other):
        os.close(fd)


def test_spawn_of_nothing_is_said_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        pid = spawn.spawn(["/no/such/program"], log=file.fileno())
        os.waitpid(pid, 0)
    assert "/no/such/program" in log.read_text()


def test_arguments_need_not_be_text() -> None:
    word = os.fsdecode(b"a\xff\xc3\xa4")
    assert proc.run(["printf", "%s", word]).stdout == b"a\xff\xc3\xa4"
    with in_a_process(f"sys.exit(proc.foreground(['printf', '%s', {word!r}]))") as process:
        assert process.stdout and process.stdout.read() == b"a\xff\xc3\xa4"
    assert process.returncode == 0


def test_without_setpriv_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawn, "SETPRIV", "/nonexistent/setpriv")
    for start in (
        lambda: proc.run(["true"]),
        lambda: proc.foreground(["true"]),
        lambda: proc.spawn_on_terminal(["true"], (0, 1, 2)),
        lambda: spawn.spawn(["true"], log=2),
    ):
        with pytest.raises(CommandError, match="there is no `/nonexistent/setpriv`") as caught:
            start()
        assert "util-linux" in caught.value.hint
