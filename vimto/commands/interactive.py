"""What commands share: a terminal, and connections into the machine."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from vimto.config import Config
from vimto.vm.request import Request

if TYPE_CHECKING:
    from vimto.vm.forward import Forward, Forwarding


@contextlib.contextmanager
def attended(config: Config, more: Sequence["Forward"] = ()) -> Iterator[Request]:
    """Return a request without a command yet, for this directory and with our terminal, if any.

    The configured connections into the machine, and after them `more`, are open while the context
    lasts. Raises `VimtoError` when an address is taken.
    """
    request = Request([], os.getcwd(), os.environb)
    if os.isatty(0) and os.isatty(1):
        from vimto.vm.terminal import find_terminal

        request = request._replace(terminal=find_terminal())
    with forwarding(config, more) as connections:
        yield request._replace(forwarding=connections)


@contextlib.contextmanager
def forwarding(config: Config, more: Sequence["Forward"] = ()) -> Iterator["Forwarding | None"]:
    """Listen for the configured connections into the machine, and for `more`; None for none.

    Raises `VimtoError` when an address is taken.
    """
    if not config.forward and not more:
        yield None
        return
    from vimto.addresses import parse_pair
    from vimto.vm.forward import Forward, Forwarding

    configured = [Forward(*parse_pair(text)) for text in config.forward]
    with Forwarding([*configured, *more]) as connections:
        yield connections
