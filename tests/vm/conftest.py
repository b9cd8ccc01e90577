"""Drives the installed `vimto` as a user does, in real machines.

Every run gets a mark in its environment, which QEMU inherits; after each test no process with a
mark, no temporary file and no half-made save may be left.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import need

# Debian's own kernels, oldest and newest; all have their drivers as modules.
OLDEST = "apt:linux-image-amd64/bullseye-security"
STABLE = "apt:linux-image-amd64"
NEWEST = "apt:linux-image-amd64/sid"
BUILTIN = Path(__file__).parents[3] / "shared/kernels/builtin-6.12/vmlinuz"

_MARK = "TEST_MARK"
_LIMIT = 240.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run left: status (negative for a signal) and output."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode()

    @property
    def errors(self) -> str:
        return self.stderr.decode(errors="replace")

    def check(self, status: int = 0) -> "Outcome":
        assert self.status == status, f"status {self.status}\n{self.text}\n{self.errors}"
        return self


@dataclass(kw_only=True)
class Vimto:
    """The installed command; `flags` come before every command line."""

    directory: Path
    program: str
    temporary: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    flags: tuple[str, ...] = ()
    user: int = 0
    variables: Mapping[str, str] = field(default_factory=dict)

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("VIMTO_", "PYTEST", "COV"))
        }
        if "VIMTO_CACHE_DIR" in os.environ:
            kept["VIMTO_CACHE_DIR"] = os.environ["VIMTO_CACHE_DIR"]
        kept |= {_MARK: self.mark, "TMPDIR": str(self.temporary)}
        return kept | dict(self.variables) | dict(extra or {})

    def start(
        self, *words: str | bytes, env: Mapping[str, str] | None = None, **options: object
    ) -> "subprocess.Popen[bytes]":
        """Start vimto with pipes, in a session of its own unless told otherwise."""
        settings: dict[str, object] = {
            "cwd": self.directory,
            "env": self.environment(env),
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        if self.user:
            settings |= {"user": self.user, "group": self.user, "extra_groups": [self.user + 1]}
        argv = [self.program, *self.flags, *words]
        return subprocess.Popen(argv, **(settings | options))  # type: ignore[call-overload]

    def __call__(
        self,
        *words: str | bytes,
        input: bytes | None = None,
        env: Mapping[str, str] | None = None,
        limit: float = _LIMIT,
        **options: object,
    ) -> Outcome:
        """Run vimto to its end."""
        if input is not None:
            options["stdin"] = subprocess.PIPE
        with self.start(*words, env=env, **options) as process:
            try:
                stdout, stderr = process.communicate(input, timeout=limit)
            except subprocess.TimeoutExpired:
                process.kill()
                stdout, stderr = process.communicate()
                pytest.fail(f"no end within {limit} s\n{stdout!r}\n{stderr.decode()}")
        return Outcome(status=process.returncode, stdout=stdout or b"", stderr=stderr or b"")

    def go(self, *words: str, **options: object) -> Outcome:
        """Run `vimto go test`."""
        return self("go", "test", *words, **options)  # type: ignore[arg-type]

    def script(self, text: str, **options: object) -> Outcome:
        """Run a shell script in a machine."""
        return self("exec", "--", "sh", "-c", text, **options)  # type: ignore[arg-type]

    def processes(self) -> list[str]:
        """Return the command lines of all living processes that carry the mark."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    if self.mark.encode() in (entry / "environ").read_bytes():
                        found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
                except OSError:
                    pass
        return found

    def wait_gone(self, limit: float = 5.0) -> None:
        """Wait until no process of this vimto is left."""
        deadline = time.monotonic() + limit
        while found := self.processes():
            assert time.monotonic() < deadline, f"still running: {found}"
            time.sleep(0.02)


@pytest.fixture
def vimto(tmp_path: Path) -> Iterator[Vimto]:
    """A vimto in an empty directory, under Debian's stable kernel; nothing may be left of it."""
    need("qemu-system-x86_64", "setpriv", "go")
    program = shutil.which("vimto", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program, "vimto is not installed"
    directory, temporary = tmp_path / "module", tmp_path / "tmp"
    directory.mkdir()
    temporary.mkdir()
    found = Vimto(
        directory=directory, program=program, temporary=temporary, flags=("-kernel", STABLE)
    )
    yield found
    found.wait_gone()
    assert sorted(path.name for path in temporary.iterdir()) == []


@pytest.fixture(params=["restored", "cold"])
def either(request: pytest.FixtureRequest, vimto: Vimto) -> Vimto:
    """The same vimto twice: with saves, and with every machine booted."""
    if request.param == "cold":
        vimto.flags = (*vimto.flags, "-no-snapshot")
    return vimto


@pytest.fixture
def module(vimto: Vimto) -> "Module":
    """A Go module in vimto's directory."""
    return Module(vimto.directory)


class Module:
    """A Go module to fill with files."""

    def __init__(self, root: Path, name: str = "example.org/m") -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        (root / "go.mod").write_text(f"module {name}\n\ngo 1.21\n")

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def test(self, name: str, body: str, *imports: str) -> Path:
        """Write a test file `name` with the functions in `body`."""
        package = path.name if (path := Path(name).parent).name else "m"
        lines = "".join(f'\t"{item}"\n' for item in ("testing", *imports))
        return self.write(name, f"package {package}\n\nimport (\n{lines})\n\n{body}\n")


def kill_group(process: "subprocess.Popen[bytes]", number: int = signal.SIGKILL) -> None:
    """Signal the process group of a process that was started with `start_new_session`."""
    os.killpg(process.pid, number)


def lines_of(data: bytes | Sequence[str]) -> list[str]:
    return data.decode().splitlines() if isinstance(data, bytes) else list(data)
