"""A person at a terminal: starts vimto on a pty, types, and waits for what appears."""

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.vm.conftest import Vimto

_LIMIT = 100.0
_ESCAPES = re.compile(rb"\x1b(\[[0-9;?]*[a-zA-Z]|[>=])")


class Keyboard:
    """A terminal of 30 rows and 100 columns with vimto in it."""

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        master: int,
        slave: int,
        before: list[object],
    ) -> None:
        self.process = process
        self.screen = b""  # all that appeared, without control sequences
        self._raw = b""
        self._seen = 0
        self._master = master
        self._slave = slave
        self._before = before

    @property
    def is_open(self) -> bool:
        """Whether nobody has closed the terminal yet."""
        return self._master >= 0

    def type(self, text: str) -> None:
        """Type `text`; control characters as escapes."""
        os.write(self._master, text.encode())

    def expect(self, text: str, limit: float = _LIMIT) -> bytes:
        """Wait until `text` appears after what was expected before; return what came until then."""
        wanted = text.encode()
        deadline = time.monotonic() + limit
        while (at := self.screen.find(wanted, self._seen)) < 0:
            if not self._read(deadline):
                pytest.fail(f"`{text}` did not appear:\n{self.screen.decode(errors='replace')}")
        found, self._seen = self.screen[self._seen : at], at + len(wanted)
        return found

    def hang_up(self) -> None:
        """Close the terminal."""
        os.close(self._slave)
        os.close(self._master)
        self._slave = self._master = -1

    def resize(self, rows: int, columns: int) -> None:
        """Give the terminal another size."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def end(self, limit: float = _LIMIT) -> int:
        """Wait for vimto's end and return its status; the terminal must be as it was."""
        deadline = time.monotonic() + limit
        while self.process.poll() is None:
            self._read(min(deadline, time.monotonic() + 0.05))
            if time.monotonic() > deadline:
                pytest.fail(f"vimto does not end:\n{self.screen.decode(errors='replace')}")
        while self._read(time.monotonic()):
            pass
        assert termios.tcgetattr(self._slave) == self._before
        return self.process.returncode

    def _read(self, deadline: float) -> bool:
        wait = max(0.0, deadline - time.monotonic())
        if not select.select([self._master], [], [], wait)[0]:
            return False
        self._raw += os.read(self._master, 65536)
        self.screen = _ESCAPES.sub(b"", self._raw)
        return True


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@contextmanager
def seat(start: "Callable[..., subprocess.Popen[bytes]]", **options: object) -> Iterator[Keyboard]:
    """Call `start` with what `Popen` needs to give the program a terminal of its own."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    settings: dict[str, object] = {
        "stdin": slave,
        "stdout": slave,
        "stderr": slave,
        "start_new_session": True,
        "preexec_fn": _take_terminal,
    }
    before = termios.tcgetattr(slave)  # the program may set its own at once
    process = start(**(settings | options))
    keyboard = Keyboard(process, master, slave, before)
    try:
        yield keyboard
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()
        if keyboard.is_open:
            keyboard.hang_up()


@contextmanager
def sit_at(vimto: Vimto, *words: str, **options: object) -> Iterator[Keyboard]:
    """Run vimto on a terminal of its own; `options` are for `Popen`."""
    env = {"TERM": "xterm", "PS1": "", "SHELL": "/bin/bash", "HISTFILE": ""}
    with seat(lambda **settings: vimto.start(*words, env=env, **settings), **options) as keyboard:
        yield keyboard


def find_machine(vimto: Vimto, word: str = "-nodefaults") -> int:
    """Return the process id of vimto's QEMU that runs the command.

    One that still loads, and does not know which machine it becomes, counts as well, unless `word`
    of its command line tells them apart (`-kernel`: it boots).
    """
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for name in os.listdir("/proc"):
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    ours = vimto.mark.encode() in file.read()
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except (OSError, ValueError):
                continue
            found = b"qemu-system" in words[0] and word.encode() in words
            if ours and found and b",share=on" not in b"".join(words):
                return int(name)
    pytest.fail("no machine")
