"""Connections into a machine, and out of it."""

import hashlib
import os
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import need
from tests.vm.conftest import Vimto

# Echoes each connection until the client's half of it ends, then ends its own; runs until its
# stdin ends. With two words more it calls out instead.
SERVER = """package main

import (
	"fmt"
	"io"
	"net"
	"os"
)

type half interface{ CloseWrite() error }

func main() {
	if len(os.Args) > 3 {
		conn, err := net.Dial(os.Args[1], os.Args[2])
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Fprint(conn, os.Args[3])
		conn.Close()
		return
	}
	listener, err := net.Listen(os.Args[1], os.Args[2])
	if err != nil {
		panic(err)
	}
	fmt.Println("ready")
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				n, err := io.Copy(conn, conn)
				fmt.Println("echoed", n, err)
				conn.(half).CloseWrite()
			}()
		}
	}()
	io.Copy(io.Discard, os.Stdin)
}
"""
LARGE = 100 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("go")
    directory = tmp_path_factory.mktemp("server")
    (directory / "main.go").write_text(SERVER)
    words = ["go", "build", "-o", "server", "main.go"]
    subprocess.run(words, cwd=directory, env={**os.environ, "CGO_ENABLED": "0"}, check=True)
    return directory / "server"


class Running:
    """A vimto whose command is up, and the addresses that it printed."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"

    def end(self) -> tuple[str, str]:
        stdout, stderr = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, stderr
        return stdout.decode(), stderr.decode()


@pytest.fixture
def run(vimto: Vimto) -> Iterator[Callable[..., Running]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> Running:
        started.append(vimto.start(*words, stdin=subprocess.PIPE))
        return Running(started[-1])

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def echo(client: socket.socket, data: bytes) -> str:
    """Send `data`, end our half, and return the digest of all that comes back."""
    client.settimeout(120)

    def send() -> None:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    digest = hashlib.sha256()
    while chunk := client.recv(1 << 20):
        digest.update(chunk)
    sender.join()
    return digest.hexdigest()


def test_a_hundred_megabytes_each_way_beside_others(
    run: Callable[..., Running], server: Path
) -> None:
    port = free_port()
    running = run("-forward", f"{port}=8080", "exec", str(server), "tcp", "127.0.0.1:8080")
    data = hashlib.sha256(b"seed").digest() * (LARGE // 32)
    with (
        socket.create_connection(("127.0.0.1", port)) as idle,
        socket.create_connection(("127.0.0.1", port)) as large,
        socket.create_connection(("127.0.0.1", port)) as small,
    ):
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.append(echo(large, data)))
        thread.start()
        assert echo(small, b"hello") == hashlib.sha256(b"hello").hexdigest()
        thread.join()
        assert found == [hashlib.sha256(data).hexdigest()]
        assert echo(idle, b"") == hashlib.sha256().hexdigest()
    stdout, _ = running.end()
    assert f"echoed {LARGE} <nil>\n" in stdout


def test_sockets_with_paths_and_a_free_port(
    run: Callable[..., Running], server: Path, tmp_path: Path
) -> None:
    path = tmp_path / "here.sock"
    flags = ("-forward", f"{path}=/run/there.sock", "-forward", "127.0.0.1:0=/run/there.sock")
    running = run(*flags, "exec", str(server), "unix", "/run/there.sock")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        assert echo(client, b"hello") == hashlib.sha256(b"hello").hexdigest()
    stderr = running.process.stderr
    assert stderr is not None
    found = re.search(rb"connections to 127\.0\.0\.1:(\d+) go to /run/there", stderr.readline())
    assert found
    with socket.create_connection(("127.0.0.1", int(found[1]))) as client:
        assert echo(client, b"again") == hashlib.sha256(b"again").hexdigest()
    running.end()
    assert not path.exists()


def test_nobody_listens_in_the_machine(run: Callable[..., Running], server: Path) -> None:
    port = free_port()
    running = run("-forward", f"{port}=9", "exec", str(server), "tcp", "127.0.0.1:8080")
    with socket.create_connection(("127.0.0.1", port)) as client, pytest.raises(ConnectionError):
        client.recv(1)
        raise AssertionError("no reset")
    _, stderr = running.end()
    assert "warning: a connection to 127.0.0.1:9 in the machine failed: dial tcp" in stderr


def test_a_taken_port(vimto: Vimto) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = vimto("-forward", f"{port}=80", "exec", "true").check(125)
    assert f"error: cannot listen at 127.0.0.1:{port}: address already in use" in done.errors


def test_no_network_but_on_request(either: Vimto, server: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as waiting:
        waiting.settimeout(60)
        # QEMU's user networking has the host's loopback at this address.
        address = f"10.0.2.2:{waiting.getsockname()[1]}"
        done = either("exec", str(server), "tcp", address, "hello")
        assert "network is unreachable" in done.check(1).text
        either("-net", "user", "exec", str(server), "tcp", address, "hello").check()
        connection, _ = waiting.accept()
        with connection:
            assert connection.recv(10) == b"hello"
    done = either("-net", "user", "exec", "cat", "/etc/resolv.conf").check()
    assert done.text == "nameserver 10.0.2.3\n"
