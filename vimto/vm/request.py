"""What is asked of a machine: a command, what it sees of the host, and who stands by."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from vimto.plan.plan import IMAGE_TAG, share_tag
from vimto.plan.shares import Share
from vimto.plan.views import Link, View
from vimto.qemu.backends import Directory
from vimto.qemu.options import NOTHING
from vimto.vm import streams
from vimto.vm.observer import Observer

if TYPE_CHECKING:  # who has no terminal, as go's tests, loads neither
    from vimto.vm.forward import Forwarding
    from vimto.vm.machine import Machine
    from vimto.vm.terminal import Terminal


class Companion(Observer):
    """Somebody at the machine's side while its command runs, such as a debugger; this is nobody.

    `extra` is what QEMU is told besides. It has `begun` once no other machine can take this one's
    place.
    """

    extra = NOTHING
    begun = False

    def meet(self, machine: "Machine") -> None:
        """The conversation with what runs in `machine` is about to begin."""

    def hear(self, event: str) -> None:
        """QEMU's monitor has told of an event."""


class Request(NamedTuple):
    """A command to run: its arguments, directory and environment.

    `lifeline` hangs up when the vimto that made the plan is gone (-1 for none). With a `terminal`
    the command gets one of its own; `forwarding` are connections into the guest. `make_output`
    makes what carries the command's output, given the stream's number and our descriptor. `modes`
    are what the command's streams are (`streams.describe_all`), None for what ours are. The machine
    waits for its turn at most `wait_limit` seconds (None: as long as it takes).
    """

    argv: list[str]
    cwd: str
    environment: Mapping[bytes, bytes]
    lifeline: int = -1
    terminal: "Terminal | None" = None
    forwarding: "Forwarding | None" = None
    make_output: Callable[[int, int], streams.Output] = streams.Output
    modes: Mapping[str, str] | None = None
    companion: Companion = Companion()
    wait_limit: float | None = None


class Places(NamedTuple):
    """What a machine sees of the host besides its root."""

    shares: list[Share]
    views: list[View]
    links: list[Link]

    def directories(self, slots: Sequence[str], image: str) -> dict[str, Directory]:
        """Return what is behind each of a machine's mount tags; unused ones show the root.

        `image` is the kernel's own tree, "" for none. A machine has a slot for each share.
        """
        found = dict.fromkeys(slots, Directory("/"))
        if image:
            found[IMAGE_TAG] = Directory(image)
        for index, share in enumerate(self.shares):
            found[share_tag(index)] = Directory(share.path, share.readonly)
        return found
