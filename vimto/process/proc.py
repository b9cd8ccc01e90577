"""The only place, with `spawn`, that starts processes.

By what the caller needs of the child: `run` waits and keeps its output, `foreground` gives it our
terminal and signals, `spawn_on_terminal` and `spawn.spawn` leave it running beside us. `run` and
`foreground` are built on `sh`; `spawn` is on the hot path and uses the standard library alone.
"""

import contextlib
import functools
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from vimto import console, quoting
from vimto.errors import CommandError
from vimto.process.spawn import SETPRIV, mortal

ENDING = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)


# For what only answers a question; a busy host deserves patience.
_LIMIT = 60.0
_SAID_AFTER = 10.0
_BUFFER = 65536


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
    limit: float | None = _LIMIT,
) -> Result:
    """Run `argv` to its end and return its output.

    Stdin is `input`, or `/dev/null`. It dies with us. Raises `CommandError` when the program does
    not exist or cannot start, when it takes over `limit` seconds and, with `check`, when its status
    is not zero;
    the error's lines are the last ten of its stderr. Without a limit, as for what may download or
    build something, the user is told after a while what we wait for.
    """
    console.debug(lambda: f"$ {quoting.show(argv)}")
    options = {
        "_tty_out": False,
        "_no_pipe": True,
        "_out_bufsize": _BUFFER,
        "_err_bufsize": _BUFFER,
    }
    with (
        open(os.devnull, "rb") as null,
        _deaf() as before,
        _announced(argv, limit),
        _failures_told(argv, limit),
    ):
        command = _command(argv, env, cwd)
        done = command(
            **options,
            _in=input or null,
            _timeout=limit,
            _preexec_fn=lambda: _default_signals(before),
        )
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        done.wait()
    result = Result(done.stdout, done.stderr, _status(done.exit_code))
    if check and result.status:
        lines = result.stderr.decode("utf-8", "replace").splitlines()
        raise CommandError(
            f"`{quoting.show(argv)}` failed with status {result.status}", lines=tuple(lines[-10:])
        )
    return result


@contextlib.contextmanager
def _deaf() -> Iterator[set[int]]:
    """Block the signals that end us, in this thread and those it starts; yields the old mask.

    What a handler raises while we fork is lost: Python calls hooks after fork(2) (logging has
    one), and ignores what comes out of them.
    """
    before = set(signal.pthread_sigmask(signal.SIG_BLOCK, ENDING))
    try:
        yield before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _announced(argv: Sequence[str], limit: float | None) -> Iterator[None]:
    """Say what we wait for, should the context last."""
    if limit is not None:
        yield
        return
    text = f"waiting for `{quoting.show(argv[:3])}{' …' if len(argv) > 3 else ''}`"
    timer = threading.Timer(_SAID_AFTER, lambda: console.note(text))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def foreground(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
) -> int:
    """Run `argv` with our stdin, stdout and stderr and return its status (128+N for signal N).

    A terminal's Ctrl-C reaches the child directly; what is sent to us alone is passed on: see
    `Relay`. The child dies with us, even by SIGKILL. Raises `CommandError` when the program does
    not exist or cannot start. Must be called from the main thread.
    """
    console.debug(lambda: f"$ {quoting.show(argv)}")
    options = {"_in": 0, "_out": 1, "_err": 2, "_close_fds": False}
    command = _command(argv, env, cwd)
    child = _Child()
    with Relay(ENDING, child.take) as relay, _failures_told(argv, None):
        child.start(lambda: command(**options, _preexec_fn=relay.default_signals))
        child.command.wait()
        return _status(child.command.exit_code)


@functools.cache
def _sh() -> Any:
    """Return `sh` with what every command of ours has; commands differ in their streams."""
    import sh

    return sh.bake(
        _return_cmd=True,
        _bg=True,  # we wait ourselves, with our signals as they were
        _bg_exc=False,
        _ok_code=range(-64, 256),  # a status is an answer, not an exception
        _encoding=_file_system_codec(),
        _decode_errors="surrogateescape",
    )


