"""Our own descriptors, before anything else happens to them."""

import os


def hold_closed() -> None:
    """Put a placeholder where stdin, stdout or stderr is closed; call it before anything is opened.

    Else the first thing we open gets that number, and would be read as our stdin. Reading from or
    writing to an O_PATH descriptor fails with EBADF, as with a closed one (open(2)).
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open("/", os.O_PATH | os.O_CLOEXEC)  # the lowest number that is free: this one
