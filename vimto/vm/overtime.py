"""The end of a test that does not heed its own `-timeout`: what go would do, done by us.

go's own timer starts with the program that it runs, which is the shim: a machine that waits for
its turn would use up the test's time. This one starts with the test.

    runs ──limit──> asked to end (SIGQUIT) ──grace──> killed (SIGKILL) ──> lost with its machine
"""

import signal
import time

from vimto.descriptors import write_all
from vimto.errors import LostMachineError, StreamError
from vimto.plan.plan import GoTimeout
from vimto.vm import protocol
from vimto.vm.observer import Line, Observer

# A guest that does not report the end of a command that it was told to kill is not asked again.
_LOST_AFTER = 10.0
# As Go's os.ProcessState words them.
_NAMES: dict[int, str] = {signal.SIGQUIT: "quit", signal.SIGKILL: "killed"}


class Overtime(Observer):
    """Ends the command when it runs longer than go's `limits` allow.

    `wake_at` is when `check` has something to do (time.monotonic), 0 before the command's start.
    """

    def __init__(self, limits: GoTimeout) -> None:
        self._limits = limits
        self._sent: list[int] = []
        self._line: Line

    def join(self, line: Line) -> None:
        self._line = line

    def started(self) -> None:
        self.wake_at = time.monotonic() + self._limits.kill

    def noticed(self, notice: protocol.Notice) -> None:
        if notice.level == "stage":  # the command has ended; what comes after has no limit of go's
            self.wake_at = 0.0

    def ended(self) -> None:
        self.wake_at = 0.0

    def check(self) -> None:
        """Take the next step if it is due; raises `LostMachineError` after the last one."""
        if not self.wake_at or time.monotonic() < self.wake_at:
            return
        if not self._sent:
            self._send(signal.SIGQUIT, self._limits.grace)
        elif len(self._sent) == 1:
            self._send(signal.SIGKILL, _LOST_AFTER)
        else:
            raise LostMachineError(
                f"the test ran too long ({self._limits.total}), and the guest could not kill it"
            )

    def _send(self, number: signal.Signals, patience: float) -> None:
        self._sent.append(number)
        self._line.pass_on(number)
        self.wake_at = time.monotonic() + patience

    def finish(self, result: protocol.Exit) -> None:
        # As go does, say on stdout that the command was ended.
        if not self._sent:
            return
        text = f"*** Test killed with quit: ran too long ({self._limits.total}).\n"
        if name := _NAMES.get(result.signal):
            text += f"signal: {name}\n"
        try:
            write_all(1, text.encode())
        except BrokenPipeError:
            pass  # go has gone
        except OSError as exc:
            raise StreamError("stdout", exc.errno or 0, 0) from exc
