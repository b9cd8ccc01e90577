"""Who takes part in a conversation with a guest, and what each of them may do in it."""

from enum import IntEnum
from typing import Protocol

from vimto.vm.protocol import Exit, Kind, Notice
from vimto.vm.signals import SignalPipe


class State(IntEnum):
    """How far a conversation has come: see `vimto.vm.conversation`."""

    BOOTING = 0
    ORDERED = 1
    PREPARING = 2
    PAUSED = 3
    RUNNING = 4
    EXITED = 5


class Line(Protocol):
    """The conversation, to those who take part in it."""

    state: State
    signals: SignalPipe

    def send(self, frame: bytes) -> None:
        """Queue a frame for the guest; after its exit nothing is sent any more."""
        ...

    def send_size(self) -> None:
        """Tell the guest the size of our terminal; without one nothing happens."""
        ...

    def pass_on(self, number: int) -> None:
        """Send the command's process group a signal, which the guest will acknowledge."""
        ...

    def resume(self) -> None:
        """Let a paused guest start its command."""
        ...

    def hold_clock(self) -> None:
        """Let no time count against the limits, for the machine has been stopped."""
        ...

    def release_clock(self) -> None:
        """Let time count again."""
        ...


class Observer:
    """Somebody who takes part in a conversation; this one does nothing.

    `wake_at` is when `check` is due (time.monotonic), 0 is never. With `pauses` the guest waits
    before it starts the command, `paused` is called, and somebody resumes it.
    """

    wake_at = 0.0
    pauses = False

    def join(self, line: Line) -> None:
        """The conversation is about to begin; `line` is for as long as it lasts."""

    # What there is to wait for besides the guest.

    def interests(self) -> list[tuple[int, int]]:
        """Return the descriptors that are ours to handle, with the events to poll for."""
        return []

    def handle(self, fd: int, events: int) -> None:
        """Do what is possible with one of `interests`."""

    def check(self) -> None:
        """Look at the time; called again and again."""

    @property
    def pending(self) -> bool:
        """Whether the conversation must go on although the command has ended."""
        return False

    # What the guest says.

    def accepted(self) -> None:
        """The order is taken: no other machine can take this one's place."""

    def paused(self) -> None:
        """The guest waits to be resumed."""

    def started(self) -> None:
        """The command runs."""

    def noticed(self, notice: Notice) -> None:
        """The guest program has something to say, or tells of its stage."""

    def ended(self) -> None:
        """The guest has reported how the command ended."""

    def answered(self) -> None:
        """The guest program has answered a signal, so it is there."""

    def take_frame(self, kind: Kind, payload: bytes) -> bool:
        """Take a frame that is about something of ours; say whether it was."""
        return False

    def finish(self, result: Exit) -> None:
        """The conversation is over, with this `result`; the machine is about to be ended.

        Raises `VimtoError` where something of the command's was lost.
        """

    # What happens to us.

    def continued(self) -> None:
        """We were stopped, and go on (SIGCONT) while the command runs."""
