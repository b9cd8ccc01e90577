"""`vimto dlv`: Delve's own commands, with Delve and the program in a machine.

vimto dlv test PKG ── go test -c (on the host, while the kernel boots) ──> dlv exec (machine)
vimto dlv dap, --headless ── a listener on the host ──> the server in the machine
"""

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator

from vimto import beneath, console
from vimto.addresses import Address, parse_address
from vimto.commands.go import background_snapshot, share_plan
from vimto.commands.interactive import attended
from vimto.config import Config
from vimto.errors import UsageError, VimtoError
from vimto.go.args import parse_build_flags
from vimto.go.delve import DlvCommand, absolute, parse_dlv
from vimto.go.tool import GoEnv, check_target, go_env, writable_roots
from vimto.places import SYSTEM, follow, is_communal, is_in
from vimto.plan.links import kept_links
from vimto.plan.prepare import prepare
from vimto.plan.users import find_homes, find_user
from vimto.process import proc
from vimto.values import whole_number
from vimto.vm.forward import Forward
from vimto.vm.request import Request
from vimto.vm.run import run
from vimto.vm.streams import Output

# Those that need no machine: they ask dlv about itself, are the client of a server, or look at
# what a process has left.
_ON_HOST = (
    "core",
    "version",
    "help",
    "connect",
    "completion",
    "backend",
    "log",
    "redirect",
    "substitute-path-guess-helper",
)
_IN_MACHINE = ("test", "debug", "exec", "trace", "dap")
# How long a client waits for the server: dlv reads the program's debug information first.
_PATIENCE = 60.0
_SIGNALLED = 128
_REFUSED = b"operation not permitted"
_REMEMBERED = 4096
# dlv's own status when the program cannot be built.
_FAILED = 1


def run_dlv(config: Config, argv: list[str]) -> int:
    """Run dlv with the arguments `argv`, in a machine where it debugs, and return its status."""
    dlv = shutil.which("dlv")
    if dlv is None:
        raise UsageError(
            "`dlv` is not installed or not on PATH",
            hint="`go install github.com/go-delve/delve/cmd/dlv@latest` puts it into "
            "`$(go env GOPATH)/bin`",
        )
    if not argv or argv[0] in ("-h", "--help"):
        return proc.foreground([dlv, *argv])
    command = parse_dlv(argv)
    if command.verb in _ON_HOST or command.is_on("help") or command.is_on("h"):
        return proc.foreground([dlv, *argv])
    if command.verb not in _IN_MACHINE:
        raise UsageError(
            f"`dlv {command.verb}` makes no sense in a machine of its own",
            hint="`vimto dlv` knows " + ", ".join(f"`{verb}`" for verb in _IN_MACHINE),
        )
    return _Debugging(config, command, os.path.abspath(dlv)).run()


