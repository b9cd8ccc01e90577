"""Waits that a signal ends at once, wherever they block."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

_Result = TypeVar("_Result")


def interruptible(action: Callable[[], _Result]) -> _Result:
    """Return what `action` returns, or raise what it raises; a signal's exception comes at once.

    Python runs its signal handlers between two steps of the main thread. What blocks inside of C
    without a step (getaddrinfo(3) tries each name server for seconds) is done in a thread beside
    it, and left to itself if a signal comes; so `action` must not mind to be cut short by our end.
    """
    if threading.current_thread() is not threading.main_thread():
        return action()
    done = threading.Event()
    outcome: list[Any] = [None, None]

    def run() -> None:
        try:
            outcome[0] = action()
        except BaseException as exc:
            outcome[1] = exc
        finally:
            done.set()

    threading.Thread(target=run, daemon=True).start()
    done.wait()
    result, error = outcome
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]
