"""A QEMU and all that belongs to it; a script plays it."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from vimto.cache.snapshots import Snapshot
from vimto.errors import CommandError
from vimto.plan.plan import Plan, Shape
from vimto.process import spawn
from vimto.qemu import process
from vimto.qemu.backends import Directory
from vimto.qemu.options import INCOMING, Flag, Option
from vimto.qemu.process import ALWAYS, Qemu, drop_ahead, load_ahead, take
from vimto.qemu.virtiofsd import Server
from vimto.vm.machine import restore

SIZE = Option("m", "64M")


@pytest.fixture
def qemu(tmp_path: Path) -> str:
    """Writes its pid and its words into a file, and into another what it reads then; and waits."""
    script = tmp_path / "qemu"
    script.write_text(
        '#!/bin/sh\necho $$ "$@" >>"$0.words"\nfor last; do :; done\n'
        'case $last in /proc/self/fd/*) cat "$last" >"$0.config" ;; esac\nexec sleep 1000\n'
    )
    script.chmod(0o755)
    return str(script)


@pytest.fixture(autouse=True)
def leaks_nothing() -> Iterator[None]:
    # Of the children, those of other tests: sh leaves one behind that it could not start.
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = sorted(os.listdir("/proc/self/fd")), children.read_text()
    yield
    after = sorted(os.listdir("/proc/self/fd")), children.read_text()
    assert after == before  # none that runs, and none that is to be reaped


def read(path: str, lines: int = 1) -> str:
    for _ in range(500):
        if os.path.exists(path) and (text := Path(path).read_text()).count("\n") >= lines:
            return text
        time.sleep(0.01)
    return ""


def test_it_loads_and_then_becomes_a_machine(qemu: str) -> None:
    with Qemu(qemu) as found:
        found.load()
        number, _, words = read(qemu + ".words").partition(" ")
        assert words.startswith(f"{' '.join(ALWAYS)} -incoming defer -readconfig /proc/self/fd/")
        assert read(qemu + ".config", lines=0) == ""
        found.become([SIZE, INCOMING])
        assert found.pid == int(number)
        config = read(qemu + ".config", lines=12)
        assert config.startswith('[chardev "console"]\n')
        assert f'  path = "/proc/self/fd/{found.console}"\n' in config
        assert config.endswith('[memory]\n  size = "64M"\n')
        assert not found.wait(0)


@pytest.mark.parametrize(
    "options",
    [
        [SIZE],
        [SIZE, INCOMING, Flag("S")],
        [INCOMING, Option("fsdev", "local", {"path": '/a"b'}, id="x")],
    ],
)
def test_one_that_cannot_be_told_starts_anew(qemu: str, options: list[Option | Flag]) -> None:
    with Qemu(qemu) as found:
        found.load()
        first = int(read(qemu + ".words").split()[0])
        found.become(options)
        assert not os.path.exists(f"/proc/{first}")
        number, _, words = read(qemu + ".words", lines=2).splitlines()[1].partition(" ")
        assert int(number) == found.pid != first
        assert words.startswith(" ".join(ALWAYS) + " -chardev file,id=console,path=/proc/self/fd/")
    assert not os.path.exists(f"/proc/{found.pid}")


def test_descriptors_are_given_to_a_new_one(qemu: str) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    with Qemu(qemu) as found:
        found.load()
        first = found.pid
        found.become([INCOMING], [null])
        assert found.pid != first and read(qemu + ".words")
        assert os.readlink(f"/proc/{found.pid}/fd/{null}") == os.devnull
    os.close(null)


def test_one_that_has_ended_is_for_its_port_to_tell() -> None:
    with Qemu("/nonexistent/qemu") as found:
        found.load()
        assert os.read(found.port, 1) == b""
        found.become([INCOMING])
        assert found.wait(20) and found.status is not None
        assert os.waitstatus_to_exitcode(found.status) != 0
        assert found.wait(0)


def test_nothing_is_left_where_no_process_can_be(
    qemu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spawn, "SETPRIV", "/nonexistent")
    with pytest.raises(CommandError):
        Qemu(qemu).load()
    with pytest.raises(CommandError), Qemu(qemu) as found:
        found.become([SIZE])


# -- its servers

SERVER = """#!{python} -IS
import socket, sys
listening = socket.socket(fileno=int(sys.argv[1].removeprefix("--fd=")))
open(sys.argv[0] + ".words", "a").write(" ".join(sys.argv[2:]) + "\\n")
listening.accept()[0].recv(1)
"""


@pytest.fixture
def server(tmp_path: Path) -> Server:
    path = tmp_path / "virtiofsd"
    path.write_text(SERVER.format(python=sys.executable))
    path.chmod(0o755)
    return Server(str(path), is_rust=True)


def test_its_servers_end_with_it(qemu: str, server: Server) -> None:
    shares = {"a": Directory("/x,readonly=on", readonly=False), "b": Directory("/z")}
    with Qemu(qemu) as found:
        options = found.serve(server, shares)
        assert [option.id for option in options] == ["a", "b"]
        found.become([SIZE, *options])
        assert sorted(read(server.path + ".words", lines=2).splitlines()) == [
            "--shared-dir=/x,readonly=on --sandbox=none",
            "--shared-dir=/z --sandbox=none --readonly",
        ]
        for option in options:
            name = os.readlink(f"/proc/{found.pid}/fd/{option.values['fd']}")
            assert name.startswith("socket:")


@pytest.mark.parametrize("failing", ["server", "qemu"])
def test_no_server_is_left_where_a_start_fails(
    failing: str, qemu: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They and five descriptors were, once."""
    started = []

    def spawn_some(argv: list[str], **how: object) -> int:
        if argv[0] == qemu or (failing == "server" and started):
            raise CommandError("no more processes")
        started.append(spawn.spawn(argv, **how))  # type: ignore[arg-type]
        return started[-1]

    monkeypatch.setattr("vimto.qemu.virtiofsd.spawn", spawn_some)
    monkeypatch.setattr(process, "spawn", spawn_some)
    with pytest.raises(CommandError), Qemu(qemu) as found:
        found.become(found.serve(server, {"a": Directory("/x"), "b": Directory("/y")}))
    assert len(started) == (1 if failing == "server" else 2)


# -- the one that loads for whoever needs it


def test_whoever_is_first_takes_the_one_that_loads(qemu: str) -> None:
    load_ahead(qemu)
    load_ahead(qemu)
    with take(qemu) as found, take(qemu) as other:
        assert found.pid > 0 and other.pid < 0
        assert len(read(qemu + ".words").splitlines()) == 1
    drop_ahead()


def test_one_of_another_program_is_ended(qemu: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.symlink_to(qemu)
    load_ahead(qemu)
    with take(str(other)) as found:
        assert found.pid < 0
    load_ahead(qemu)
    load_ahead(str(other))
    drop_ahead()
    drop_ahead()


def test_a_machine_that_cannot_be_told_what_to_restore_is_ended(qemu: str, tmp_path: Path) -> None:
    plan = SimpleNamespace(
        qemu=qemu,
        snapshots=str(tmp_path),
        smp=1,
        accelerator="tcg",
        memory=64,
        virtiofsd=None,
        drives=[],
        cards=[],
    )
    lost = SimpleNamespace(ram=str(tmp_path / "ram"), state=-1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        restore(cast(Plan, plan), Shape([], [], "key"), {}, cast(Snapshot, lost))
