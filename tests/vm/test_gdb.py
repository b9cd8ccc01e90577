"""`vimto gdb-kernel` with the real gdb, on Debian's kernels."""

import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.conftest import need
from tests.vm.conftest import NEWEST, OLDEST, STABLE, Module, Outcome, Vimto
from tests.vm.test_failures import machines
from vimto.config import load_config
from vimto.kernel import packages
from vimto.kernel.reference import AptKernel, parse_kernel

SYSCALL = """
func TestGroup(t *testing.T) {
	if _, err := syscall.Getpgid(1); err != nil {
		t.Fatal(err)
	}
	if os.Getenv("MODULE") != "" {
		if out, err := exec.Command("modprobe", os.Getenv("MODULE")).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
}
"""


@pytest.fixture(autouse=True)
def _gdb() -> None:
    need("gdb")


def need_debug(kernel: str) -> None:
    """Skip where the debug package, 1 GB, was not fetched; `hack/test` fetches it."""
    if not have_debug(kernel):
        pytest.skip(f"no debug information of {kernel}: hack/kernels debug debug-newest")


def have_debug(kernel: str) -> bool:
    cache = load_config({}, os.environ, "/").cache_dir
    reference = parse_kernel(kernel, directories=[Path("/")])
    assert isinstance(reference, AptKernel)
    found = packages.find_package(reference, cache=cache, fresh=1e9)
    name = found.directory.name.replace("_", "-dbg_", 1) if found else "-"
    return (cache / "apt" / name).is_dir()


def script(vimto: Vimto, *words: str, lines: str, env: dict[str, str] | None = None) -> Outcome:
    """Run `vimto gdb-kernel -batch FILE WORDS`, FILE holding `lines`."""
    file = vimto.directory / "script.gdb"
    file.write_text(lines)
    return vimto("gdb-kernel", "-batch", str(file), *words, env=env)


def write_syscall_test(module: Module, name: str = "m_test.go") -> None:
    module.test(name, SYSCALL, "os", "os/exec", "syscall")


@pytest.mark.parametrize("kernel", [STABLE, NEWEST])
def test_breakpoints_arguments_lines_and_modules(vimto: Vimto, module: Module, kernel: str) -> None:
    need_debug(kernel)
    write_syscall_test(module)
    vimto.flags = ("-kernel", kernel, "-sudo")
    outcome = script(
        vimto,
        *("-break", "__do_sys_getpgid", "-break", "dummy_init_module"),
        *(".", "-run", "TestGroup", "-v"),
        lines="""
continue
printf "argument %d\\n", pid
info line *$pc
backtrace 4
info address v9fs_file_open
info line v9fs_file_open
set $first = jiffies
watch jiffies if jiffies > $first + 2
continue
printf "waited %d\\n", jiffies - $first
delete 3
continue
backtrace 1
delete
continue
printf "after the end\\n"
""",
        env={"MODULE": "dummy"},
    ).check()
    text = outcome.text
    assert "holds `m.test` before it starts" in text
    assert "argument 1" in text
    assert re.search(r'Line \d+ of "kernel/sys.c" starts at address', text)
    assert re.search(r"#3 .* do_syscall_64|do_syscall_x64", text)
    assert re.search(r'Symbol "v9fs_file_open" is a function at address 0xffffffffc0', text)
    assert "Line" in text and 'of "fs/9p/vfs_file.c" starts at address' in text, "of a module"
    waited = re.search(r"waited (\d+)", text)
    assert waited and int(waited[1]) >= 3
    later = r"#0 +(0x[0-9a-f]+ in )?(dummy_init_module|init_module) \(\) at drivers/net/dummy.c:"
    assert re.search(later, text), "a module that was loaded later"
    assert "vimto: the command has ended, status 0: passed\nafter the end\n" in text
    assert text.endswith("PASS\n") and "--- PASS: TestGroup" in text
    assert "Remote connection closed" not in outcome.errors


