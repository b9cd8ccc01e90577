"""`vimto gdb-kernel`: a test, or a command, runs in a machine whose kernel gdb holds.

options ─> packages ─> build ─┬─> plan (no KASLR) ─> machine, paused ─> gdb ─> status
                    symbols ──┘
"""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vimto import beneath, console, elf, quoting
from vimto.cache import entry
from vimto.commands.interactive import forwarding
from vimto.config import Config, find_repository
from vimto.descriptors import write_all
from vimto.errors import VIMTO_FAILED, CommandError, UsageError, VimtoError
from vimto.gdb import session, symbols
from vimto.gdb.inside import quote
from vimto.gdb.options import Options, parse_options
from vimto.gdb.program import check_gdb
from vimto.gdb.symbols import Symbols
from vimto.go.args import parse_go
from vimto.go.binary import build_test, list_test_packages, test_words
from vimto.go.tool import check_target, go_env, writable_roots
from vimto.kernel.reference import AptKernel
from vimto.plan.kernels import FoundKernel, locate_kernel
from vimto.plan.links import kept_links
from vimto.plan.plan import Plan
from vimto.plan.prepare import check_settings, prepare
from vimto.process import proc
from vimto.vm.forward import Forwarding
from vimto.vm.listeners import listening
from vimto.vm.request import Request
from vimto.vm.run import run

# The part of a run's private directory that the guest sees, and may write to: the test binary, and
# what the guest tells of its kernel. gdb, on the host, executes what is in the rest.
_SHARED = "guest"
# The most that /proc/kallsyms may hold; it has some 10 MB.
_LISTING_LIMIT = 256 << 20


@dataclass(frozen=True, kw_only=True)
class Program:
    """A command to run under gdb: its words, directory, writable directories, and a title."""

    words: tuple[str, ...]
    directory: str
    roots: tuple[str, ...]
    title: str


def run_gdb(config: Config, words: list[str]) -> int:
    """Run `vimto gdb-kernel WORDS` and return the status of the test or command."""
    options = parse_options(words)
    reference = check_settings(config)
    if options.words[:1] != ("exec",) and shutil.which("go") is None:
        raise UsageError(
            "`go` is not installed or not on PATH", hint="`gdb-kernel exec` runs other programs"
        )
    if options.batch and not os.path.isfile(options.batch):
        raise UsageError(f"`-batch {options.batch}`: there is no such file")
    vmlinux = _own_vmlinux(options.vmlinux or config.vmlinux)
    if not options.listen:
        check_gdb()
    config = without_kaslr(config)
    if options.from_boot:
        config = config._replace(snapshot=False)
    with contextlib.ExitStack() as stack:
        # An address that is taken ends vimto before a kernel is fetched or a test is built.
        with contextlib.ExitStack() as trial:
            if options.listen:
                trial.enter_context(listening(options.listen))
            trial.enter_context(forwarding(config))
        kernel = locate_kernel(config, reference, stack)
        found = _symbols(config, kernel, vmlinux, fetch=options.fetch_debug)
        if not options.listen:
            _make_index(config, found)
        base = stack.enter_context(_private_directory())
        status = 0
        for index, program in enumerate(_programs(config, options, Path(base))):
            directory = Path(base, str(index))
            Path(directory, _SHARED).mkdir(parents=True, exist_ok=True)
            result = _Run(config, options, program, found, directory).run()
            status = status or result
            if result == VIMTO_FAILED:
                break
    return status


@contextlib.contextmanager
def wait_for_gdb(config: Config) -> Iterator[tuple[Config, session.Stub]]:
    """Return what makes a machine wait for a gdb that somebody else starts: `vimto -gdb exec`.

    The configuration is `config` with a kernel for gdb; the stub's socket is there while the
    context lasts.
    """
    reference = check_settings(config)
    vmlinux = _own_vmlinux(config.vmlinux)
    config = without_kaslr(config)
    with contextlib.ExitStack() as stack:
        found = _find_symbols(config, locate_kernel(config, reference, stack), vmlinux)
        base = stack.enter_context(_private_directory())
        address = os.path.join(base, "gdb.sock")
        line = _connect_line(found, address)
        yield config, session.Listener(session.private_stub(address), line)


