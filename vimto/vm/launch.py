"""A QEMU process and its connections, which may be started before it is known what it is to be.

It takes a QEMU 30 ms to load and link itself, and us as long to find out what to run in it.
"""

import _socket
import os
from fcntl import F_SETFL, fcntl

from vimto.process.spawn import end, spawn
from vimto.qemu.readconfig import EARLY, config_text

TYPE_CHECKING = False  # this module is imported in a hurry: see `vimto.process.spawn`
if TYPE_CHECKING:
    from collections.abc import Sequence


class Wiring:
    """The connections of one QEMU: our ends of its agent's port and its monitor, and its console.

    `port_there` and `monitor_there` are QEMU's ends, which it inherits under the same numbers.
    Owns all of them, until `close`.
    """

    def __init__(self) -> None:
        self.port, self.port_there = _socket_pair()
        self.monitor, self.monitor_there = _socket_pair()
        self.console = os.memfd_create("vimto-console")
        fcntl(self.console, F_SETFL, os.O_APPEND)  # QEMU writes to it as a file, and as its stderr

    def inherited(self) -> list[int]:
        """Return the descriptors that QEMU needs."""
        return [self.port_there, self.monitor_there, self.console]

    def close_theirs(self) -> None:
        """Close QEMU's ends, once it has them, so that its end is the connections' end."""
        os.close(self.port_there)
        os.close(self.monitor_there)

    def close_ours(self) -> None:
        """Close our ends."""
        for fd in (self.port, self.monitor, self.console):
            os.close(fd)


def _socket_pair() -> tuple[int, int]:
    # `socket` costs the hot path as much as all else that it imports together.
    here, there = _socket.socketpair()
    return here.detach(), there.detach()


class Launch:
    """The program `qemu`, started: it loads, and then waits for `proceed`.

    Owns the process and its `wiring`; `proceed` gives both away, `close` ends them. Raises
    `CommandError` when there is no process.
    """

    def __init__(self, qemu: str) -> None:
        self.wiring = Wiring()
        self.qemu = qemu
        self._pid = -1
        reading, self._words = os.pipe2(os.O_CLOEXEC)
        try:
            self._pid = spawn(
                [qemu, *EARLY, "-readconfig", f"/dev/fd/{reading}"],
                log=self.wiring.console,
                keep=[*self.wiring.inherited(), reading],
            )
        except BaseException:
            os.close(self._words)
            self.wiring.close_ours()
            raise
        finally:
            os.close(reading)
            self.wiring.close_theirs()

    def __enter__(self) -> "Launch":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def proceed(self, argv: "Sequence[str]") -> int:
        """Make QEMU what the command line `argv` says and return its pid.

        Raises `ValueError` when that is another program, or a line that it cannot be told now.
        """
        if self._pid < 0 or argv[0] != self.qemu:
            raise ValueError(f"{argv[0]} was not started")
        text = config_text(argv[1:])
        pid, self._pid = self._pid, -1
        try:
            while text:
                text = text[os.write(self._words, text) :]
        except BrokenPipeError:
            pass  # it has ended; whoever reads the port learns of it
        os.close(self._words)
        return pid

    def close(self) -> None:
        """End a QEMU that did not proceed. Idempotent."""
        if self._pid < 0:
            return
        end(self._pid)
        self._pid = -1
        os.close(self._words)
        self.wiring.close_ours()
