"""Our stdin, stdout and stderr as the guest's command sees them."""

import errno
import fcntl
import os
import signal
import stat
import time
from collections import deque

from vimto.descriptors import flush, stream_name
from vimto.errors import LostMachineError, StreamError
from vimto.vm import protocol
from vimto.vm.protocol import Kind

# What poll(2) promises for a pipe it calls writable, when its description is a blocking one.
_SAFE_WRITE = 4096
_CHUNK = 256 << 10
_NULL_DEVICE = os.makedev(1, 3)
# Nobody is told when a running job is brought to the foreground.
_LOOK_AGAIN = 0.5


class Output:
    """Bytes on their way to one of our descriptors; a slow reader holds up nobody else.

    `broken` says that no more are taken: the reader has gone, or `verify` raises what happened.
    """

    def __init__(self, stream: int, fd: int) -> None:
        self.stream = stream
        self._count = self._waiting = 0
        self._failure: StreamError | None = None
        self._queue: deque[memoryview] = deque()
        self._own = _reopen(fd)
        self.fd = fd if self._own < 0 else self._own
        self._limit = _SAFE_WRITE if self._own < 0 and not _is_file(fd) else _CHUNK
        self.broken = False

    def close(self) -> None:
        """Close the descriptor that was opened here; the caller's own stays open."""
        if self._own >= 0:
            os.close(self._own)
            self._own = -1

    def put(self, data: bytes) -> None:
        """Queue bytes; those of a broken stream are dropped.

        Raises `LostMachineError` beyond what the guest may send before we acknowledge it.
        """
        if not self.broken:
            self._waiting += len(data)
            if self._waiting > protocol.OUTPUT_WINDOW:
                raise LostMachineError("the guest sent more than its window allows")
            self._queue.append(memoryview(data))

    @property
    def pending(self) -> bool:
        """Whether bytes wait for the descriptor to become writable."""
        return bool(self._queue)

    def write_some(self) -> int:
        """Write what the descriptor takes now and return the number of bytes; may break."""
        count = 0
        try:
            while self._queue:
                head = self._queue[0][: self._limit]
                written = os.write(self.fd, head)
                count += written
                if written < len(self._queue[0]):
                    self._queue[0] = self._queue[0][written:]
                else:
                    self._queue.popleft()
                if self._limit == _SAFE_WRITE:
                    break  # whether the next write would block, only poll can say
        except BlockingIOError:
            pass
        except OSError as exc:
            self.broken = True
            self._queue.clear()
            if not isinstance(exc, BrokenPipeError):
                self._failure = StreamError(
                    stream_name(self.stream), exc.errno or errno.EIO, self._count + count
                )
        self._count += count
        self._waiting -= count
        return count

    def verify(self) -> None:
        """Raise `StreamError` unless all that was put here is where it belongs, or unwanted."""
        if self._failure:
            raise self._failure
        if self._count and not self.broken and _is_file(self.fd):
            flush(self.fd, self.stream, self._count)


_TTIN = (signal.SIGTTIN,)


class Input:
    """Our stdin, read only as fast as the guest's command takes it.

    A terminal is read while we are in its foreground. In the background a shell's user types
    something else, and who reads then is stopped (SIGTTIN), command, machine and all.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._credit = protocol.STDIN_WINDOW
        self._count = 0
        self._failure: StreamError | None = None
        self._is_terminal = os.isatty(fd)
        self.ended = False

    @property
    def wanted(self) -> bool:
        """Whether more may be read now."""
        return not self.ended and self._credit > 0 and not self._is_behind

    def read_some(self) -> bytes:
        """Read what is there and return it as a frame; end of file is an empty one."""
        data = self._read(min(self._credit, _CHUNK))
        if data is None:
            return b""
        self._credit -= len(data)
        self._count += len(data)
        self.ended = not data
        return protocol.encode(Kind.STDIN, data)

    def _read(self, size: int) -> bytes | None:
        """Return what is there, or nothing at the end; None is for nothing now."""
        # We may have got into the background since we looked: EIO then, instead of the signal.
        held = signal.pthread_sigmask(signal.SIG_BLOCK, _TTIN) if self._is_terminal else ()
        try:
            return os.read(self.fd, size)
        except BlockingIOError:
            return None
        except OSError as exc:
            # A shell may be about to bring us back: only a terminal that hung up is at its end.
            if self._is_terminal and os.isatty(self.fd):
                return None
            if not self._is_terminal:  # a terminal that hangs up is at its end
                self._failure = StreamError("stdin", exc.errno or errno.EIO, self._count)
            return b""
        finally:
            if self._is_terminal:
                signal.pthread_sigmask(signal.SIG_SETMASK, held)

    @property
    def _is_behind(self) -> bool:
        return self._is_terminal and is_behind(self.fd)

    def verify(self) -> None:
        """Raise `StreamError` when what the command took for the end of its input was a failure."""
        if self._failure:
            raise self._failure

    def acknowledge(self, count: int) -> bytes:
        """Take back credit for bytes that the command has been given; return more frames for it.

        Raises `LostMachineError` for bytes that were never sent.
        """
        self._credit += count
        if self._credit > protocol.STDIN_WINDOW:
            raise LostMachineError("the guest acknowledged what was never sent")
        return b""

    @property
    def wake_at(self) -> float:
        """When to look again whether it is `wanted`, and when `check` is due; 0 is never."""
        return time.monotonic() + _LOOK_AGAIN if not self.ended and self._is_behind else 0.0

    # What follows is for a person at a terminal: `vimto.vm.terminal.Keys`.

    hung_up = False
    """Whether this was a terminal that is closed now."""

    def heard(self) -> None:
        """The guest has sent something."""

    def check(self, now: float) -> bool:
        """Whether to ask the guest what keeps it from reacting; `told` takes its answer."""
        return False

    def told(self, stuck: str) -> None:
        """Take the guest's word on a process in uninterruptible sleep, or an empty one."""


def is_behind(fd: int) -> bool:
    """Say whether `fd` is our session's terminal, and we are not in its foreground."""
    try:
        return os.tcgetpgrp(fd) != os.getpgrp()
    except OSError:
        return False


def _reopen(fd: int) -> int:
    """Return a non-blocking description of the same pipe or terminal, or -1.

    O_NONBLOCK belongs to the description, which we share with whoever started us (a shell, go):
    setting it on `fd` itself would break them.
    """
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISFIFO(mode) or (stat.S_ISCHR(mode) and os.isatty(fd)):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
            return os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:
        pass
    return -1


def _is_file(fd: int) -> bool:
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:
        return False


def describe(fd: int) -> str:
    """Return how the command should get this stream: `closed`, `null` or `pipe`.

    A test can tell `/dev/null` from a pipe, and go gives its tests `/dev/null`.
    """
    try:
        status = os.fstat(fd)
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        if flags & os.O_PATH:
            return "closed"  # by `hold_closed`
    except OSError:
        return "closed"
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL_DEVICE:
        return "null"
    if fd == 0 and flags & os.O_ACCMODE == os.O_WRONLY:
        return "closed"  # reading either is EBADF
    return "pipe"


def describe_all() -> dict[str, str]:
    """Return the order's `stdin`, `stdout` and `stderr`.

    Where our stdout and stderr are one pipe (as go has it), the command gets one as well, so that
    the order of its lines is kept.
    """
    modes = {name: describe(fd) for fd, name in enumerate(("stdin", "stdout", "stderr"))}
    if modes["stdout"] == modes["stderr"] == "pipe" and os.path.sameopenfile(1, 2):
        modes["stderr"] = "stdout"
    return modes