def test_a_command_s_status_with_names_alone(vimto: Vimto) -> None:
    # What is for gdb cannot be changed from inside, nor a link be put in its place.
    victim = vimto.directory / "victim"
    # (They are in /tmp where the name of a socket in the temporary directory would be too long.)
    plant = f"""sh -c 'n=0; for top in {vimto.temporary} /tmp; do
        for run in $top/vimto-gdb-*/0; do
            [ -d $run/guest ] || continue
            n=1; for name in symbols start.gdb start.json output result; do
                ln -s {victim} $run/$name; ln -s {victim} $run/guest/$name
            done
        done
    done; [ $n = 1 ]'"""
    # (A kernel whose debug information no test fetches.)
    vimto.flags = ("-kernel", OLDEST, "-smp", "1", "-setup", plant)
    outcome = script(
        vimto,
        *("-break", "__x64_sys_setpgid", "exec", "setsid", "-w", "sh", "-mc", "/bin/true; exit 3"),
        lines="info threads\ninfo address v9fs_file_open\ncontinue\nbt 2\ndelete\ncontinue\n",
    ).check(3)
    assert len(re.findall(r"^[* ] +\d+ +Thread", outcome.text, re.M)) == 1
    assert re.search(r'"v9fs_file_open" is at 0xffffffffc0', outcome.text)
    assert re.search(r"#0 .* in __x64_sys_setpgid \(\)", outcome.text)
    assert "status 3" in outcome.text
    assert "names of functions only" in outcome.errors and "-fetch-debug" in outcome.errors
    assert not victim.exists()


def test_a_module_without_debug_information(vimto: Vimto, module: Module) -> None:
    write_syscall_test(module)
    vimto.flags = ("-kernel", OLDEST, "-sudo")
    outcome = script(
        vimto,
        *("-break", "dummy_init_module", "-break", "nowhere_at_all", ".", "-run", "TestGroup"),
        lines="continue\nbt 1\ncontinue\n",
        env={"MODULE": "dummy"},
    ).check()
    assert re.search(r"#0 .*(dummy_init_module|init_module) \(\)", outcome.text)
    assert "`nowhere_at_all` was never set" in outcome.text
    assert "`dummy_init_module` was never" not in outcome.text
    assert outcome.text.endswith("PASS\n")


def test_from_the_first_instruction(vimto: Vimto) -> None:
    need_debug(STABLE)
    outcome = script(
        vimto,
        *("-from-boot", "-break", "start_kernel", "exec", "echo", "up"),
        lines="info registers rip\ncontinue\nbt 1\ninfo threads\ndelete\ncontinue\n",
    ).check()
    assert re.search(r"rip +0xfff0", outcome.text)
    assert re.search(r"#0 +start_kernel \(\) at init/main.c:\d+", outcome.text)
    assert outcome.text.endswith("up\n")


def test_breakpoints_in_the_test_binary(vimto: Vimto, module: Module) -> None:
    write_syscall_test(module)
    outcome = script(
        vimto,
        *("-go-symbols", "-break", "example.org/m.TestGroup", "-break", "m_test.go:12", "."),
        lines="continue\nbt 2\ninfo args\ncontinue\ninfo line *$pc\ncontinue\n",
    ).check()
    assert "\nt = 0x" in outcome.text, "built without optimisation"
    assert re.search(
        r"#0 +example.org/m.TestGroup .*m_test.go:11\n#1 .*testing.tRunner", outcome.text
    )
    assert 'Line 12 of "' in outcome.text
    assert "passed" in outcome.text


def test_packages_one_after_the_other_and_two_sessions_at_once(
    vimto: Vimto, module: Module
) -> None:
    for name in ("a", "b"):
        module.test(f"{name}/{name}_test.go", f'func Test(t *testing.T) {{ println("in {name}") }}')
    module.write("none/none.go", "package none\n")
    flags = ("gdb-kernel", "./...", "--", "-batch", "-ex", "continue")
    both = [vimto.start(*flags), vimto.start(*flags)]
    for process in both:
        stdout, stderr = process.communicate(timeout=240)
        assert process.returncode == 0, stderr.decode()
        assert stdout.decode().count("vimto: the command has ended, status 0: passed") == 2
        assert stdout.index(b"in a\n") < stdout.index(b"`b.test`") < stdout.index(b"in b\n")


