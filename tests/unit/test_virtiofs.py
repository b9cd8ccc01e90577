"""virtiofsd: which one, and how it is started and connected."""

import os
import socket
import sys
from pathlib import Path

import pytest

from vimto.errors import KernelError
from vimto.qemu import virtiofsd
from vimto.vm.virtiofs import start_servers


def make_daemon(path: Path, help_text: str) -> Path:
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{help_text}\nEND\n")
    path.chmod(0o755)
    return path


def test_the_server_in_rust_needs_no_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_daemon(tmp_path / "virtiofsd", "      --shared-dir <SHARED_DIR>")
    monkeypatch.setattr(virtiofsd, "PLACES", ("/nowhere/virtiofsd", str(path)))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    writable, readonly = virtiofsd.find_virtiofsd()
    assert writable == [str(path), "--fd=\0socket\0", "--shared-dir=\0path\0", "--sandbox=none"]
    assert readonly == [*writable, "--readonly"]


def test_the_server_in_c_is_for_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_daemon(tmp_path / "virtiofsd", "    -o source=PATH   shared directory tree")
    monkeypatch.setattr(virtiofsd, "PLACES", (str(path),))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    writable, readonly = virtiofsd.find_virtiofsd()
    assert writable[:2] == [str(path), "--fd=\0socket\0"]
    assert "source=\0option\0" in writable
    assert readonly[:2] == ["unshare", "--mount"] and readonly[-len(writable) :] == writable
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(KernelError, match="serves root only"):
        virtiofsd.find_virtiofsd()


def test_no_server_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtiofsd, "PLACES", ("/nowhere/virtiofsd",))
    with pytest.raises(KernelError, match="virtiofsd is not installed") as caught:
        virtiofsd.find_virtiofsd()
    assert "apt-get install virtiofsd" in caught.value.hint and "9p" in caught.value.hint


ECHO = """
import socket, sys
listening = socket.socket(fileno=int(sys.argv[1]))
connection, _ = listening.accept()
connection.sendall((sys.argv[2] + sys.argv[3]).encode() + b"\\n")
connection.recv(1)
"""


def test_servers_are_connected_and_end_with_their_connection(tmp_path: Path) -> None:
    line = [sys.executable, "-I", "-S", "-c", ECHO, "\0socket\0", "\0path\0\0option\0"]
    shares = {"a": ("/x,y", False), "b": ("/z", True)}
    with open(tmp_path / "log", "wb") as log:
        servers = start_servers([[*line, " rw"], [*line, " ro"]], shares, log.fileno())
    said = {}
    for tag, fd in servers.sockets.items():
        with socket.socket(fileno=os.dup(fd)) as end:
            said[tag] = end.makefile().readline()
    assert said == {"a": "/x,y/x\\,y rw\n", "b": "/z/z ro\n"}
    servers.close_sockets()
    for pid in servers.pids:
        assert os.waitpid(pid, 0)[1] == 0