def _private_directory() -> tempfile.TemporaryDirectory[str]:
    # The path of a socket has 107 bytes at most, unix(7).
    place = tempfile.gettempdir()
    if len(os.fsencode(place)) > 70:
        place = "/tmp"
    return tempfile.TemporaryDirectory(prefix="vimto-gdb-", dir=place)


def _connect_line(found: Symbols, target: str) -> str:
    files = [os.fspath(found.vmlinux)] if found.vmlinux else []
    return quoting.show(["gdb", *files, "-ex", f"target remote {target}"])


def without_kaslr(config: Config) -> Config:
    """Return `config` with a kernel that stays at the addresses its symbols say."""
    return config._replace(kernel_args=(*config.kernel_args, "nokaslr"))


def _own_vmlinux(text: str) -> Path | None:
    """Return the file with symbols that the user has named; raises `KernelError` if it has none."""
    if not text:
        return None
    path = Path(text).absolute()
    symbols.check_vmlinux(path)
    return path


def _find_symbols(
    config: Config, kernel: FoundKernel, vmlinux: Path | None, *, fetch: bool = False
) -> Symbols:
    package = kernel.reference if isinstance(kernel.reference, AptKernel) else None
    found = symbols.find_symbols(
        kernel.place, cache=config.cache_dir, package=package, fetch=fetch and not vmlinux
    )
    return symbols.use_vmlinux(vmlinux, found) if vmlinux else found


def _symbols(config: Config, kernel: FoundKernel, vmlinux: Path | None, *, fetch: bool) -> Symbols:
    found = _find_symbols(config, kernel, vmlinux, fetch=fetch)
    if found.vmlinux is None:
        console.note("no debug information for this kernel: names of functions only")
        console.note(found.hint)
    return found


def _index_words(directory: Path) -> list[str]:
    """Return gdb's commands about its indexes of symbols, which it keeps there by build ID."""
    return [f"set index-cache directory {directory}", "set index-cache enabled on"]


def _make_index(config: Config, found: Symbols) -> None:
    """Let gdb index the symbols, unless it has done so before.

    Measured with Debian's 7.2 and gdb 13 on two busy processors: a session that makes the index
    itself takes over 100 s, for every module that it adds repeats a part; one that finds it 15 s.
    """
    vmlinux = found.vmlinux
    if not vmlinux or not found.build_id:
        return
    path = config.cache_dir / f"gdb-index/{found.build_id}.gdb-index"  # as gdb itself calls it

    def make() -> None:
        console.note(f"gdb indexes the symbols of Linux {found.release} (once)")
        with entry.new_file(path) as temporary:
            words = ["gdb", "-nx", "-batch"]
            for line in _index_words(temporary.parent):
                words += ["-iex", line]
            proc.run([*words, os.fspath(vmlinux)], check=False, limit=None)

    with contextlib.suppress(FileNotFoundError):  # a gdb that makes none does not need one
        entry.make_once(path, make, waiting="another vimto has gdb index these symbols")


def _programs(config: Config, options: Options, base: Path) -> Iterator[Program]:
    cwd = os.getcwd()
    if options.words[:1] == ("exec",):
        words = options.words[1:]
        words = words[1:] if words[:1] == ("--",) else words
        repository = find_repository(cwd)
        roots = tuple(root for root in (repository,) if root)
        yield Program(words=words, directory=cwd, roots=roots, title=words[0])
        return
    go = "go"
    command = parse_go([go, "test", *options.words])
    directory = command.directory(cwd)
    env = go_env(go, directory, os.environ)
    # Unoptimised, as Delve has it: of what is inlined or kept in a register gdb can say nothing.
    debugging = ["-gcflags=all=-N -l"] if options.go_symbols else []
    command = parse_go([go, "test", *debugging, *options.words], goflags=env.goflags)
    check_target(env)
    roots = tuple(writable_roots(go, directory, env, os.environ))
    for index, package in enumerate(list_test_packages(go, command, directory, os.environ)):
        # A directory of its own: the machine of the one before has written to that one's.
        into = Path(base, str(index), _SHARED)
        into.mkdir(parents=True)
        with kept_links(config, env, command.flags) as links:
            binary, status = build_test(go, command, package, into, directory, links)
        if status:
            raise CommandError(f"the tests of `{package.path}` cannot be built")
        yield Program(
            words=tuple(test_words(command, binary)),
            directory=package.directory,
            roots=roots,
            title=package.binary_name,
        )