def test_a_failed_test_and_one_that_does_not_compile(vimto: Vimto, module: Module) -> None:
    path = module.test("m_test.go", 'func Test(t *testing.T) { t.Error("no") }')
    outcome = script(vimto, ".", lines="continue\n").check(1)
    assert "status 1\n" in outcome.text and "--- FAIL: Test" in outcome.text
    path.write_text(path.read_text().replace('"no"', "no"))
    outcome = vimto("gdb-kernel", ".").check(125)
    assert "undefined: no" in outcome.errors and "cannot be built" in outcome.errors
    outcome = vimto("gdb-kernel", "./nowhere").check(125)
    assert "nowhere" in outcome.errors


def test_a_panic_shows_where(vimto: Vimto) -> None:
    vimto.flags = (*vimto.flags, "-sudo")
    command = "echo c > /proc/sysrq-trigger"
    outcome = script(vimto, "exec", "sh", "-c", command, lines="continue\n").check(125)
    assert "vimto: kernel panic" in outcome.text
    assert re.search(r"#0 .*panic ", outcome.text)
    assert "kernel panic" in outcome.errors and "not a failure of the test" in outcome.errors


def test_no_result_is_no_success(vimto: Vimto) -> None:
    for lines in ("", "kill\n"):
        outcome = script(vimto, "exec", "true", lines=lines).check(125)
        assert "gdb ended" in outcome.errors and "no result" in outcome.errors


def test_after_detach_the_command_goes_on(vimto: Vimto) -> None:
    outcome = script(vimto, "exec", "sh", "-c", "echo on; exit 4", lines="detach\n").check(4)
    assert "the command goes on without it" in outcome.text
    assert "the machine ended" not in outcome.text
    assert outcome.text.endswith("on\n")


def test_leaving_gdb_in_mid_session_does_not_crash_it(vimto: Vimto) -> None:
    flags = ("gdb-kernel", "exec", "true", "--", "-ex", "break do_exit", "-ex", "continue")
    outcome = vimto(*flags, "-ex", "quit").check(125)
    assert "gdb ended before the command" in outcome.errors
    for text in (outcome.text, outcome.errors):
        assert "Fatal signal" not in text and "internal-error" not in text
        assert "the machine ended before" not in text


def test_the_wrong_vmlinux_is_refused(vimto: Vimto, tmp_path: Path) -> None:
    outcome = script(vimto, "-vmlinux", "/bin/true", "exec", "true", lines="").check(125)
    assert "not of the kernel that runs" in outcome.errors
    assert "build-id of the kernel" in outcome.errors
    outcome = vimto("gdb-kernel", "-vmlinux", "/etc/passwd", "exec", "true").check(125)
    assert "not an ELF file" in outcome.errors