class _Debugging:
    """One dlv from its command line to its status."""

    def __init__(self, config: Config, command: DlvCommand, dlv: str) -> None:
        self._config = config
        self._command = command
        self._dlv = dlv
        self._cwd = os.getcwd()
        self._env: GoEnv | None = None  # where there is a go
        self._place: Callable[[str], None] | None = None  # puts the program where `--output` says

    def run(self) -> int:
        if self._command.builds and shutil.which("go") is None:
            raise UsageError("`go` is not installed or not on PATH", hint="dlv builds with it")
        with contextlib.ExitStack() as stack:
            request = stack.enter_context(attended(self._config, self._forwards()))
            self._serve(request)
            binary = stack.enter_context(self._output())
            plan = stack.enter_context(
                prepare(self._config, shares=self._shares(binary), shown=self._shown(binary))
            )
            if binary:
                with (
                    share_plan(plan) as shared,
                    background_snapshot(plan, shared, ["dlv"], self._cwd),
                ):
                    if not self._build(binary):
                        return _FAILED
            words = self._command.argv("dlv")
            console.debug(f"in the machine: {words}")
            ending = _Ending()
            status = run(plan, request._replace(argv=words, make_output=ending.carry))
        return _check_status(status, ending)

    # -- the server

    def _forwards(self) -> list[Forward]:
        """Return the connection to a server in the machine, which has the host's address."""
        command = self._command
        if not command.serves:
            return []
        caller = command.value("client-addr") if command.verb == "dap" else ""
        try:
            source = parse_address(caller or command.value("listen", "127.0.0.1:0"))
        except ValueError as exc:
            raise UsageError(f"`{caller or command.value('listen')}` {exc}") from None
        same_user = command.value("only-same-user", "true").lower() in ("1", "t", "true")
        return [
            Forward(
                source,
                Address(host="127.0.0.1", port=source.port),
                patience=_PATIENCE,
                private=same_user,
                dials=bool(caller),
            )
        ]

    def _serve(self, request: Request) -> None:
        """Let dlv listen in the machine where it says it does on the host."""
        if not self._command.serves or request.forwarding is None:
            return
        target = request.forwarding.forwards[-1].target
        self._command = self._command.serving(str(target))
        log = self._command.value("log-dest")
        if (whole_number(log) or 0) > 2:
            # VS Code gives dlv a pipe of its own, and looks for the server's address on stdout too.
            self._command = self._command.logging("1")

    # -- the program

    @contextlib.contextmanager
    def _output(self) -> Iterator[str]:
        """Return where the program is to be built, "" if nothing is; it is removed afterwards."""
        command = self._command
        if not command.builds:
            yield ""
        elif command.value("output"):
            path = absolute(command.value("output"), self._cwd)
            with contextlib.ExitStack() as stack:
                try:
                    self._place = stack.enter_context(beneath.passing(path))
                except OSError as exc:
                    raise _not_written(path, exc) from exc
                yield path
        else:
            with tempfile.TemporaryDirectory(prefix="vimto-dlv-") as directory:
                yield os.path.join(directory, self._program_name())

    def _program_name(self) -> str:
        # The name stands in `ps`, in core files' names and in the program's own messages.
        return "debug.test" if self._command.builds == "test" else "__debug_bin"

    def _build(self, binary: str) -> bool:
        """Build the program on the host, as dlv would, and let dlv execute it.

        False when go failed, which has said why.
        """
        command = self._command
        with contextlib.ExitStack() as stack:
            built = binary
            if self._place:
                # go would follow a link that is there, and overwrite what it leads to.
                private = stack.enter_context(tempfile.TemporaryDirectory(prefix="vimto-dlv-"))
                built = os.path.join(private, os.path.basename(binary))
            assert self._env
            flags = parse_build_flags(command.build_flags, goflags=self._env.goflags)
            links = stack.enter_context(kept_links(self._config, self._env, flags))
            if proc.foreground(command.build("go", built, links)):
                return False
            if not os.access(built, os.X_OK):
                raise UsageError(
                    "there is no program to debug",
                    hint="the package is not a main package, or has no test files",
                )
            if self._place:
                self._put(built, binary)
        directory = self._package_directory() if command.verb == "test" else ""
        self._command = command.built(binary, directory)
        return True

    def _put(self, built: str, binary: str) -> None:
        assert self._place
        try:
            self._place(built)
        except FileExistsError as exc:
            raise UsageError(
                f"`{binary}` is there already, and not overwritten",
                hint="remove it, or give `--output` another name",
            ) from exc
        except OSError as exc:
            raise _not_written(binary, exc) from exc

    def _package_directory(self) -> str:
        """Return the directory of the package under test, as dlv asks for it."""
        words = ["go", "list", "-f", "{{.Dir}}", *self._command.packages]
        answer = proc.run(words, check=False, limit=None)
        lines = answer.text.splitlines()
        return lines[0] if answer.status == 0 and lines else ""

    # -- what the machine sees

    def _shares(self, binary: str) -> list[tuple[str, bool]]:
        found: list[tuple[str, bool]] = []
        if shutil.which("go"):
            env = self._env = go_env("go", self._cwd, os.environ)
            if self._command.builds:
                check_target(env)
            found += [(root, False) for root in writable_roots("go", self._cwd, env, os.environ)]
            if self._command.verb == "dap" and env.gocache:
                found.append((env.gocache, False))  # a client may ask the server to build
        history = _config_directory(self._config)
        if history:
            found.append((history, False))
        command = self._command
        written = [absolute(path, self._cwd) for path in command.output_files()]
        found += [(os.path.dirname(path), False) for path in written]
        homes = find_homes()
        for path in self._programs(binary):
            place = os.path.dirname(path)
            if not is_in(path, SYSTEM) and not is_communal(follow(place)[0], homes):
                found.append((place, False))
        if command.value("wd"):
            found.append((absolute(command.value("wd"), self._cwd), False))
        return [(path, readonly) for path, readonly in found if os.path.isdir(path)]

    def _programs(self, binary: str) -> list[str]:
        """Return the program that is built, and the one that is named."""
        command = self._command
        named = command.operands[:1] if command.verb == "exec" else ()
        return [path for path in (binary, *(absolute(name, self._cwd) for name in named)) if path]

    def _shown(self, binary: str) -> list[str]:
        read = [absolute(path, self._cwd) for path in self._command.input_files()]
        beside = [os.path.dirname(path) for path in read]  # a script may name others
        return [self._dlv, *self._programs(binary), *read, *beside]


