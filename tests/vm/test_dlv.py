"""Delve in a machine: sessions at a terminal, clients on the host, and all that can go wrong."""

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need
from tests.vm.conftest import NEWEST, STABLE, Module, Vimto
from tests.vm.keyboard import Keyboard, find_machine, seat, sit_at

BODY = """func double(n int) int {
	m := n * 2
	return m
}

func TestDouble(t *testing.T) {
	for i := 20; i < 23; i++ {
		fmt.Println("doubled", double(i))
	}
}"""

# dlv reads the program's debug information through 9p, emulated.
pytestmark = pytest.mark.usefixtures("delve")


@pytest.fixture
def delve(vimto: Vimto) -> None:
    need("dlv", "go")
    vimto.variables = {"XDG_CONFIG_HOME": str(vimto.directory.parent / "config")}


@pytest.fixture
def package(module: Module) -> Module:
    module.test("pkg/m_test.go", BODY, "fmt")
    return module


WORDS = ("dlv", "test", "./pkg", "--", "-test.run", "TestDouble")


@pytest.mark.parametrize("kind", ["restored", "cold"])
def test_a_session_at_a_terminal(vimto: Vimto, package: Module, kind: str) -> None:
    # As whoever runs the tests: another user has a history of their own.
    vimto.flags = ("-kernel", STABLE)
    if kind == "cold":  # and under the other kernel
        vimto.flags = ("-kernel", NEWEST, "-no-snapshot")
    with sit_at(vimto, *WORDS) as person:
        for typed, shown in (
            ("break double", "Breakpoint 1 set at"),
            ("continue", "> [Breakpoint 1] example.org/m/pkg.double() ./pkg/m_test.go:8"),
            ("print n", "20"),
            ("goroutines", "Goroutine"),
            ("step", "./pkg/m_test.go:9"),
            ("restart", "Process restarted with PID"),
            ("clear 1", "Breakpoint 1 cleared"),
        ):
            ask(person, typed, shown)
        person.expect("(dlv) ")
        person.type("quit\r")
        assert person.end() == 0
    history = vimto.directory.parent / "config/dlv/.dbg_history"
    assert history.read_text().splitlines()[:2] == ["break double", "continue"]
    assert [path.name for path in package.root.rglob("*") if os.access(path, os.X_OK)] == ["pkg"]


def test_ctrl_c_stops_the_program(vimto: Vimto, module: Module) -> None:
    module.write("main.go", 'package main\n\nfunc main() {\n\tprintln("ready")\n\tfor {\n\t}\n}\n')
    with sit_at(vimto, "dlv", "debug") as person:
        person.expect("(dlv) ")
        person.type("continue\r")
        person.expect("ready")
        person.type("\x03")
        person.expect("received SIGINT, stopping process")
        person.expect("(dlv) ")
        person.type("\x04")
        assert person.end() == 0


class Server:
    """A `vimto dlv` that clients connect to."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        found = re.search(r"listening at: 127\.0\.0\.1:(\d+)$", line.strip())
        if not found:
            process.kill()
            pytest.fail(f"{line}\n{process.communicate()[1].decode()}")
        self.port = int(found[1])

    def end(self) -> tuple[int, str]:
        _, stderr = self.process.communicate(timeout=60)
        return self.process.returncode, stderr.decode()


@pytest.fixture
def serve(vimto: Vimto) -> Iterator[Callable[..., Server]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str, **options: object) -> Server:
        started.append(vimto.start("dlv", *words, **options))
        return Server(started[-1])

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@contextmanager
def connect(port: int) -> Iterator[Keyboard]:
    """Run the host's dlv as a client, at a terminal."""
    words = ["dlv", "connect", f"127.0.0.1:{port}"]
    with seat(lambda **settings: subprocess.Popen(words, **settings)) as person:
        yield person


def ask(person: Keyboard, typed: str, shown: str) -> None:
    person.expect("(dlv) ")
    person.type(typed + "\r")
    person.expect(shown)


HEADLESS = ("test", "./pkg", "--headless", "--listen=127.0.0.1:0")


def test_clients_come_and_go(package: Module, serve: Callable[..., Server]) -> None:
    server = serve(*HEADLESS, "--accept-multiclient", "--", "-test.run", "TestDouble")
    with connect(server.port) as person:
        ask(person, "break double", "Breakpoint 1 set")
        ask(person, "continue", "> [Breakpoint 1]")
        ask(person, "quit", "kill the headless instance?")
        person.type("n\r")
        assert person.end() == 0
    attach_as_documented(server.port)
    with connect(server.port) as person:
        ask(person, "print n", "20")
        ask(person, "quit", "kill the headless instance?")
        person.type("y\r")
        person.end()
    assert server.end()[0] == 0


