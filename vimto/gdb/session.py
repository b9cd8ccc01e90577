"""A machine with QEMU's gdb stub, and the gdb beside it.

    guest   prepared ── paused ──────────────────(stopped)──> runs the command ──> exit
    gdb                    └─ starts, attaches ──> prompt ──continue──┘             └─ told, ends

The guest's pause is answered once gdb has stopped the machine: the answer waits in the port until
gdb lets it go on, so there is no moment at which the command could slip through.
"""

import contextlib
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from vimto import console
from vimto.errors import VimtoError
from vimto.process import proc
from vimto.qemu.options import Extra, Flag, Option
from vimto.quoting import visible
from vimto.vm.machine import Machine
from vimto.vm.observer import Line, State
from vimto.vm.protocol import Exit
from vimto.vm.request import Companion
from vimto.vm.signals import ENDING, Interrupted

# QEMU's word when gdb ended the machine, as its `quit` and `kill` do.
KILLED_BY_GDB = "Terminated via GDBstub"

_END_LIMIT = 5.0
# A script may look at what it gathered after the machine is gone.
_SCRIPT_LIMIT = 60.0


def private_stub(path: str) -> Extra:
    """Return what makes QEMU offer its stub at the unix socket `path`."""
    return Extra(_stub_options({"path": path}))


def public_stub(listener: socket.socket) -> Extra:
    """Return what makes QEMU offer its stub at `listener`, which already listens."""
    fd = listener.fileno()
    return Extra(_stub_options({"fd": str(fd), "nodelay": "on"}), [fd])


def _stub_options(where: dict[str, str]) -> list[Option | Flag]:
    values = {**where, "server": "on", "wait": "off"}
    return [Option("chardev", "socket", values, id="gdb"), Flag("gdb", "chardev:gdb")]


class QuitError(VimtoError):
    """gdb has ended before the command, and the machine with it: there is no result."""


class Stub(Companion):
    """The stub in one machine, which `extra` makes QEMU offer.

    With `from_boot` the processors wait for gdb before their first instruction.
    """

    def __init__(self, extra: Extra, *, from_boot: bool = False) -> None:
        self.extra = extra.after(Flag("S")) if from_boot else extra
        self.pauses = not from_boot
        self.stopped = from_boot
        self.attached = False
        self.machine: Machine
        self.line: Line

    def meet(self, machine: Machine) -> None:
        self.machine = machine
        machine.monitor.open()

    def join(self, line: Line) -> None:
        self.line = line
        if not self.pauses:
            self.begun = True  # gdb is this machine's from its first instruction on
            line.hold_clock()
            self.attach()

    def paused(self) -> None:
        self.attach()

    def attach(self) -> None:
        """The machine waits for gdb."""

    def hear(self, event: str) -> None:
        # Whether gdb holds the machine: only time that it runs counts.
        if event == "STOP":
            self.stopped = True
            self.line.hold_clock()
            if self.line.state == State.PAUSED and not self.attached:
                self.line.resume()
            self.attached = True
        elif event == "RESUME":
            self.attached = self.attached or not self.pauses
            self.stopped = False
            self.line.release_clock()

    def read_monitor(self) -> bool:
        """Hear what the monitor has said by now; return whether the machine is gone."""
        events = self.machine.monitor.read_events()
        for event in events:
            self.hear(event)
        return "" in events


class Listener(Stub):
    """A stub for a gdb, or an IDE, that somebody else starts; `line` says how to connect."""

    def __init__(self, extra: Extra, line: str, *, from_boot: bool = False) -> None:
        super().__init__(extra, from_boot=from_boot)
        self._line = line

    def attach(self) -> None:
        console.note(f"the machine waits for gdb: {self._line}")


@dataclass(frozen=True, kw_only=True)
class GdbConfig:
    """What `vimto.gdb.inside` is told; paths are absolute.

    `machine` is QEMU's pid, `directory` a private place for files, `result` where to read how the
    command ended, `modules` where the kernel's modules lie or "", `debug_modules` the same with
    debug information, `listings` files with the names in loaded ones, for a kernel without debug
    information; `unpack` is the command that writes a compressed file to stdout, `go` a program
    whose symbols to load or "". `debug` says that the symbols come with types, `hardware` that
    breakpoints cannot be written.
    """

    target: str
    machine: int = 0
    directory: str
    result: str
    modules: str
    debug_modules: str
    listings: tuple[str, ...] = ()
    unpack: tuple[str, ...]
    go: str
    breaks: tuple[str, ...]
    greeting: tuple[str, ...]
    debug: bool
    hardware: bool
    batch: bool