def _not_written(path: str, exc: OSError) -> UsageError:
    return UsageError(f"`{path}` cannot be written: {(exc.strerror or str(exc)).lower()}")


class _Ending:
    """The end of what dlv wrote, in which it says why it gave up."""

    def __init__(self) -> None:
        self._text = b""

    def carry(self, stream: int, fd: int) -> Output:
        """Return the carrier of one stream that remembers its end here."""
        ending = self

        class Remembering(Output):
            def put(self, data: bytes) -> None:
                super().put(data)
                ending._text = (ending._text + data)[-_REMEMBERED:]

        return Remembering(stream, fd)

    def __contains__(self, text: bytes) -> bool:
        return text in self._text


class DlvKilled(VimtoError):
    """dlv did not end by itself."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message, hint="with `-v -v` the kernel's log is shown")
        self.status = status


def _check_status(status: int, ending: _Ending) -> int:
    """Return dlv's status, and add to its last words what it cannot know.

    Raises `DlvKilled` when it was.
    """
    if status == _FAILED and b"could not launch process" in ending and _REFUSED in ending:
        console.error(
            VimtoError(
                "the machine's kernel refused dlv to trace the program",
                hint="`-sudo` runs dlv as root; the kernel's own rule is "
                "/proc/sys/kernel/yama/ptrace_scope, which `-sysctl` and `setup` commands change",
            )
        )
    if status <= _SIGNALLED:
        return status
    try:
        name = signal.Signals(status - _SIGNALLED).name
    except ValueError:
        return status
    raise DlvKilled(f"dlv was ended by {name} in the machine", status)


def _config_directory(config: Config) -> str:
    """Return the directory of dlv's history and configuration, made if need be; "" for none.

    As dlv's own config.GetConfigFilePath finds it. In the home of another user nothing is made: it
    would be root's, and some users have none.
    """
    user = find_user("root" if config.sudo else config.user or str(os.getuid()))
    home = user.pw_dir if user else os.path.expanduser("~")
    path = os.path.join(os.environ.get("XDG_CONFIG_HOME") or f"{home}/.config", "dlv")
    try:
        if user is None or user.pw_uid == os.geteuid():
            os.makedirs(path, mode=0o700, exist_ok=True)
        elif not os.path.isdir(path):
            return ""
    except OSError as exc:
        console.debug(f"dlv's history is not kept: {exc}")
        return ""
    return os.path.abspath(path)
