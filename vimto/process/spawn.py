"""Processes beside us, in a module that is quick to import: QEMU is started before all else."""

import os

# `signal` makes enumerations of them, which takes 5 ms.
from _signal import SIGKILL, SIGPIPE, SIGXFSZ

from vimto.errors import CommandError

TYPE_CHECKING = False  # nor is there time for `typing`
if TYPE_CHECKING:
    from collections.abc import Sequence

SETPRIV = "/usr/bin/setpriv"
# Where nothing can wake us at the end of a child, we look for it so often.
_STEP = 0.02


def which(program: str) -> str | None:
    """Return the path of what a shell would run as `program`, or None.

    As `shutil.which`, which is not used where every run passes: `shutil` takes 3 ms to import.
    """
    for directory in [""] if os.sep in program else os.get_exec_path():
        path = os.path.join(directory, program)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None


def mortal(argv: "Sequence[str]", number: str = "KILL") -> list[str]:
    """Return `argv` wrapped so that the signal `number` ends it with the thread that starts it.

    util-linux's setpriv sets PR_SET_PDEATHSIG and replaces itself by the program: no
    `preexec_fn`, so the cheap posix_spawn(3) road stays open, and no ctypes on the hot path.
    Raises `CommandError` where there is none.
    """
    if not os.access(SETPRIV, os.X_OK):
        raise CommandError(
            f"there is no `{SETPRIV}`, through which vimto starts every process",
            hint="on Debian and Ubuntu: sudo apt-get install util-linux",
        )
    return [SETPRIV, "--pdeathsig", number, "--", *argv]


# Who is killed between starting a process and that one's prctl(2) would leave it for ever; a shell
# looks, after the prctl, whether the parent is still there. (Not for go: dash drops variables
# whose names are not a shell's.)
_UNLESS_ORPHANED = ("/bin/sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"')


def spawn(argv: "Sequence[str]", *, log: int, keep: "Sequence[int]" = ()) -> int:
    """Start `argv` beside us and return its pid; the caller must reap it.

    It dies with us. Stdin is `/dev/null`, stdout and stderr are the descriptor `log`, and of our
    other descriptors it inherits those in `keep` alone, under the same numbers. Raises
    `CommandError` when it cannot be started; a program that `setpriv` cannot execute ends at
    once with a message in `log`.
    """
    for fd in keep:
        os.set_inheritable(fd, True)
    try:
        return os.posix_spawn(
            SETPRIV,
            mortal([*_UNLESS_ORPHANED, str(os.getpid()), *argv]),
            dict(os.environ),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
            setpgroup=0,  # a terminal's Ctrl-C is for the test; we end the machine ourselves
            setsigdef=[SIGPIPE, SIGXFSZ],
        )
    except OSError as exc:
        raise CommandError(f"`{argv[0]}` cannot be started: {exc.strerror}") from exc
    finally:
        for fd in keep:
            os.set_inheritable(fd, False)


def end(pid: int, *numbers: int, limit: float = 5.0) -> int | None:
    """End our child `pid`, reap it and return its wait status.

    It is sent `numbers` one after the other, SIGKILL last, each of which it has `limit` seconds
    for. One in uninterruptible sleep survives even that: None, and whoever reaps orphans will
    reap it.
    """
    for number in (*numbers, SIGKILL):
        os.kill(pid, number)
        status = wait_end(pid, limit)
        if status is not None:
            return status
    return None


def wait_end(pid: int, limit: float) -> int | None:
    """Wait up to `limit` seconds for the end of our child `pid`, and reap it.

    Returns its wait status, None while it runs.
    """
    import select

    try:
        fd = os.pidfd_open(pid)
    except OSError:  # no descriptor is left, or a container's seccomp filter does not know the call
        return _look_for_end(pid, limit)
    try:
        if not select.select([fd], [], [], limit)[0]:
            return None
    finally:
        os.close(fd)
    return os.waitpid(pid, 0)[1]


def _look_for_end(pid: int, limit: float) -> int | None:
    import time

    until = time.monotonic() + limit
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() >= until:
            return None
        time.sleep(_STEP)
    return ended[1]
