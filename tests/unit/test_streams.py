"""Our descriptors as the command's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vimto.vm import streams
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
        output.put(b"x")
        assert output.write_some() == 0
        assert output.broken
        output.put(b"more")
        assert not output.pending


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
