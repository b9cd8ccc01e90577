"""Whose fault it is that a machine was not restored."""

import signal

import pytest

from vimto.errors import BootError, QemuError
from vimto.vm.blame import CRASHED, ENDED, KILLED, REFUSED, SILENT, STATE, judge

GONE = BootError("the machine ended before the command was started")
LATE = BootError("the guest did not answer within 20 s")
NO_WORD = QemuError("QEMU refused the snapshot: it gives no reason")
EXITED = 1 << 8  # the wait status of exit(1)

BAD_STATE = (
    "Unknown savevm section or instance '0000:00:06.0/virtio-9p' 0.",
    "load of migration failed: Invalid argument",
)
NOT_HANDED = "File descriptor named 'state' has not been found"


@pytest.mark.parametrize(
    ("exc", "status", "complaints", "fault"),
    [
        # QEMU's own word on the state.
        (GONE, EXITED, BAD_STATE, STATE),
        (GONE, EXITED, ("Not a migration stream", "load of migration failed: x"), STATE),
        (GONE, EXITED, ("error while loading state for instance 0x0 of device 'ram'",), STATE),
        (GONE, signal.SIGSEGV, BAD_STATE, STATE),
        (NO_WORD, None, (), STATE),
        # The host had too little.
        (QemuError("QEMU refused the snapshot: x: Too many open files"), None, (), REFUSED),
        (QemuError("QEMU refused the snapshot: y; " + NOT_HANDED), None, (), REFUSED),
        (GONE, EXITED, ("load of migration failed: Cannot allocate memory",), REFUSED),
        (GONE, EXITED, ("cannot set up guest memory 'ram': Cannot allocate memory",), REFUSED),
        (GONE, EXITED, ("-fsdev local,…: Too many open files",), REFUSED),
        (
            GONE,
            EXITED,
            ("-gdb tcp::1: Failed to find an available port: Address already in use",),
            REFUSED,
        ),
        # Somebody, or the kernel, killed QEMU.
        (GONE, signal.SIGKILL, (), KILLED),
        (GONE, signal.SIGTERM, (), KILLED),
        (GONE, 0, ("terminating on signal 15 from pid 7 (kill)",), KILLED),
        # The guest ended the machine, QEMU itself, or nobody says a word.
        (GONE, 0, (), ENDED),
        (GONE, signal.SIGABRT | 0x80, ("Assertion `x' failed.",), CRASHED),
        (GONE, signal.SIGSEGV, (), CRASHED),
        (GONE, signal.SIGBUS | 0x80, (), CRASHED),
        (GONE, signal.SIGILL, (), CRASHED),
        (LATE, None, (), SILENT),
        (LATE, None, ("warning: host doesn't support requested feature",), SILENT),
    ],
)
def test_judge(
    exc: BootError | QemuError, status: int | None, complaints: tuple[str, ...], fault: str
) -> None:
    assert judge(exc, status, complaints) == fault
