"""A QEMU, from its start to its end: its process, its connections and its directories' servers.

It takes a QEMU 30 ms to load and link itself, and us as long to find out what to run in it. So one
may be started before it is known which machine it becomes: it reads that from a pipe.

    (nothing) ──load──> loading ──become──> a machine ──> ended
        └───────────────become─────────────────┘
"""

import _socket
import os
from fcntl import F_SETFL, fcntl

from vimto.process.spawn import end, spawn, wait_end

TYPE_CHECKING = False  # this module is imported in a hurry: see `vimto.process.spawn`
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vimto.qemu.backends import Directory
    from vimto.qemu.options import Flag, Option
    from vimto.qemu.virtiofsd import Server

# What is the same in all our QEMUs and has no section in a configuration file. (11 calls `-mon`,
# which has one, deprecated.)
ALWAYS = (
    *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
    *("-cpu", "max", "-serial", "chardev:console", "-qmp", "chardev:monitor"),
)
# Most machines are restored, so that is what one becomes that loads in advance.
_LOADING = (*ALWAYS, "-incoming", "defer")


class _Wiring:
    """Our ends of the agent's port and the monitor, QEMU's own ends, and the console's memory.

    Owns all of them, until `close`.
    """

    def __init__(self) -> None:
        self.port, self.port_there = _socket_pair()
        self.monitor, self.monitor_there = _socket_pair()
        self.console = os.memfd_create("vimto-console")
        fcntl(self.console, F_SETFL, os.O_APPEND)  # QEMU writes to it as a file, and as its stderr
        self._theirs = [self.port_there, self.monitor_there]

    def inherited(self) -> "list[int]":
        """Return the descriptors that QEMU needs."""
        return [*self._theirs, self.console]

    def options(self) -> "list[Option]":
        """Return how QEMU is told of them."""
        from vimto.qemu.backends import socket_option
        from vimto.qemu.options import Option

        # Not /dev/fd, which is a link that a container's /dev may lack.
        path = f"/proc/self/fd/{self.console}"
        return [
            Option("chardev", "file", {"path": path, "append": "on"}, id="console"),
            socket_option("agent", self.port_there),
            socket_option("monitor", self.monitor_there),
        ]

    def close_theirs(self) -> None:
        """Close QEMU's ends, once it has them, so that its end is the connections' end."""
        while self._theirs:
            os.close(self._theirs.pop())

    def close(self) -> None:
        """Close all. Idempotent."""
        self.close_theirs()
        for fd in (self.port, self.monitor, self.console):
            if fd >= 0:
                os.close(fd)
        self.port = self.monitor = self.console = -1


def _socket_pair() -> "tuple[int, int]":
    # `socket` costs the hot path as much as all else that it imports together.
    here, there = _socket.socketpair()
    return here.detach(), there.detach()