def test_a_killed_client_ends_a_server_for_one(
    package: Module, serve: Callable[..., Server]
) -> None:
    server = serve(*HEADLESS)
    with connect(server.port) as person:
        person.expect("(dlv) ")
        person.process.kill()
        person.process.wait()
    assert server.end()[0] == 0


class Adapter:
    """A client of the debug adapter protocol."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 120)
        self._file = self._socket.makefile("rwb")
        self._number = 0

    def ask(self, command: str, **arguments: object) -> dict[str, Any]:
        """Send a request and return the response to it; events before it are dropped."""
        number = self.send(command, **arguments)
        return self.expect(lambda message: message.get("request_seq") == number)

    def send(self, command: str, **arguments: object) -> int:
        self._number += 1
        request = {"seq": self._number, "type": "request", "command": command}
        body = json.dumps(request | {"arguments": arguments}).encode()
        self._file.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self._file.flush()
        return self._number

    def event(self, name: str) -> dict[str, Any]:
        return self.expect(lambda message: message.get("event") == name)

    def expect(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while True:
            length = 0
            while line := self._file.readline().strip():
                length = int(line.split(b":")[1])
            assert length, "the server hung up"
            message: dict[str, Any] = json.loads(self._file.read(length))
            if wanted(message):
                return message

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def attach_as_documented(port: int) -> None:
    """Do what VS Code does with the `launch.json` in docs/debugging.md, and leave again."""
    text = (Path(__file__).parents[2] / "docs/debugging.md").read_text()
    settings = json.loads(text.partition("```json\n")[2].partition("```")[0])
    (configuration,) = settings["configurations"]
    client = Adapter(port)
    assert client.ask("initialize", adapterID="go")["success"]
    client.send(configuration["request"], **configuration)
    client.event("initialized")
    thread = client.ask("threads")["body"]["threads"][0]["id"]
    assert client.ask("stackTrace", threadId=thread)["success"]
    client.ask("disconnect", terminateDebuggee=False)
    client.close()


def test_a_debug_adapter_s_conversation(package: Module, serve: Callable[..., Server]) -> None:
    program = package.root / "x.test"
    words = ["go", "test", "-c", "-gcflags=all=-N -l", "-o", str(program), "./pkg"]
    subprocess.run(words, cwd=package.root, check=True)
    # As VS Code starts it, which looks for the address on stdout or on a pipe of its own.
    server = serve("dap", "--listen=127.0.0.1:0", "--log-dest=3")
    client = Adapter(server.port)
    assert client.ask("initialize", adapterID="go")["success"]
    client.send("launch", mode="exec", program=str(program), cwd=str(package.root / "pkg"))
    client.event("initialized")
    breakpoint = {"name": "example.org/m/pkg.double"}
    assert client.ask("setFunctionBreakpoints", breakpoints=[breakpoint])["success"]
    client.send("configurationDone")
    thread = client.event("stopped")["body"]["threadId"]
    frames = client.ask("stackTrace", threadId=thread)["body"]["stackFrames"]
    assert frames[0]["source"]["path"] == str(package.root / "pkg/m_test.go")
    scopes = client.ask("scopes", frameId=frames[0]["id"])["body"]["scopes"]
    reference = scopes[0]["variablesReference"]
    variables = client.ask("variables", variablesReference=reference)["body"]["variables"]
    assert {"name": "n", "value": "20"}.items() <= variables[0].items()
    client.ask("disconnect", terminateDebuggee=True)
    client.close()
    assert server.end()[0] == 0


def test_a_debug_adapter_that_calls_its_client(vimto: Vimto) -> None:
    with socket.create_server(("127.0.0.1", 0)) as waiting:
        port = waiting.getsockname()[1]
        process = vimto.start("dlv", "dap", f"--client-addr=127.0.0.1:{port}")
        waiting.settimeout(120)
        connection, _ = waiting.accept()
        client = Adapter.__new__(Adapter)
        client._socket, client._number = connection, 0
        client._file = connection.makefile("rwb")
        assert client.ask("initialize", adapterID="go")["success"]
        client.ask("disconnect")
        client.close()
        process.communicate(timeout=60)


def test_a_panic_at_a_breakpoint_is_no_result(vimto: Vimto, package: Module) -> None:
    with sit_at(vimto, "-sudo", *WORDS) as person:
        person.expect("(dlv) ")
        person.type("break double\r")
        person.expect("(dlv) ")
        person.type("continue\r")
        person.expect("> [Breakpoint 1]")
        os.kill(find_machine(vimto), signal.SIGKILL)
        assert person.end() == 125
        person.expect("this is not a failure of the test")


def test_the_client_of_a_machine_that_panics_ends(
    vimto: Vimto, package: Module, serve: Callable[..., Server]
) -> None:
    body = (
        'func TestPanic(t *testing.T) {\n\tos.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)\n}'
    )
    package.test("pkg/panic_test.go", body, "os")
    server = serve(*HEADLESS)
    with connect(server.port) as person:
        ask(person, "continue", "Command failed: unexpected EOF")
    status, errors = server.end()
    assert status == 125
    assert "kernel panic" in errors


def test_a_taken_port(vimto: Vimto) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = vimto("dlv", "dap", f"--listen=127.0.0.1:{port}")
    done.check(125)
    assert f"error: cannot listen at 127.0.0.1:{port}: address already in use" in done.errors
    assert "hint: another process has this port" in done.errors


def test_a_package_that_does_not_build(vimto: Vimto, module: Module) -> None:
    module.test("m_test.go", "func TestX(t *testing.T) { wrong }")
    done = vimto("dlv", "test")
    done.check(1)
    assert "undefined: wrong" in done.errors


def test_no_dlv(vimto: Vimto) -> None:
    vimto("dlv", "test", env={"PATH": "/usr/bin:/bin"}).check(125)


def test_dlv_s_own_complaint_reaches_the_user(vimto: Vimto, package: Module) -> None:
    """A dlv that is too old for the program's Go says so itself."""
    directory = package.root / "bin"
    fake = package.write("bin/dlv", "#!/bin/sh\necho 'Version of Go is too new' >&2\nexit 1\n")
    fake.chmod(0o755)
    done = vimto(*WORDS, env={"PATH": f"{directory}:{os.environ['PATH']}"})
    assert "Version of Go is too new" in done.check(1).errors
    fake.write_text("#!/bin/sh\nkill -9 $$\n")
    done = vimto(*WORDS, env={"PATH": f"{directory}:{os.environ['PATH']}"})
    assert "error: dlv was ended by SIGKILL in the machine" in done.check(137).errors


