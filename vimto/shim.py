"""What `go test -exec` runs, once per test binary: the hot path.

    python -I -S shim.py PID PLAN LIFELINE (--save SHARES | WORDS…)

PID is the `vimto go test` that waits for go, PLAN and LIFELINE are descriptors of it: the plan in
memory, and a pipe that hangs up when it is gone. So no file has to be cleaned up, however either
of us ends. WORDS run in a machine; `--save` makes the save of the one with room for that many
shares. Imports are the standard library's light ones and our own; a test pins the set.
"""

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vimto.vm.plan import Plan


def main(argv: list[str]) -> int:
    """Run one command in a machine as the plan says and return the status to exit with."""
    # -I leaves the directory of the script out of the path, and -S site-packages.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from vimto import console
    from vimto.errors import VIMTO_FAILED, BootError, VimtoError
    from vimto.vm.plan import load_plan
    from vimto.vm.streams import hold_closed

    hold_closed()
    try:
        pid, plan_fd, lifeline_fd, *words = argv
        try:
            with open(f"/proc/{pid}/fd/{plan_fd}", "rb") as file:
                plan = load_plan(file.read())
            lifeline = os.open(f"/proc/{pid}/fd/{lifeline_fd}", os.O_RDONLY | os.O_NONBLOCK)
        except OSError as exc:
            raise BootError("the vimto that started this run is gone") from exc
        console.set_verbosity(plan.verbose)
        if words[0] == "--save":
            from vimto.vm.run import make_save

            return make_save(plan, plan.tier_for(int(words[1])), lifeline)
        return _run(plan, words, lifeline)
    except VimtoError as exc:
        console.error(exc)
        return exc.status
    except KeyboardInterrupt:
        return VIMTO_FAILED
    except Exception:
        # A fault of ours. Python's own end would be the status 1, as of a test that failed.
        sys.excepthook(*sys.exc_info())
        return VIMTO_FAILED


def _run(plan: "Plan", words: list[str], lifeline: int) -> int:
    import contextlib

    from vimto.vm.launch import Launch

    with contextlib.ExitStack() as stack:
        launch = None
        if plan.tiers[0].save:
            launch = stack.enter_context(Launch(plan.tiers[0].machine[0]))
        from vimto.vm.run import Request, run  # while QEMU loads

        request = Request(words, os.getcwd(), os.environb, lifeline, launch=launch)
        return run(plan, request)


if __name__ == "__main__":
    # No interpreter shutdown: nothing is left to do, and it takes as long as half our imports.
    os._exit(main(sys.argv[1:]))