class Qemu:
    """The QEMU `program`, not started yet. Owns all that belongs to it, until `close`.

    `pid` is -1 before its start, `status` its wait status once it has ended. A QEMU that ends at
    once shows as the end of `port`, and its last words are in `console`.
    """

    def __init__(self, program: str) -> None:
        self.program = program
        self.pid = -1
        self.status: int | None = None
        self._wiring = _Wiring()
        self._pipe = -1  # to a process that loads
        self._servers: list[int] = []
        self._sockets: list[int] = []  # to the servers; QEMU's alone once it has started

    def __enter__(self) -> "Qemu":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def port(self) -> int:
        """Our end of the guest program's port; -1 once it is closed, as with the others."""
        return self._wiring.port

    @property
    def monitor(self) -> int:
        """Our end of the monitor."""
        return self._wiring.monitor

    @property
    def console(self) -> int:
        """A file in memory: the guest's console, and what QEMU and the servers say."""
        return self._wiring.console

    def load(self) -> None:
        """Start the process, which loads and then waits for `become`.

        Raises `CommandError` when there is none; nothing is left then.
        """
        reading, self._pipe = os.pipe2(os.O_CLOEXEC)
        try:
            self._start([*_LOADING, "-readconfig", f"/proc/self/fd/{reading}"], [reading])
        except BaseException:
            self.close()
            raise
        finally:
            os.close(reading)

    def serve(self, server: "Server", directories: "Mapping[str, Directory]") -> "list[Option]":
        """Start a virtiofsd for each mount tag of `directories`; return their options for `become`.

        Raises `CommandError` when one cannot be started; `close` ends the others.
        """
        from vimto.qemu.backends import socket_option
        from vimto.qemu.virtiofsd import connection, start_server

        self._unload()  # it could not be given the connections
        options = []
        for tag, directory in directories.items():
            listening, connected = connection()
            self._sockets.append(connected)
            try:
                self._servers.append(start_server(server, directory, listening, self.console))
            finally:
                os.close(listening)
            options.append(socket_option(tag, connected))
        return options

    def become(self, options: "Sequence[Option | Flag]", descriptors: "Sequence[int]" = ()) -> None:
        """Make it the machine that `options` say, which may name the caller's `descriptors`.

        A process that loads is told so, or, where it cannot be, ended and another one started.
        Raises `CommandError` when there is no process.
        """
        from vimto import console  # all imported while QEMU loads
        from vimto.qemu.render import arguments
        from vimto.quoting import show

        if descriptors or not self._tell(options):
            self._unload()
        words = [*ALWAYS, *arguments([*self._wiring.options(), *options])]
        console.debug(lambda: f"$ {show([self.program, *words])}")
        if self.pid < 0:
            self._start(words, [*self._sockets, *descriptors])
        self._close_sockets()

    def wait(self, limit: float) -> bool:
        """Wait up to `limit` seconds for QEMU to end by itself; say whether it did."""
        if self.status is None:
            self.status = wait_end(self.pid, limit)
        return self.status is not None

    def close(self) -> None:
        """End QEMU and its servers, wait for that and close the descriptors. Idempotent."""
        self._end()
        self._close_sockets()
        while self._servers:
            end(self._servers.pop())
        self._wiring.close()

    # -- the process

    def _start(self, words: "Sequence[str]", descriptors: "Sequence[int]") -> None:
        keep = [*self._wiring.inherited(), *descriptors]
        self.pid = spawn([self.program, *words], log=self.console, keep=keep)
        self._wiring.close_theirs()

    def _tell(self, options: "Sequence[Option | Flag]") -> bool:
        """Tell the process that loads which machine it becomes; say whether there is one."""
        from vimto.qemu.options import INCOMING, Option
        from vimto.qemu.render import config_file

        flags = [option for option in options if not isinstance(option, Option)]
        if self._pipe < 0 or flags != [INCOMING]:
            return False
        told = [option for option in options if isinstance(option, Option)]
        try:
            text = config_file([*self._wiring.options(), *told])
        except ValueError:
            return False
        try:
            while text:
                text = text[os.write(self._pipe, text) :]
        except BrokenPipeError:
            pass  # it has ended; whoever reads the port learns of it
        self._close_pipe()
        return True

    def _unload(self) -> None:
        """End a process that only loads, and be as if it had never been started."""
        if self._pipe >= 0:
            self._end()
            self._wiring.close()
            self._wiring, self.pid, self.status = _Wiring(), -1, None

    def _end(self) -> None:
        self._close_pipe()
        if self.pid < 0 or self.status is not None:
            return
        self.status = end(self.pid)
        if self.status is None:
            from vimto import console

            console.warn(f"QEMU (process {self.pid}) cannot be killed, and is left behind")
            self.status = 0

    def _close_pipe(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def _close_sockets(self) -> None:
        while self._sockets:
            os.close(self._sockets.pop())


# The one that loads, if any: in a process there is at most one, for whoever needs a machine first.
_loading: "list[Qemu]" = []


def load_ahead(program: str) -> None:
    """Let `program` load for whoever is the first to `take` a QEMU.

    One that loads already stays; that of another program is ended. Raises `CommandError` when it
    cannot be started.
    """
    if not (_loading and _loading[0].program == program):
        drop_ahead()
        qemu = Qemu(program)
        qemu.load()
        _loading.append(qemu)


def take(program: str) -> Qemu:
    """Return a QEMU for the caller to close: the one that loads, or one that is not started yet."""
    if _loading and _loading[0].program == program:
        return _loading.pop()
    drop_ahead()
    return Qemu(program)


def drop_ahead() -> None:
    """End a QEMU that was loaded for nobody."""
    while _loading:
        _loading.pop().close()