def test_ptrace_refused(vimto: Vimto, package: Module) -> None:
    script = "--allow-non-terminal-interactive"
    flags = ("-sysctl", "kernel.yama.ptrace_scope=3")
    done = vimto(*flags, "dlv", "test", script, "./pkg")
    assert "error: the machine's kernel refused dlv to trace the program" in done.check(1).errors
    assert "ptrace_scope" in done.errors


def test_trace(vimto: Vimto, package: Module) -> None:
    done = vimto("dlv", "trace", "--test", "./pkg", "pkg.double", "--", "-test.run=TestDouble")
    assert "pkg.double(20)" in done.check().errors
    assert "doubled 40" in done.text


def test_what_is_written_beside(vimto: Vimto, package: Module) -> None:
    """`--output`, `-r`, `--init`, build flags and a directory of one's own."""
    init = package.write("init.dlv", "break double\ncontinue\nprint n\nexit\n")
    package.test(
        "pkg/tagged_test.go", BODY.replace("ouble", "riple").replace("n * 2", "n * 3"), "fmt"
    )
    path = package.root / "pkg/tagged_test.go"
    path.write_text("//go:build extra\n\n" + path.read_text())
    words = ("--allow-non-terminal-interactive", "--build-flags=-tags=extra", "--output=own.test")
    place = package.root.parent / "elsewhere"
    place.mkdir()
    done = vimto(
        "dlv",
        "test",
        "./pkg",
        *words,
        f"--init={init}",
        f"--wd={place}",
        "-r",
        f"stdout:{place}/out",
        "--",
        "-test.run=Triple",
        env={"HOME": str(Path.home())},
    )
    done.check()
    assert not (package.root / "own.test").exists()
    assert (place / "out").exists()
    victim = place / "victim"
    (package.root / "own.test").symlink_to(victim)
    refused = vimto("dlv", "test", "./pkg", *words).check(125)
    assert "is there already, and not overwritten" in refused.errors
    assert (package.root / "own.test").is_symlink() and not victim.exists()


def test_a_core_is_looked_at_on_the_host(vimto: Vimto) -> None:
    vimto.flags = ("-kernel", "apt:no-such-kernel")
    flags = ("--allow-non-terminal-interactive=true",)
    outcome = vimto("dlv", "core", "/bin/true", "no-such-core", *flags)
    assert outcome.status == 1 and "no-such-core" in outcome.errors
    assert "no-such-kernel" not in outcome.errors, "no machine is wanted"