class Gdb(Stub):
    """The stub with a gdb of ours, whose streams are `fds`.

    `make_argv` is called with QEMU's pid when gdb is due. A context manager: gdb never outlives it.
    """

    def __init__(
        self,
        extra: Extra,
        make_argv: Callable[[int], list[str]],
        fds: tuple[int, int, int],
        settings: GdbConfig,
        *,
        from_boot: bool = False,
    ) -> None:
        super().__init__(extra, from_boot=from_boot)
        self._make_argv = make_argv
        self._fds = fds
        self._settings = settings
        self._pid = self._pidfd = -1
        # A terminal's Ctrl-C is gdb's, which has it already, and never the command's.
        self._relay: proc.Relay | None = None

    def __enter__(self) -> "Gdb":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exc: object) -> None:
        self._end_relay()
        patience = 0.0 if kind and issubclass(kind, Interrupted) else _END_LIMIT
        for limit, number in ((patience, signal.SIGTERM), (_END_LIMIT, signal.SIGKILL)):
            if self._wait(limit):
                return
            os.kill(self._pid, number)
        self._wait(_END_LIMIT)

    def attach(self) -> None:
        argv = self._make_argv(self.machine.pid)
        self._pid = proc.spawn_on_terminal(argv, self._fds)
        self._pidfd = os.pidfd_open(self._pid)
        self._relay = proc.Relay((signal.SIGINT, signal.SIGQUIT), self._send)
        self._relay.__enter__()

    def _send(self, number: int) -> None:
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except OSError:
            pass  # it has just ended

    def _end_relay(self) -> None:
        relay, self._relay = self._relay, None
        if relay:
            relay.__exit__()

    def interests(self) -> list[tuple[int, int]]:
        watched = self._pidfd >= 0 and self.line.state != State.EXITED
        return [(self._pidfd, select.POLLIN)] if watched else []

    def handle(self, fd: int, events: int) -> None:
        # gdb has ended.
        self._wait(None)
        self.read_monitor()
        if self.stopped or not self.attached:
            raise quit_early()
        self._end_relay()  # it has detached: the command goes on without it

    def finish(self, result: Exit) -> None:
        try:
            Path(self._settings.result).write_text(describe(result), "utf-8")
        except OSError as exc:
            console.warn(f"gdb is not told how the command ended: {exc.strerror}")
        # gdb may have stopped the machine between the command's end and now: its user's turn.
        self._wait_while(stopped=True, limit=None)
        # A stop, not an end: gdb says "Remote connection closed" to that, and leaves its script.
        self.machine.monitor.send("stop")
        self._wait_while(stopped=False, limit=_END_LIMIT)
        # The script may look at the machine as the command has left it, but not let it go on.
        self._wait_while(stopped=True, limit=_SCRIPT_LIMIT if self._settings.batch else _END_LIMIT)

    def _wait_while(self, *, stopped: bool, limit: float | None) -> None:
        """Wait while the machine is stopped, or runs, and gdb lives; at most `limit` seconds.

        A signal that asks us to end ends the wait; the machine and gdb are ended then.
        """
        deadline = None if limit is None else time.monotonic() + limit
        signals = self.line.signals
        while self.stopped == stopped and self._pidfd >= 0:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            fds = [self.machine.monitor.fd, self._pidfd, signals.fd]
            ready = select.select(fds, [], [], left)[0]
            if not ready or self._wait(0) or self.read_monitor():
                return
            if any(number in ENDING for number in signals.read()):
                return

    def _wait(self, limit: float | None) -> bool:
        """Wait for gdb's end and reap it; say whether there is no gdb any more."""
        if self._pidfd < 0:
            return True
        if not select.select([self._pidfd], [], [], limit)[0]:
            return False
        os.waitpid(self._pid, 0)
        os.close(self._pidfd)
        self._pidfd = -1
        return True


def quit_early() -> QuitError:
    """Return the error for a gdb that ended before the command did."""
    return QuitError(
        "gdb ended before the command, and its machine with it: there is no result",
        hint="`continue` to the end gives one; after `detach` the command goes on without gdb",
    )


def describe(result: Exit) -> str:
    """Return the exit frame `result` in words, which gdb prints."""
    if result.error:
        return visible(result.error)
    if result.signal:
        return f"the command was ended by signal {result.signal}"
    status = result.status
    return f"the command has ended, status {status}" + ("" if status else ": passed")


def write_script(settings: GdbConfig, path: Path) -> None:
    """Write the file that gdb is started with (`-x`)."""
    values = path.with_suffix(".json")
    shown = [visible(line, keep="") for line in settings.greeting]
    values.write_text(json.dumps({**asdict(settings), "greeting": shown}), "utf-8")
    inside = Path(__file__).with_name("inside.py")
    path.write_text(
        "set index-cache enabled off\n"  # a test binary is another each time
        "set breakpoint pending on\n"
        "python\n"
        "import importlib.util, traceback\n"
        f"spec = importlib.util.spec_from_file_location('vimto_inside', {str(inside)!r})\n"
        "vimto_inside = importlib.util.module_from_spec(spec)\n"
        # gdb would go on with what comes after this script, without breakpoints, and "pass".
        "try:\n"
        "    spec.loader.exec_module(vimto_inside)\n"
        f"    vimto_inside.start(gdb, {str(values)!r})\n"
        "except Exception:\n"
        "    traceback.print_exc()\n"
        "    gdb.execute('quit 1')\n"
        "end\n",
        "utf-8",
    )


@contextlib.contextmanager
def diverted(output: int) -> Iterator[tuple[int, int, int]]:
    """Keep our stdin, stdout and stderr for gdb; what we and the command say goes to `output`.

    Yields the descriptors to give to gdb.
    """
    first, second, third = (os.dup(fd) for fd in (0, 1, 2))
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.dup2(null, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        yield first, second, third
    finally:
        os.close(null)
        for number, fd in enumerate((first, second, third)):
            os.dup2(fd, number)
            os.close(fd)