def _command(
    argv: Sequence[str], env: Mapping[str, str] | None, cwd: str | os.PathLike[str] | None
) -> Any:
    """Return what runs `argv`, wrapped so that it dies with us, when it is called.

    Raises `CommandError` where there is no such program.
    """
    import sh

    try:
        program = str(_sh().Command(argv[0]))
    except sh.CommandNotFound as exc:
        raise CommandError(f"`{argv[0]}` is not installed or not on PATH") from exc
    setpriv, *words = mortal([program, *argv[1:]])
    return (
        _sh()
        .Command(setpriv)
        .bake(
            *words,
            _env=dict(os.environ if env is None else env),
            _cwd=None if cwd is None else os.fspath(cwd),
        )
    )


@contextlib.contextmanager
def _failures_told(argv: Sequence[str], limit: float | None) -> Iterator[None]:
    """Raise `CommandError` for a command that cannot start, or takes too long."""
    import sh

    try:
        yield
    except sh.TimeoutException:
        raise CommandError(f"`{quoting.show(argv)}` has not ended within {limit:g} s") from None
    except sh.ForkException as exc:  # a traceback from between fork(2) and execve(2), as text
        _reap_failed()
        last = str(exc).strip().splitlines()[-1]
        reason = re.sub(r"^\s*[\w.]+: (\[Errno \d+\] )?", "", last)
        raise CommandError(f"`{argv[0]}` cannot be started: {reason}") from exc


def _reap_failed() -> None:
    """Reap the child that could not call execve(2): sh 2.4 leaves it, and it ends with 255.

    Another sh may have reaped it, and other children may run on: it is waited for a moment only.
    """
    for _ in range(100):
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:
            return
        if ended:
            if (ended.si_code, ended.si_status) == (os.CLD_EXITED, 255):
                os.waitpid(ended.si_pid, 0)
            return
        time.sleep(0.01)


def _status(code: int) -> int:
    return code if code >= 0 else 128 - code


class _Child:
    """A child that may not have been started yet when a signal for it comes."""

    def __init__(self) -> None:
        self.command: Any = None
        self._early: list[int] = []
        self._lock = threading.Lock()  # `take` is called by another thread

    def start(self, start: Callable[[], Any]) -> None:
        command = start()
        with self._lock:
            self.command = command
        for number in self._early:
            self.take(number)

    def take(self, number: int) -> None:
        with self._lock:
            if self.command is None:
                self._early.append(number)
                return
        try:
            self.command.signal(number)
        except ProcessLookupError:
            pass


class Relay:
    """A context manager: inside it, signals that were sent to us alone are given to `send`.

    Those of a terminal's keys are dropped, for the kernel has sent them to our whole process
    group; so it has a SIGHUP, unless we lead the session. Only sigwaitinfo(2) tells one from the
    other, so a thread waits for them, and all threads block them.
    """

    def __init__(self, numbers: Iterable[int], send: Callable[[int], None]) -> None:
        self._numbers = frozenset(numbers)
        self._send = send
        self._before: set[int] = set()
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._ended = False

    def __enter__(self) -> "Relay":
        self._before = set(signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers))
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ended = True
        signal.pthread_kill(self._thread.ident or 0, min(self._numbers))
        self._thread.join()
        while info := signal.sigtimedwait(self._numbers, 0):  # it may not have come to them
            self._pass_on(info)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)

    def default_signals(self) -> None:
        """Give a child, between fork(2) and execve(2), the signals that it is to have."""
        _default_signals(self._before)

    def _wait(self) -> None:
        while True:
            info = signal.sigwaitinfo(self._numbers)
            if self._ended and info.si_signo == min(self._numbers):
                return
            self._pass_on(info)

    def _pass_on(self, info: signal.struct_siginfo) -> None:
        alone = info.si_code <= 0 or (
            info.si_signo == signal.SIGHUP and os.getsid(0) == os.getpid()
        )
        if alone:
            self._send(info.si_signo)


def _default_signals(blocked: Iterable[int]) -> None:
    # Python ignores these three; a child must meet them as a shell's child would.
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _file_system_codec() -> str:
    """Return the name of the codec of arguments: `sh` takes no error handler, and bytes need not
    be UTF-8."""
    import codecs

    name = "vimto_file_system"

    def find(wanted: str) -> codecs.CodecInfo | None:
        if wanted != name:
            return None
        return codecs.CodecInfo(
            name=name,
            encode=lambda text, _errors="strict": (os.fsencode(text), len(text)),
            decode=lambda data, _errors="strict": (os.fsdecode(bytes(data)), len(data)),
        )

    try:
        codecs.lookup(name)
    except LookupError:
        codecs.register(find)
    return name


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
