"""Our descriptors as the command's."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vimto.errors import StreamError
from vimto.vm import streams
from vimto.vm.protocol import Exit
from vimto.vm.run import check_streams
from vimto.vm.streams import Input, Output, describe


def test_describe(tmp_path: Path) -> None:
    with open(os.devnull, "rb") as null, open(tmp_path / "f", "wb") as file:
        assert describe(null.fileno()) == "null"
        assert describe(file.fileno()) == "pipe"
        number = file.fileno()
    assert describe(number) == "closed"


def test_a_closed_stream_is_held_and_still_closed() -> None:
    # In a process of its own: pytest needs its descriptors.
    program = (
        "import os\n"
        "from vimto.descriptors import hold_closed\n"
        "from vimto.vm.streams import describe_all\n"
        "hold_closed()\n"
        "assert os.pipe()[0] > 2\n"
        "assert describe_all() == {'stdin': 'closed', 'stdout': 'pipe', 'stderr': 'closed'}\n"
        "print('fine')\n"
    )
    shell = ["sh", "-c", '"$@" <&- 2>&-', "sh", sys.executable, "-c", program]
    assert subprocess.run(shell, stdout=subprocess.PIPE, check=True).stdout == b"fine\n"


def test_the_description_of_others_stays_blocking() -> None:
    read, write = os.pipe()
    output = Output(1, write)
    assert os.get_blocking(write)
    assert not os.get_blocking(output.fd)
    output.close()
    os.close(read)
    os.close(write)


def test_what_does_not_fit_waits() -> None:
    read, write = os.pipe()
    output = Output(1, write)
    output.put(bytes(1 << 20))
    first = output.write_some()
    assert 0 < first < 1 << 20
    assert output.pending
    total = first
    while output.pending:
        os.read(read, 1 << 16)
        total += output.write_some()
    assert total == 1 << 20
    output.close()
    os.close(read)
    os.close(write)


def test_a_descriptor_that_cannot_be_reopened_gets_small_writes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "_reopen", lambda _fd: -1)
    read, write = os.pipe()
    output = Output(1, write)
    output.put(bytes(10_000))
    assert output.write_some() == 4096
    os.close(read)
    os.close(write)


def test_a_full_disk_breaks_the_stream() -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        output = Output(1, full.fileno())
        output.verify()
        output.put(b"x")
        assert output.write_some() == 0
        assert output.broken
        output.put(b"more")
        assert not output.pending
        with pytest.raises(StreamError, match="stdout: no space left on device, after 0 bytes"):
            output.verify()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_what_was_written_before_a_failure_is_counted(
    number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    room = [3, 2]

    def write(_fd: int, data: memoryview) -> int:
        if not room:
            raise OSError(number, "no")
        return min(room.pop(0), len(data))

    with open(tmp_path / "f", "wb") as file:
        output = Output(2, file.fileno())
        output.put(b"0123456789")
        monkeypatch.setattr(os, "write", write)
        assert output.write_some() == 5
        with pytest.raises(StreamError, match=r"write to stderr: .*, after 5 bytes") as caught:
            output.verify()
    assert caught.value.errno == number and caught.value.status == 125


def test_a_reader_that_has_gone_is_no_failure() -> None:
    read, write = os.pipe()
    os.close(read)
    output = Output(1, write)
    output.put(b"x")
    output.write_some()
    assert output.broken
    output.verify()
    output.close()
    os.close(write)


def test_what_only_the_closing_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(_fd: int) -> int:
        raise OSError(errno.EDQUOT, "no")

    with open(tmp_path / "f", "wb") as file:
        output = Output(1, file.fileno())
        output.put(b"abc")
        output.write_some()
        output.verify()
        monkeypatch.setattr(os, "dup", refuse)
        with pytest.raises(StreamError, match="quota exceeded, after 3 bytes"):
            output.verify()


def test_a_hung_up_terminal_is_no_failure_of_its_own() -> None:
    class Failed(Output):
        def verify(self) -> None:
            raise StreamError("stdout", errno.EIO, 0)

    output = Failed(1, 1)
    check_streams(Exit(129, signal.SIGHUP), [output])
    for result in (Exit(0), Exit(143, signal.SIGTERM)):
        with pytest.raises(StreamError):
            check_streams(result, [output])
    output.close()


def test_input_that_cannot_be_read_is_no_end_of_file(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    stdin = Input(fd)
    stdin.verify()
    assert stdin.read_some()[5:] == b""
    assert stdin.ended
    with pytest.raises(StreamError, match="cannot read from stdin: is a directory"):
        stdin.verify()
    os.close(fd)


def test_input_ends_once() -> None:
    read, write = os.pipe()
    os.write(write, b"abc")
    os.close(write)
    stdin = Input(read)
    assert stdin.read_some().endswith(b"abc")
    assert stdin.wanted
    assert stdin.read_some()[5:] == b""
    assert not stdin.wanted
    os.close(read)


# A shell in small: its job begins in the background, and is brought to the foreground later.
JOB = """
import fcntl, os, signal, sys, termios, time
from vimto.vm.protocol import FrameReader
from vimto.vm.streams import Input

fcntl.ioctl(0, termios.TIOCSCTTY, 0)
reading, writing = os.pipe()
if job := os.fork():
    os.setpgid(job, job)
    assert os.read(reading, 1) == b"b"
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    os.tcsetpgrp(0, job)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(job, os.WUNTRACED)[1]))
while os.getpgrp() != os.getpid():
    time.sleep(0.001)
stdin = Input(0)
assert not stdin.wanted and stdin.wake_at > time.monotonic()
assert stdin.read_some() == b"" and not stdin.ended  # had we been asked to, all the same
os.write(writing, b"b")
while not stdin.wanted:
    time.sleep(0.001)
assert not stdin.wake_at
assert FrameReader().feed(stdin.read_some()) == [(4, b"typed\\n")]
os._exit(0)
"""


def test_a_terminal_is_not_read_in_the_background() -> None:
    master, slave = os.openpty()
    os.write(master, b"typed\n")
    with subprocess.Popen(
        [sys.executable, "-c", JOB], stdin=slave, start_new_session=True, stderr=subprocess.PIPE
    ) as process:
        os.close(slave)
        errors = process.communicate(timeout=60)[1].decode()
    os.close(master)
    assert process.returncode == 0, errors
