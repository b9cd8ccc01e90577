"""Drives the installed `vimto` as a user does, in real machines.

Every run gets a mark in its environment, which QEMU inherits; after each test no process with a
mark, no temporary file and no half-made save may be left.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from tests.conftest import need, without_own_config
from vimto.config import load_config
from vimto.kernel import apt, packages
from vimto.kernel.reference import AptKernel, parse_kernel
from vimto.plan.agent import source_directory

# Debian's own kernels, oldest and newest; all have their drivers as modules.
OLDEST = "apt:linux-image-amd64/bullseye-security"
STABLE = "apt:linux-image-amd64/bookworm-security"
NEWEST = "apt:linux-image-amd64/sid"

# Most tests do as root in the machine what only root may; whoever runs them.
IS_ROOT = os.geteuid() == 0
AS_ROOT = () if IS_ROOT else ("-sudo",)

_MARK = "TEST_MARK"
_LIMIT = 240.0


def unpacked(kernel: str) -> Path:
    """Return the directory of one of these packages, fetched if it is not there."""
    reference = parse_kernel(kernel, directories=[Path("/")])
    assert isinstance(reference, AptKernel)
    cache = load_config({}, os.environ, "/").cache_dir
    found = packages.find_package(reference, cache=cache) or apt.fetch_package(
        reference, cache=cache
    )
    return found.directory


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
        """What is on stderr, but for lines that tell of a busy host."""
        lines = self.stderr.decode(errors="replace").splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith("vimto: waiting: "))

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
    group: int = 0
    variables: Mapping[str, str] = field(default_factory=dict)

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("VIMTO_", "PYTEST", "COV"))
        }
        if "VIMTO_CACHE_DIR" in os.environ:
            kept["VIMTO_CACHE_DIR"] = os.environ["VIMTO_CACHE_DIR"]
        kept = without_own_config(kept, str(self.temporary.parent / "config"))
        kept |= {_MARK: self.mark, "TMPDIR": str(self.temporary)}
        return kept | dict(self.variables) | dict(extra or {})

    def person(self) -> dict[str, object]:
        """Return the options of `subprocess` that start a program as this vimto's user."""
        if self.user in (0, os.geteuid()):
            return {}
        return {"user": self.user, "group": self.group, "extra_groups": [self.group + 1]}

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
        argv = [self.program, *self.flags, *words]
        return subprocess.Popen(argv, **(settings | self.person() | options))  # type: ignore[call-overload]

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
        directory=directory,
        program=program,
        temporary=temporary,
        flags=("-kernel", STABLE, *AS_ROOT),
    )
    yield found
    found.wait_gone()
    assert sorted(path.name for path in temporary.iterdir()) == []


# A user that no host knows: what vimto needs must not come from /etc/passwd. Only root can be
# somebody else; other users of the tests are the unprivileged user themselves.
_STRANGER = 54321 if IS_ROOT else os.geteuid()
_STRANGERS = _STRANGER + 1 if IS_ROOT else os.getegid()


@pytest.fixture(scope="session")
def public() -> Iterator[Path]:
    """A directory of a stranger's, with all that it takes to run vimto: `bin/vimto`, `kernel`.

    The installed vimto, its interpreter, go and the cache may all lie where only root can look.
    """
    need("qemu-system-x86_64", "setpriv", "go")
    top = Path(tempfile.mkdtemp(prefix="vimto-test-", dir="/var/tmp"))
    top.chmod(0o755)
    try:
        cache = load_config({}, os.environ, "/").cache_dir
        release = NEWEST.rpartition("/")[2]
        reference = AptKernel(package="linux-image-amd64", release=release)
        found = packages.find_package(reference, cache=cache)
        if found is None:
            found = apt.fetch_package(reference, cache=cache)
        shutil.copytree(found.directory, top / "kernel", symlinks=True)
        install_copy(top, _public_python())
        _copy_go(top / "go")
        # Building the guest program with an empty build cache would take a minute.
        agents, memory = cache / "agent", top / "home/vimto/agent"
        shutil.copytree(agents, memory) if agents.is_dir() else memory.mkdir(parents=True)
        for path in (top, *top.rglob("*")):
            os.chown(path, _STRANGER, _STRANGERS, follow_symlinks=False)
        yield top
    finally:
        shutil.rmtree(top, ignore_errors=True)


def install_copy(top: Path, python: str) -> None:
    """Make `bin/vimto` in `top`, with all that it takes besides `python`, wherever `top` lies."""
    _copy_packages(top / "lib")
    launcher = top / "bin/vimto"
    launcher.parent.mkdir()
    launcher.write_text(
        f"#!{python}\nimport sys\nfrom pathlib import Path\n\n"
        "sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'lib'))\n"
        "from vimto.__main__ import main\n\nmain()\n"
    )
    launcher.chmod(0o755)


