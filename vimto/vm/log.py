"""What a machine's QEMU writes: the guest's console and its own complaints, of bounded size.

Anybody in the guest may write to the console for ever (`cat /dev/zero > /dev/ttyS0`), and what is
written lies in this host's memory. So the beginning is kept, and the end: the middle is dropped.

    file     beginning (HEAD bytes), and what came since the file was last cut
    memory   what came before that, cut to TAIL bytes
"""

import os
import time

from vimto.vm.observer import Observer

# A boot with all messages is 100 KiB; a panic with every processor's stack as well.
HEAD = 1 << 20
TAIL = 1 << 20
# An emulated serial port takes less than a megabyte a second: it is cut before it is much larger.
LIMIT = 4 << 20
_STEP = 1.0
# As much of it is looked at for news; a line may be half written at the first look.
_NEWS = 64 << 10
_OVERLAP = 256


class Log(Observer):
    """The log in the open file `fd`, which stays its owner's and is opened for appending.

    `wake_at` is when `check` is due next (time.monotonic).
    """

    def __init__(self, fd: int) -> None:
        self.wake_at = time.monotonic() + _STEP
        self._fd = fd
        self._tail = b""
        self._dropped = 0
        self._seen = 0

    def check(self) -> None:
        """Cut the log if it is due and too long."""
        if time.monotonic() < self.wake_at:
            return
        self.wake_at = time.monotonic() + _STEP
        if os.fstat(self._fd).st_size > LIMIT:
            data = self._tail + self._read_from(HEAD)
            # What is written between the last read and this is lost; it is one write or two.
            os.ftruncate(self._fd, HEAD)
            self._tail = data[-TAIL:]
            self._dropped += len(data) - len(self._tail)

    def news(self) -> bytes:
        """Return what was written since the last time, with the end of what was before."""
        size = os.fstat(self._fd).st_size
        if size == self._seen:
            return b""
        start = self._seen - _OVERLAP if self._seen < size else 0
        self._seen = size
        start = max(0, start, size - _NEWS)
        return os.pread(self._fd, size - start, start)

    def lines(self) -> list[str]:
        """Return the lines so far but empty ones, with one that says what was dropped."""
        parts = [self._read_from(0)]
        if self._dropped:
            note = f"\n({self._dropped} bytes left out)\n".encode()
            parts = [parts[0][:HEAD], note, self._tail, parts[0][HEAD:]]
        lines = b"".join(parts).decode("utf-8", "replace").replace("\r", "").split("\n")
        return [line for line in lines if line.strip()]

    def _read_from(self, offset: int) -> bytes:
        data = bytearray()
        while chunk := os.pread(self._fd, 1 << 20, offset + len(data)):
            data += chunk
        return bytes(data)