def test_no_gdb_and_one_without_python(vimto: Vimto, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    outcome = vimto("gdb-kernel", "exec", "true", env={"PATH": str(tools)}).check(125)
    assert "`gdb` is not installed" in outcome.errors and "-listen" in outcome.errors
    fake = tools / "gdb"
    fake.write_text("#!/bin/sh\necho 'Scripting in the Python language is not supported.' >&2\n")
    fake.chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    outcome = vimto("gdb-kernel", "exec", "true", env={"PATH": path}).check(125)
    assert "no Python" in outcome.errors and "gdb-minimal" in outcome.errors


@pytest.mark.parametrize("words", ["exec", "listen"])
def test_a_gdb_of_the_user_s_own(vimto: Vimto, words: str) -> None:
    if words == "exec":
        process = vimto.start("-gdb", "exec", "sh", "-c", "echo on; exit 4")
    else:
        listen = ("gdb-kernel", "-listen", "127.0.0.1:0")
        process = vimto.start(*listen, "exec", "sh", "-c", "echo on; exit 4")
    assert process.stderr
    for line in process.stderr:
        found = re.search(r"waits for gdb: gdb .*'(target remote .*)'", line.decode())
        assert not (found and "127.0.0.1:0" in found[1]), "the port that it got"
        if found:
            break
    else:
        pytest.fail("it did not say how to connect")
    talk = ["gdb", "-nx", "-batch", "-ex", found[1], "-ex", "detach"]
    subprocess.run(talk, check=True, capture_output=True, timeout=60)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (4, b"on\n"), stderr


def test_an_address_that_is_taken(vimto: Vimto) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        kernel = ("-kernel", "apt:no-such-kernel")  # nothing is fetched, nothing starts
        outcome = vimto(*kernel, "gdb-kernel", "-listen", address, "exec", "true").check(125)
        assert f"cannot listen at {address}: address already in use" in outcome.errors
        flags = (*kernel, "-forward", f"{address}=80")
        outcome = vimto(*flags, "gdb-kernel", "exec", "true").check(125)
        assert f"cannot listen at {address}" in outcome.errors


def test_what_the_line_to_connect_names(vimto: Vimto, tmp_path: Path) -> None:
    vimto.flags = ("-kernel", OLDEST)
    line = connect_line(vimto, "-gdb", "exec", "true")
    assert line.startswith("gdb -ex 'target remote "), "no file where none is known"
    vmlinux = tmp_path / "vmlinux"
    shutil.copy("/bin/true", vmlinux)
    line = connect_line(vimto, "-gdb", "-vmlinux", str(vmlinux), "exec", "true")
    assert line.startswith(f"gdb {vmlinux} -ex 'target remote ")


def connect_line(vimto: Vimto, *words: str) -> str:
    """Return how vimto says that a gdb is to connect; then end vimto."""
    with vimto.start(*words) as process:
        assert process.stderr
        for line in process.stderr:
            if found := re.search(r"waits for gdb: (.*)", line.decode()):
                process.terminate()
                return found[1]
    pytest.fail("it did not say how to connect")


def test_connections_into_the_machine(vimto: Vimto, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = "import socket; s = socket.create_server(('127.0.0.1', 80)); s.accept()[0].send(b'hi')"
    flags = ("-sudo", "-forward", f"{path}=127.0.0.1:80")
    command = ("gdb-kernel", "exec", shutil.which("python3") or "", "-c", server)
    with vimto.start(*flags, *command, "--", "-batch", "-ex", "continue") as process:
        answer = b""
        while not answer:
            assert process.poll() is None, process.communicate()
            answer = ask(path)
        _, stderr = process.communicate(timeout=120)
    assert answer == b"hi" and process.returncode == 0, stderr


def ask(path: Path) -> bytes:
    """Return what a server behind the socket `path` says, nothing where none is there yet."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
            return client.recv(10)
        except OSError:
            time.sleep(0.1)
            return b""


def test_as_another_user(vimto: Vimto, module: Module) -> None:
    body = """
func TestUser(t *testing.T) {
	self, err := os.Executable()
	if err == nil {
		_, err = os.ReadFile(self)
	}
	t.Log(os.Getuid(), err)
}"""
    module.test("m_test.go", body, "os")
    vimto.flags = ("-kernel", STABLE, "-user", "nobody")
    assert "65534 <nil>" in vimto.go("-v", ".").check().text
    outcome = vimto("gdb-kernel", ".", "-v", "--", "-batch", "-ex", "continue").check()
    assert "65534 <nil>" in outcome.text
    need("dlv")
    dlv = shutil.which("dlv")
    assert dlv
    # `nobody` must be allowed to run it, and may not where it lies in somebody's home directory.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        os.chmod(place, 0o755)
        shutil.copy(dlv, place)
        env = {"PATH": f"{place}:{os.environ['PATH']}"}
        flags = ("dlv", "test", ".", "--allow-non-terminal-interactive=true")
        outcome = vimto(*flags, "--", "-test.v", input=b"continue\nquit\n", env=env).check()
    assert "65534 <nil>" in outcome.text


class Terminal:
    """vimto on a terminal of its own, and what it wrote there."""

    def __init__(self, vimto: Vimto, *words: str) -> None:
        self.text = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(vimto.directory)
            environment = vimto.environment({"TERM": "dumb"})
            environment.pop("TMUX", None)
            os.execve(vimto.program, [vimto.program, *vimto.flags, *words], environment)

    def expect(self, pattern: str, limit: float = 120.0) -> None:
        """Read until `pattern` comes; what is before it is forgotten."""
        deadline = time.monotonic() + limit
        while not (found := re.search(pattern, self.text)):
            left = deadline - time.monotonic()
            assert left > 0 and select.select([self.fd], [], [], left)[0], self.text
            try:
                self.text += os.read(self.fd, 65536).decode(errors="replace")
            except OSError:
                pytest.fail(f"it ended before {pattern!r} came\n{self.text}")
        self.text = self.text[found.end() :]

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def end(self) -> tuple[int, str]:
        """Return the status and the rest of the output."""
        while True:
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                break
            if not data:
                break
            self.text += data.decode(errors="replace")
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]), self.text


def wait_for_file(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_on_a_terminal_ctrl_c_stops_the_kernel(vimto: Vimto) -> None:
    command = "touch up; until [ -e go ]; do sleep 0.1; done; echo done; exit 6"
    terminal = Terminal(vimto, "gdb-kernel", "exec", "sh", "-c", command)
    terminal.expect(r"the output goes to \S+")
    terminal.expect(r"\(gdb\) ")
    terminal.type("continue\n")
    terminal.expect("Continuing")
    wait_for_file(vimto.directory / "up")
    terminal.type("\x03")
    terminal.expect(r"received signal SIGINT(.|\n)*\(gdb\) ")
    (vimto.directory / "go").touch()
    terminal.type("continue\n")
    status, text = terminal.end()
    assert status == 6, text
    assert "vimto: the command has ended, status 6" in text
    assert text.replace("\r", "").endswith("done\n")


def test_quitting_early_ends_the_machine(vimto: Vimto) -> None:
    terminal = Terminal(vimto, "gdb-kernel", "exec", "true")
    terminal.expect(r"\(gdb\) ")
    terminal.type("quit\n")
    status, text = terminal.end()
    assert status == 125
    assert "there is no result" in text


def test_the_machine_is_lost_under_gdb(vimto: Vimto) -> None:
    terminal = Terminal(vimto, "gdb-kernel", "exec", "sh", "-c", "touch up; sleep 100")
    terminal.expect(r"\(gdb\) ")
    terminal.type("continue\n")
    wait_for_file(vimto.directory / "up")
    (machine,) = machines(vimto)
    os.kill(machine, signal.SIGKILL)
    status, text = terminal.end()
    assert status == 125, text
    assert "the machine ended before the command reported its status" in text


def test_sigterm_ends_gdb_and_the_machine(vimto: Vimto) -> None:
    terminal = Terminal(vimto, "gdb-kernel", "exec", "sleep", "100")
    terminal.expect(r"\(gdb\) ")
    os.kill(terminal.pid, signal.SIGTERM)
    status, text = terminal.end()
    assert status == 128 + signal.SIGTERM, text


def test_in_tmux_the_output_is_in_view(vimto: Vimto) -> None:
    need("tmux")
    directory = vimto.temporary / "tmux"
    directory.mkdir()
    tmux = ["tmux", "-S", str(directory / "socket"), "-f", "/dev/null"]
    command = f"{vimto.program} -kernel {STABLE} gdb-kernel exec echo in view"
    environment = vimto.environment({"TERM": "screen"})
    options = {"cwd": vimto.directory, "env": environment, "check": True, "timeout": 60}
    new = [*tmux, "new-session", "-d", "-x", "150", "-y", "50", command]
    subprocess.run(new, **options)  # type: ignore[call-overload]
    try:
        panes = wait_for_panes(tmux, lambda found: len(found) == 2 and "(gdb)" in found[0])
        subprocess.run([*tmux, "send-keys", "-t", ":.0", "continue", "Enter"], check=True)
        panes = wait_for_panes(tmux, lambda found: len(found) < 2 or "in view" in found[1])
        assert len(panes) < 2 or "in view" in panes[1]
    finally:
        subprocess.run([*tmux, "kill-server"], check=False, capture_output=True)
        vimto.wait_gone(20)
        shutil.rmtree(directory)


def wait_for_panes(tmux: list[str], done: "object") -> list[str]:
    """Return the panes' texts once `done` of them holds, or the session is over."""
    assert callable(done)
    deadline = time.monotonic() + 120
    while True:
        listed = subprocess.run(
            [*tmux, "list-panes", "-F", "#{pane_id}"], capture_output=True, text=True
        )
        panes = [
            subprocess.run(
                [*tmux, "capture-pane", "-p", "-t", pane], capture_output=True, text=True
            ).stdout
            for pane in listed.stdout.split()
        ]
        if not panes or done(panes):
            return panes
        assert time.monotonic() < deadline, panes
        time.sleep(0.1)
