"""The gdb of this host, whether it can do what is asked of it."""

from vimto.errors import UsageError
from vimto.process import proc
from vimto.process.spawn import which


def check_gdb() -> None:
    """Raise `UsageError` unless there is a gdb that has Python."""
    if which("gdb") is None:
        raise UsageError(
            "`gdb` is not installed or not on PATH",
            hint="on Debian and Ubuntu: sudo apt-get install gdb; or use your own debugger with "
            "`-listen HOST:PORT`",
        )
    probe = proc.run(["gdb", "-nx", "-batch", "-ex", "python print(6 * 7)"], check=False)
    if probe.stdout.strip() != b"42":
        lines = (probe.stdout + probe.stderr).decode("utf-8", "replace").splitlines()
        raise UsageError(
            "this gdb has no Python",
            lines=tuple(lines[-3:]),
            hint="install the full gdb (Debian: `gdb`, not `gdb-minimal`)",
        )
