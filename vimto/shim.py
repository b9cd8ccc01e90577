"""What `go test -exec` runs, once per test binary: the hot path.

    python -I -S shim.py PID PLAN LIFELINE QEMU WORDS…
    python -I -S shim.py PID PLAN LIFELINE "" --snapshot SHARES

PID is the `vimto go test` that waits for go, PLAN and LIFELINE are descriptors of it: the plan in
memory, and a pipe that hangs up when it is gone. So no file has to be cleaned up, however either
of us ends. WORDS run in a machine; QEMU is the program that becomes it, empty where it is to be
booted. `--snapshot` makes the snapshot of the machine with room for that many shares. Imports are
the standard library's light ones and our own; a test pins the set.
"""

import os
import sys


def main(argv: list[str]) -> int:
    """Run one command in a machine as the plan says and return the status to exit with."""
    # -I leaves the directory of the script out of the path, and -S site-packages.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from vimto.descriptors import hold_closed
    from vimto.errors import VIMTO_FAILED, StreamError, VimtoError
    from vimto.qemu.process import drop_ahead, load_ahead

    hold_closed()
    pid, plan, lifeline, qemu, *words = argv
    try:
        if qemu:
            load_ahead(qemu)
        return _run((pid, plan, lifeline), words)
    except VimtoError as exc:
        from vimto import console

        if isinstance(exc, StreamError):
            _take_stderr(pid)
        console.error(exc)
        return exc.status
    except KeyboardInterrupt:
        return VIMTO_FAILED
    except Exception as exc:
        from vimto import console

        return console.unexpected(exc)
    finally:
        drop_ahead()


def _take_stderr(pid: str) -> None:
    """Speak on the stderr of the vimto `pid`: go makes ours the stream that failed."""
    try:
        os.dup2(os.open(f"/proc/{pid}/fd/2", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC), 2)
    except OSError:
        pass


def _run(place: tuple[str, str, str], words: list[str]) -> int:
    # Imported while QEMU loads.
    from vimto import console
    from vimto.errors import BootError
    from vimto.plan.plan import load_plan
    from vimto.vm.request import Request
    from vimto.vm.run import make_snapshot, run

    pid, plan_fd, lifeline_fd = place
    try:
        with open(f"/proc/{pid}/fd/{plan_fd}", "rb") as file:
            plan = load_plan(file.read())
        lifeline = os.open(f"/proc/{pid}/fd/{lifeline_fd}", os.O_RDONLY | os.O_NONBLOCK)
    except OSError as exc:
        raise BootError("the vimto that started this run is gone") from exc
    console.set_verbosity(plan.verbose)
    if words[0] == "--snapshot":
        return make_snapshot(plan, plan.shape_for(int(words[1])), lifeline)
    if plan.go_timeout:
        words = plan.go_timeout.told(words)
    return run(plan, Request(words, os.getcwd(), os.environb, lifeline))


if __name__ == "__main__":
    # No interpreter shutdown: nothing is left to do, and it takes as long as half our imports.
    os._exit(main(sys.argv[1:]))