def _copy_packages(lib: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("vimto", "sh", "platformdirs", "colorama", "backports"):
        spec = PathFinder.find_spec(name)  # `sh`, once imported, has no spec any more
        if spec is None or (spec.origin is None and not spec.submodule_search_locations):
            continue
        if spec.submodule_search_locations:
            source = Path(next(iter(spec.submodule_search_locations)))
            shutil.copytree(source, lib / name, ignore=ignore)
        else:
            shutil.copy(str(spec.origin), lib)
    if not (lib / "vimto/_guest").exists():
        shutil.copytree(source_directory(), lib / "vimto/_guest", ignore=ignore)


def _copy_go(place: Path) -> None:
    """Copy go's tree to `place`, unless a stranger may run the one on PATH."""
    if not _may_run(["go", "version"]):
        root = subprocess.run(["go", "env", "GOROOT"], check=True, stdout=subprocess.PIPE).stdout
        shutil.copytree(os.fsdecode(root).strip(), place, symlinks=True)


def _may_run(words: Sequence[str]) -> bool:
    """Say whether the command succeeds when a stranger runs it."""
    who = {"user": _STRANGER, "group": _STRANGERS} if IS_ROOT else {}
    try:
        done = subprocess.run(words, cwd="/", capture_output=True, check=False, **who)  # type: ignore[call-overload]
    except OSError:
        return False
    return bool(done.returncode == 0)


def _public_python() -> str:
    own = os.path.realpath(sys.executable)
    for python in (own, "/usr/bin/python3"):
        probe = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        if _may_run(probe):
            return python
    pytest.skip(f"a stranger may not run `{own}`, and /usr/bin/python3 is too old")


@pytest.fixture
def stranger(public: Path) -> Iterator[Vimto]:
    """An unprivileged vimto in an empty directory; nothing may be left of it."""
    top = Path(tempfile.mkdtemp(dir=public))
    directory, temporary, home = top / "module", top / "tmp", public / "home"
    for path in (top, directory, temporary, home):
        path.mkdir(exist_ok=True)
        path.chmod(0o755)
        os.chown(path, _STRANGER, _STRANGERS)
    variables = {
        "HOME": str(home),
        "PATH": f"{os.environ['PATH']}:{public / 'go/bin'}",
        "GOCACHE": str(home / "go-build"),
        "GOFLAGS": "-buildvcs=false",
        "VIMTO_CACHE_DIR": str(home / "vimto"),
    }
    found = Vimto(
        directory=directory,
        program=str(public / "bin/vimto"),
        temporary=temporary,
        flags=("-kernel", str(public / "kernel")),
        user=_STRANGER,
        group=_STRANGERS,
        variables=variables,
    )
    yield found
    found.wait_gone()
    assert sorted(path.name for path in temporary.iterdir()) == []


@pytest.fixture(params=["root", "stranger"] if IS_ROOT else ["stranger"])
def anyone(request: pytest.FixtureRequest) -> Vimto:
    """The same vimto twice: as root under the stable kernel, and unprivileged under the newest.

    Where whoever runs the tests is not root, there is no vimto of root's to compare with the host.
    """
    found = request.getfixturevalue("vimto" if request.param == "root" else "stranger")
    assert isinstance(found, Vimto)
    return found


@pytest.fixture(params=["restored", "cold"])
def either(request: pytest.FixtureRequest, vimto: Vimto) -> Vimto:
    """The same vimto twice: with snapshots, and with every machine booted."""
    if request.param == "cold":
        vimto.flags = (*vimto.flags, "-no-snapshot")
    return vimto


@pytest.fixture
def cache(vimto: Vimto, tmp_path: Path) -> Path:
    """A cache with the kernels of the shared one, and no snapshots.

    Links lead to them: they are as good as what is there, and whoever removes gets no further.
    """
    shared = load_config({}, os.environ, os.sep).cache_dir
    vimto("exec", "true").check()  # whatever the kernel needs is in the shared cache now
    own = tmp_path / "cache"
    shutil.copytree(shared / "apt/index", own / "apt/index")
    for kind in ("agent", "apt", "initramfs", "vmlinux"):
        (own / kind).mkdir(exist_ok=True)
        for entry in (shared / kind).iterdir():
            if not entry.name.startswith(".") and entry.name not in ("index", "state"):
                (own / kind / entry.name).symlink_to(entry)
    vimto.variables = {**vimto.variables, "VIMTO_CACHE_DIR": str(own)}
    return own


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
