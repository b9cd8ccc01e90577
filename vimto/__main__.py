"""The program: `vimto`, and `python -m vimto`.

`vimto exec` needs a QEMU, which takes as long to load as the rest of us: it is started first, and
told later which machine to become.
"""

import os
import sys

from vimto.descriptors import hold_closed
from vimto.errors import VimtoError


def main() -> None:
    """Run the command line of this process and exit."""
    hold_closed()
    try:
        if "exec" in sys.argv:
            _load_qemu()
        from vimto import cli
    except KeyboardInterrupt:
        os._exit(130)
    cli.main()


def _load_qemu() -> None:
    from vimto.qemu.find import find_qemu
    from vimto.qemu.process import load_ahead

    try:
        load_ahead(find_qemu())
    except (VimtoError, OSError):
        pass  # whoever needs it will try again, and say so


if __name__ == "__main__":
    main()
