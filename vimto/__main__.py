"""The program: `vimto`, and `python -m vimto`.

`vimto exec` needs a QEMU, which takes as long to load as the rest of us: it is started first, and
told later what it is to be.
"""

import os
import sys
from typing import TYPE_CHECKING

from vimto.errors import VimtoError
from vimto.vm.streams import hold_closed

if TYPE_CHECKING:
    from vimto.vm.launch import Launch


def main() -> None:
    """Run the command line of this process and exit."""
    hold_closed()
    try:
        launch = _launch() if "exec" in sys.argv else None
        from vimto import cli
    except KeyboardInterrupt:
        os._exit(130)
    cli.main(launch)


def _launch() -> "Launch | None":
    from vimto.qemu.probe import find_qemu
    from vimto.vm.launch import Launch

    try:
        return Launch(find_qemu())
    except VimtoError:
        return None  # whoever needs it will try again, and say so


if __name__ == "__main__":
    main()
