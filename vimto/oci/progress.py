"""How far a pull is: a bar on a terminal, else a line every few seconds, on stderr."""

import os
import sys
import threading
import time

from vimto import console
from vimto.quoting import visible

_BAR_EVERY = 0.1
_LINE_EVERY = 5.0
_RATE_AFTER = 0.5  # before that it means nothing
_WIDTH = 24


def show_bytes(count: float) -> str:
    """Return `count` bytes for a reader: `3.1 MiB`."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def show_time(seconds: float) -> str:
    """Return a number of seconds for a reader: `1:05`."""
    whole = int(seconds + 0.5)
    return f"{whole // 60}:{whole % 60:02d}"


class PullProgress:
    """Count up to `total` bytes; `add` may be called from any thread. A context manager."""

    def __init__(self, name: str, total: int) -> None:
        self._name = name
        self._total = total
        self._done = 0
        self._lock = threading.Lock()
        self._start = time.monotonic()
        self._terminal = _have_terminal()
        self._shown = 0.0 if self._terminal else self._start
        self._drawn = False

    def __enter__(self) -> "PullProgress":
        if not self._terminal:
            console.note(f"pulling {self._name}, {show_bytes(self._total)}")
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._wipe()

    def add(self, count: int) -> None:
        """Count bytes that came; a negative number takes some back."""
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._shown >= (_BAR_EVERY if self._terminal else _LINE_EVERY):
                self._shown = now
                self._show(self.describe(now - self._start))

    def say(self, text: str) -> None:
        """Tell the user something, in a line of its own; may be called from any thread."""
        with self._lock:
            self._wipe()
            console.note(text)

    def unpacking(self) -> None:
        """Say that the bytes are all here."""
        with self._lock:
            if self._terminal:
                self._show(f"unpacking {self._name}")

    def describe(self, passed: float) -> str:
        """Return bytes, rate and time left, `passed` seconds after the start."""
        amount = f"{show_bytes(self._done)} of {show_bytes(self._total)}"
        rate = self._done / passed if passed >= _RATE_AFTER else 0.0
        if rate <= 0:
            return amount
        left = show_time((self._total - self._done) / rate)
        return f"{amount}, {show_bytes(rate)}/s, {left} left"

    def _show(self, text: str) -> None:
        if not self._terminal:
            console.note(f"pulling {self._name}: {text}")
            return
        share = min(1.0, self._done / self._total) if self._total else 1.0
        full = int(share * _WIDTH)
        bar = f"[{'#' * full}{'.' * (_WIDTH - full)}] {visible(text, keep='')}"
        width = _terminal_width() - 1
        self._write("\r\x1b[K" + bar[:width])
        self._drawn = True

    def _wipe(self) -> None:
        if self._drawn:
            self._write("\r\x1b[K")
            self._drawn = False

    def _write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, ValueError):
            pass


def _have_terminal() -> bool:
    try:
        return os.isatty(2) and os.environ.get("TERM", "dumb") != "dumb"
    except OSError:
        return False


def _terminal_width() -> int:
    try:
        return os.get_terminal_size(2).columns or 80
    except OSError:
        return 80
