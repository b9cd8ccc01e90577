"""Everything that can go wrong with vimto itself, as opposed to the test it runs.

Only `cli` and `shim` catch these; each ends vimto with `VimtoError.status`, so that a caller can
tell "the machine was lost" from "the test failed".
"""

import errno
import os

# The status that env(1), timeout(1) and docker use for "the tool failed, not the command".
VIMTO_FAILED = 125


class VimtoError(Exception):
    """A failure of vimto or of its machine, never of the command that runs in it.

    `message` is one line without a full stop; `lines` are quoted below it (log lines, most
    recent last); `hint` says what the user can do.
    """

    status = VIMTO_FAILED

    def __init__(self, message: str, *, hint: str = "", lines: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.lines = lines


# What a process may get no more of, though nothing is wrong with what it does.
_SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)


def scarcity(exc: Exception) -> VimtoError | None:
    """Return the error to show where the host has no more to give; None for any other fault."""
    if not isinstance(exc, OSError) or exc.errno not in _SCARCE:
        return None
    return VimtoError(
        f"this host lets vimto have no more: {exc.strerror}",
        hint="`ulimit -a` shows the limits of this shell and of all that it starts",
    )


class UsageError(VimtoError):
    """The command line cannot be understood."""


class ConfigError(VimtoError):
    """A configuration file or an environment variable cannot be used."""


class KernelError(VimtoError):
    """The kernel does not exist, cannot be read, or lacks what vimto needs."""


class ImageError(VimtoError):
    """An OCI image cannot be fetched, verified or unpacked."""


class AgentError(VimtoError):
    """The guest program cannot be built."""


class CacheError(VimtoError):
    """The cache cannot be used."""


class CacheBusyError(CacheError):
    """Somebody else has been making an entry of the cache for too long."""


class QemuError(VimtoError):
    """QEMU is missing, too old, or refused its command line."""


class QemuSilentError(QemuError):
    """QEMU did not answer on its monitor, or ended before it did; it has not refused anything."""


class BootError(VimtoError):
    """The machine did not come up, or not in time; the command has not been started."""


class EmulatorFaultError(BootError):
    """The machine did not come up for a fault of the emulator that another try may not meet."""


class LostMachineError(VimtoError):
    """The machine ended, or fell silent, before the command's status was known."""


class CommandError(VimtoError):
    """A process that vimto started on the host failed."""


class StreamError(VimtoError):
    """Bytes were lost between the command, or vimto, and one of vimto's own streams.

    A reader that has gone away is not such a failure: it wants no more.
    """

    def __init__(self, stream: str, errno: int, count: int) -> None:
        verb = "read from" if stream == "stdin" else "write to"
        reason = os.strerror(errno).lower()
        super().__init__(f"cannot {verb} {stream}: {reason}, after {count} bytes")
        self.errno = errno
