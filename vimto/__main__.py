"""The program: `vimto`, and `python -m vimto`.

`vimto exec` needs a QEMU, which takes as long to load as the rest of us: it is started first, and
told later what it is to be.
"""

import os
import sys

from vimto.descriptors import hold_closed
from vimto.errors import VimtoError

TYPE_CHECKING = False  # nothing that takes long is imported before QEMU is started
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
    from vimto.qemu.find import find_qemu
    from vimto.vm.launch import Launch

    try:
        return Launch(find_qemu())
    except (VimtoError, OSError):
        return None  # whoever needs it will try again, and say so


if __name__ == "__main__":
    main()
