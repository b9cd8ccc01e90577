"""Our own descriptors: what stands for one that is closed, and writing to them."""

import os

from vimto.errors import StreamError

_NAMES = ("stdin", "stdout", "stderr")


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


def stream_name(fd: int) -> str:
    """Return what a user calls one of our first three descriptors."""
    return _NAMES[fd]


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data` to stdout or stderr, whoever made it non-blocking.

    Raises `BrokenPipeError` when the reader has gone, `StreamError` for any other failure.
    """
    count = 0
    while count < len(data):
        try:
            count += os.write(fd, memoryview(data)[count:])
        except BlockingIOError:
            import select  # seldom needed, and QEMU is not started yet where we are imported

            poller = select.poll()
            poller.register(fd, select.POLLOUT)
            poller.poll()
        except BrokenPipeError:
            raise
        except OSError as exc:
            raise StreamError(stream_name(fd), exc.errno or 0, count) from exc
    flush(fd, fd, count)


def flush(fd: int, stream: int, count: int) -> None:
    """Raise `StreamError` when the file system lost some of the `count` bytes written to `fd`.

    That is the descriptor of our `stream`, 1 or 2, or stands for it. NFS and others with a quota
    say only when a descriptor is closed that the disk was full, and do so at every one (close(2)).
    """
    try:
        os.close(os.dup(fd))
    except OSError as exc:
        raise StreamError(stream_name(stream), exc.errno or 0, count) from exc
