"""The only place, with `vimto.spawn`, that starts processes.

By what the caller needs of the child: `run` waits and keeps its output, `foreground` gives it our
terminal and signals, `spawn_on_terminal` and `vimto.spawn` leave it running beside us. `run` and
`foreground` are built on `sh`; `vimto.spawn` is on the hot path and uses the standard library
alone.
"""

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from vimto import console, quoting
from vimto.errors import CommandError
from vimto.spawn import SETPRIV, mortal


class Result(NamedTuple):
    """What a finished process left: its output and its status (128+N after signal N)."""

    stdout: bytes
    stderr: bytes
    status: int

    @property
    def text(self) -> str:
        """Stdout as text, without the last newline."""
        return self.stdout.decode("utf-8", "surrogateescape").removesuffix("\n")


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    input: bytes = b"",
    check: bool = True,
) -> Result:
    """Run `argv` to its end and return its output.

    Stdin is `input`, or `/dev/null`. It dies with us. Raises `CommandError` when the program does
    not exist and, with `check`, when its status is not zero; the error's lines are the last ten
    of its stderr.
    """
    import sh

    console.debug(lambda: f"$ {quoting.show(argv)}")
    with open(os.devnull, "rb") as null:
        options: dict[str, object] = {
            "_env": dict(os.environ if env is None else env),
            "_in": input or null,
            "_tty_out": False,
            "_out_bufsize": 65536,
            "_err_bufsize": 65536,
            "_no_pipe": True,
            "_decode_errors": "surrogateescape",
            "_return_cmd": True,
            "_preexec_fn": _default_signals,
        }
        if cwd is not None:
            options["_cwd"] = os.fspath(cwd)
        try:
            program, *words = mortal([str(sh.Command(argv[0])), *argv[1:]])
            command: Any = sh.Command(program)
            done = command(*words, **options)
            result = Result(done.stdout, done.stderr, 0)
        except sh.CommandNotFound as exc:
            raise CommandError(f"`{argv[0]}` is not installed or not on PATH") from exc
        except sh.ErrorReturnCode as exc:
            status = exc.exit_code if exc.exit_code >= 0 else 128 - exc.exit_code
            result = Result(exc.stdout, exc.stderr, status)
    if check and result.status:
        lines = result.stderr.decode("utf-8", "replace").splitlines()
        raise CommandError(
            f"`{quoting.show(argv)}` failed with status {result.status}", lines=tuple(lines[-10:])
        )
    return result


def foreground(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
) -> int:
    """Run `argv` with our stdin, stdout and stderr and return its status (128+N for signal N).

    A terminal's Ctrl-C reaches the child directly, so SIGINT and SIGQUIT only wake us up;
    SIGTERM and SIGHUP sent to us are passed on. The child dies with us, even by SIGKILL. Raises
    `CommandError` when the program does not exist. Must be called from the main thread.
    """
    import sh

    console.debug(lambda: f"$ {quoting.show(argv)}")
    try:
        command: Any = sh.Command(argv[0])
    except sh.CommandNotFound as exc:
        raise CommandError(f"`{argv[0]}` is not installed or not on PATH") from exc
    words = mortal([str(command._path), *argv[1:]])
    start: Any = sh.Command(words[0])
    with _forwarded() as child:
        try:
            child.start(
                start,
                words[1:],
                _env=dict(os.environ if env is None else env),
                _cwd=None if cwd is None else os.fspath(cwd),
                _in=0,
                _out=1,
                _err=2,
                _bg=True,
                _bg_exc=False,
                _new_session=False,
                _close_fds=False,
                _preexec_fn=_default_signals,
                _return_cmd=True,
            )
            child.command.wait()
            return 0
        except sh.ErrorReturnCode as exc:
            return int(exc.exit_code if exc.exit_code >= 0 else 128 - exc.exit_code)


class _Child:
    """A child that may not have been started yet when a signal for it comes."""

    def __init__(self) -> None:
        self.command: Any = None
        self._early: list[int] = []

    def start(self, start: Any, words: Sequence[str], **settings: Any) -> None:
        self.command = start(*words, **settings)
        for number in self._early:
            self.take(number, None)

    def take(self, number: int, _frame: object) -> None:
        if self.command is None:
            self._early.append(number)
            return
        try:
            self.command.signal(number)
        except ProcessLookupError:
            pass


@contextlib.contextmanager
def _forwarded() -> Iterator[_Child]:
    """Take our signals before the child exists, so that none ends us alone."""
    child = _Child()
    before = {
        number: signal.signal(number, handler)
        for number, handler in (
            # A handler, not SIG_IGN: an ignored signal would stay ignored in the child.
            (signal.SIGINT, lambda _n, _f: None),
            (signal.SIGQUIT, lambda _n, _f: None),
            (signal.SIGTERM, child.take),
            (signal.SIGHUP, child.take),
        )
    }
    try:
        yield child
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _default_signals() -> None:
    # Python ignores these three; a child must meet them as a shell's child would.
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def spawn_on_terminal(argv: Sequence[str], fds: tuple[int, int, int]) -> int:
    """Start `argv` beside us, on our terminal, and return its pid; the caller must reap it.

    Its stdin, stdout and stderr are `fds`. It stays in our process group, so that a terminal's
    Ctrl-C is its own to handle, and is asked to end (SIGTERM) when we do. Raises `CommandError`.
    """
    console.debug(lambda: f"$ {quoting.show(argv)}")
    words = mortal(argv, "TERM")
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(fds)]
    default = [signal.SIGPIPE, signal.SIGXFSZ]
    try:
        return os.posix_spawn(
            SETPRIV, words, dict(os.environ), file_actions=actions, setsigdef=default
        )
    except OSError as exc:
        raise CommandError(f"`{argv[0]}` cannot be started: {exc.strerror}") from exc