def _unpacker() -> tuple[str, ...]:
    """Return the command that writes a compressed module to stdout, for whoever is not ours."""
    path = os.pathsep.join(sys.path)
    return ("env", f"PYTHONPATH={path}", sys.executable, "-m", "vimto.gdb.unpack")


class _Run:
    """One program in one machine with one gdb.

    `directory` is a private place for their files; what is in `shared` below it, the guest may have
    written.
    """

    def __init__(
        self, config: Config, options: Options, program: Program, found: Symbols, directory: Path
    ) -> None:
        self.config = config
        self.options = options
        self.program = program
        self.symbols = found
        self.directory = directory
        self.shared = directory / _SHARED
        self._connections: Forwarding | None = None

    def run(self) -> int:
        """Return the program's status; raises `VimtoError` without one."""
        shares = [(root, False) for root in (*self.program.roots, os.fspath(self.shared))]
        where = self.program.directory
        with (
            prepare(self.config, shares=shares, directory=where) as plan,
            forwarding(self.config) as connections,
        ):
            self._connections = connections
            plan = plan._replace(setup=[*plan.setup, self._look()])
            if self.options.from_boot:
                symbols.check_build(self.symbols, symbols.read_build_id(Path(plan.kernel)))
            if self.options.listen:
                return self._listen(plan)
            return self._debug(plan)

    def _look(self) -> list[str]:
        """Return the command that copies out of the guest what says which kernel it is."""
        names = ["/sys/kernel/notes"]
        if self.symbols.vmlinux is None:
            names += ["/proc/kallsyms", "/sys/kernel/btf/vmlinux"]
        script = 'for name; do cat "$name" >"$0/${name##*/}" 2>/dev/null; done; :'
        return ["sh", "-c", script, os.fspath(self.shared), *names]

    def _told(self, name: str) -> bytes:
        """Return what the guest has copied out of its /proc or /sys; nothing if it could not."""
        directory = beneath.open_directory(self.shared)
        try:
            return beneath.read_file(directory, name, _LISTING_LIMIT)
        except FileNotFoundError:
            return b""
        except OSError as exc:
            raise VimtoError(f"the guest's `{name}` cannot be read: {exc.strerror}") from exc
        finally:
            os.close(directory)

    def _listen(self, plan: Plan) -> int:
        assert self.options.listen
        with listening(self.options.listen) as (listener, address):
            stub = session.Listener(
                session.public_stub(listener),
                _connect_line(self.symbols, str(address)),
                from_boot=self.options.from_boot,
            )
            return run(plan, self._request(stub))

    def _request(self, stub: session.Stub) -> Request:
        return Request(
            list(self.program.words),
            self.program.directory,
            os.environb,
            forwarding=self._connections,
            companion=stub,
        )

    def _debug(self, plan: Plan) -> int:
        output = self.directory / "output"
        descriptor = os.open(output, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        address = self.directory / "gdb.sock"
        with self._shown(output), session.diverted(descriptor) as fds:
            settings = self._settings(address, output)
            stub = session.Gdb(
                session.private_stub(os.fspath(address)),
                lambda machine: self._gdb_words(replace(settings, machine=machine)),
                fds,
                settings,
                from_boot=self.options.from_boot,
            )
            with stub:
                try:
                    return run(plan, self._request(stub))
                except VimtoError as exc:
                    if any(session.KILLED_BY_GDB in line for line in exc.lines):
                        raise session.quit_early() from exc
                    raise
                finally:
                    os.close(descriptor)

    def _settings(self, address: Path, output: Path) -> session.GdbConfig:
        where = "before its first instruction" if self.options.from_boot else "before it starts"
        return session.GdbConfig(
            target=os.fspath(address),
            directory=os.fspath(self.directory),
            result=os.fspath(self.directory / "result"),
            modules=os.fspath(self.symbols.modules or ""),
            debug_modules=os.fspath(self.symbols.debug_modules or ""),
            unpack=_unpacker(),
            go=self.program.words[0] if self.options.go_symbols else "",
            breaks=self.options.breaks,
            greeting=(
                f"Linux {self.symbols.release} holds `{self.program.title}` {where}; "
                "`continue` lets it run",
                f"the output goes to {output}, and is shown at the end",
            ),
            debug=self.symbols.vmlinux is not None,
            hardware=self.options.from_boot,
            batch=self.options.is_batch,
        )

    def _gdb_words(self, settings: session.GdbConfig) -> list[str]:
        """Return gdb's command line, once the machine is there to be looked at."""
        vmlinux = self.symbols.vmlinux
        if not self.options.from_boot:
            running = elf.find_build_id(elf.parse_notes(self._told("notes")))
            symbols.check_build(self.symbols, running)
        listing = self._told("kallsyms") if vmlinux is None else b""
        if listing:
            vmlinux = self.directory / "symbols"
            modules = symbols.write_kallsyms(listing.decode("utf-8", "replace"), vmlinux)
            settings = replace(settings, listings=tuple(map(os.fspath, modules)))
            if types := self._told("vmlinux"):
                (self.directory / "vmlinux").write_bytes(types)
        script = self.directory / "start.gdb"
        session.write_script(settings, script)
        early = [
            "set debuginfod enabled off",
            "set confirm off",
            *_index_words(self.config.cache_dir / "gdb-index"),
        ]
        # The kernel's own scripts lie beside the file itself, not beside a link to it.
        if vmlinux and self._trusts_scripts(vmlinux.resolve()):
            early.append(f"add-auto-load-safe-path {vmlinux.resolve().parent}")
        early += [f"directory {quote(os.fspath(source))}" for source in self.symbols.sources]
        words = ["gdb", "-q", *(["-batch"] if self.options.is_batch else [])]
        for line in early:
            words += ["-iex", line]
        words += ["-x", os.fspath(script)]
        if self.options.batch:
            words += ["-x", self.options.batch]
        return [*words, *self.options.gdb_words, *([os.fspath(vmlinux)] if vmlinux else [])]

    def _trusts_scripts(self, vmlinux: Path) -> bool:
        """Say whether gdb may run what lies beside `vmlinux`, on the host, as its user.

        Not where the repository has chosen the kernel: then the scripts are its choice too.
        """
        if self.options.vmlinux or self.config.vmlinux or not self.config.foreign_kernel:
            return True
        script = vmlinux.with_name(f"{vmlinux.name}-gdb.py")
        if script.exists():
            console.note(f"not run, for the repository chose the kernel: {script}")
            console.note("`-kernel`, with the kernel's whole name, makes it your choice")
        return False

    @contextlib.contextmanager
    def _shown(self, output: Path) -> Iterator[None]:
        """Show the output beside gdb where there is tmux, and whole at the end."""
        interactive = not self.options.is_batch and os.isatty(0) and os.isatty(1)
        if interactive and os.environ.get("TMUX") and shutil.which("tmux"):
            tail = quoting.show(
                ["tail", "-n", "+1", "-F", f"--pid={os.getpid()}", os.fspath(output)]
            )
            proc.run(["tmux", "split-window", "-d", "-l", "30%", tail], check=False)
        try:
            yield
        finally:
            with contextlib.suppress(BrokenPipeError):
                write_all(1, output.read_bytes())
