"""One command in one machine, from its order to its status."""

import errno
import itertools
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from typing import Any, NamedTuple

from vimto import console
from vimto.cache import verdicts
from vimto.cache.snapshots import Snapshot
from vimto.errors import (
    BootError,
    EmulatorFaultError,
    LostMachineError,
    QemuError,
    StreamError,
    VimtoError,
)
from vimto.plan import shares, views
from vimto.plan.plan import Plan, Shape
from vimto.qemu.backends import Directory
from vimto.vm import cores, protocol, snapshot, streams
from vimto.vm import machine as machines
from vimto.vm.blame import NotRestoredError, diagnose, settle
from vimto.vm.claims import Turn, wait_turn
from vimto.vm.conversation import Conversation, Limits
from vimto.vm.fate import HaltWatch, MonitorWatch
from vimto.vm.loss import explain, show_log
from vimto.vm.machine import Machine
from vimto.vm.observer import Observer
from vimto.vm.order import describe_host, make_order
from vimto.vm.overtime import Overtime
from vimto.vm.patience import Patience
from vimto.vm.request import Places, Request
from vimto.vm.signals import SignalPipe
from vimto.vm.waiting import Lifeline, Waiting

# A restored machine answers in a tenth of a second; a host under load deserves patience.
_ACCEPT_LIMIT = 20.0
_PREPARE_LIMIT = 600.0

# What may still go on when the command has ended, by `protocol.STAGES`, and when it is told of.
_ENDINGS = {
    "teardown": "a `teardown` command is still running",
    "flush": "what is in the shared directories is still being written back",
}
_ENDING_SAID_AFTER = 10.0


def run(plan: Plan, request: Request) -> int:
    """Run the command in a machine of its own and return its status (128+N after signal N).

    A snapshot that does not come back to life costs a line and a boot, never the result. Raises
    `BootError` when there is no machine, `LostMachineError` when it was lost with the command in
    it.
    """
    places, shape = choose_machine(plan, request)
    shares.admit(places.shares, _command(plan, request), plan.uid, plan.gid)
    dumps = cores.watched(request.argv, request.cwd, plan.temporary)
    until = None if request.wait_limit is None else time.monotonic() + request.wait_limit
    with dumps, SignalPipe() as signals:
        waiting = Waiting(signals, request.lifeline, until)
        job = Job(plan, shape, places, request, waiting)
        status = _run_restored(job) if shape.key else None
        if status is not None:
            return status
        try:
            return job.run_booted()
        except EmulatorFaultError:  # the command was not started
            if request.companion.begun:
                raise
            return job.run_booted()


def _run_restored(job: "Job") -> int | None:
    """Run the command in a restored machine and return its status, None where it was not started.

    The user has been told why then.
    """
    plan, shape = job.plan, job.shape
    found = snapshot.acquire_snapshot(plan, shape, job.waiting)
    if found is None:
        return None
    with closing(found):
        for tries in itertools.count(1):
            try:
                return job.run_restored(found)
            except NotRestoredError as exc:
                if not settle(plan, shape, found, exc, tries):
                    break
    return None


def choose_machine(plan: Plan, request: Request) -> tuple[Places, Shape]:
    """Return what a machine for a request sees, and the smallest one with room for it.

    Raises `ConfigError` when no machine has, and where the cache lies in one of them.
    """
    command = _command(plan, request)
    wanted = [shares.Share(path, readonly) for path, readonly in plan.shares]
    wanted += shares.find_shares(command)
    shared = shares.collapse(wanted)
    shares.refuse_cache(shared, os.path.dirname(plan.snapshots))
    named = [*plan.shown, *(share.path for share in wanted)]
    places = Places(shared, *views.find_views(command, named, shared))
    return places, plan.shape_for(len(shared))


def _command(plan: Plan, request: Request) -> shares.Command:
    environment = {os.fsdecode(k): os.fsdecode(v) for k, v in request.environment.items()}
    return shares.Command(request.argv, request.cwd, environment, plan.temporary, plan.homes)


def make_snapshot(plan: Plan, shape: Shape, lifeline: int) -> int:
    """Make the snapshot of `shape` if there is none; returns a status.

    Runs beside go's compiling. Whoever needs it waits for its lock; a failure is left for
    them to report.
    """
    with SignalPipe() as signals:
        try:
            found = snapshot.acquire_snapshot(plan, shape, Waiting(signals, lifeline))
        except VimtoError:
            return 1
        if found is not None:
            found.close()
    return 0


class Job(NamedTuple):
    """A command, the machine that is to run it, and what may end the wait for that."""

    plan: Plan
    shape: Shape
    places: Places
    request: Request
    waiting: Waiting

    def run_booted(self) -> int:
        """Run the command in a machine that boots, and return its status; raises as `run`."""
        more = self.request.companion.extra
        with (
            closing(self._wait_turn()) as turn,
            machines.boot(self.plan, self.shape, self._directories(), more) as machine,
        ):
            conversation = self._conversation(machine, turn, restored=False)
            try:
                status = self._converse(conversation)
            except (BootError, LostMachineError) as exc:
                raise explain(exc, machine, self.plan) from exc
            show_log(machine)
            return status

    def run_restored(self, found: Snapshot) -> int:
        """Run the command in a machine restored from `found`, and return its status.

        Raises `NotRestoredError` when it was not started, else as `run`.
        """
        more = self.request.companion.extra
        with (
            closing(self._wait_turn()) as turn,
            machines.restore(self.plan, self.shape, self._directories(), found, more) as machine,
        ):
            conversation = self._conversation(machine, turn, restored=True)
            conversation.send_order()
            try:
                status = self._converse(conversation)
            except LostMachineError as exc:
                raise explain(exc, machine, self.plan) from exc
            except (BootError, QemuError) as exc:
                raise diagnose(exc, machine, self.plan) from exc
            show_log(machine)
            return status

    def _praise(self) -> None:
        verdicts.acquit(self.plan.snapshots, self.shape.key)
        console.debug("the machine is restored from a snapshot")

    def _directories(self) -> dict[str, Directory]:
        return self.places.directories(self.shape.slots, self.plan.image)

    def _wait_turn(self) -> Turn:
        waiting = self.waiting
        return wait_turn(self.plan.snapshots, self.plan.memory, waiting.pause, waiting.left)

    def _conversation(self, machine: Machine, turn: Turn, *, restored: bool) -> Conversation:
        companion = self.request.companion
        if companion.extra.options:
            turn.close()  # it may be held before its first instruction, for hours
        # Not under a debugger, whose breakpoints a program that nobody started would meet.
        warm_up = restored and machine.spare and not companion.extra.options
        companion.meet(machine)
        limits = Limits(
            boot=self.plan.boot_timeout,
            accept=_ACCEPT_LIMIT,
            prepare=_PREPARE_LIMIT,
            run=self.plan.timeout,
            stop=self.plan.stop_timeout,
        )
        return Conversation(
            machine.port,
            lambda: self._make_order(warm_up),
            limits,
            self.waiting.signals,
            self._observers(machine, _Start(turn, self._praise if restored else None)),
            Patience(machine.pid),
        )

    def _observers(self, machine: Machine, start: "_Start") -> list[Observer]:
        request, timeout = self.request, self.plan.go_timeout
        found: list[Observer] = [
            start,
            _Ending(),
            MonitorWatch(machine, request.companion),
            HaltWatch(machine),
            machine.log,
            Lifeline(request.lifeline),
            request.companion,
        ]
        if timeout and timeout.kill:
            found.append(Overtime(timeout))
        return [*found, *filter(None, (request.terminal, request.forwarding))]

    def _converse(self, conversation: Conversation) -> int:
        terminal = self.request.terminal
        modes = self._modes()
        stdin = None
        if modes["stdin"] == "pipe":
            stdin = terminal.keys() if terminal else streams.Input(0)
        outputs = {
            fd: self.request.make_output(fd, fd)
            for fd, name in ((1, "stdout"), (2, "stderr"))
            if modes[name] == "pipe"
        }
        conversation.attach(stdin, dict(outputs))
        try:
            with terminal or nullcontext():
                result = conversation.run()
            for observer in conversation.observers:
                observer.finish(result)
            check_streams(result, [*outputs.values(), *([stdin] if stdin else [])])
        finally:
            for output in outputs.values():
                output.close()
        return settle_status(result)

    def _modes(self) -> dict[str, str]:
        """Return what the command's stdin, stdout and stderr are.

        On a terminal they are the guest's terminal, but for a stderr that leads elsewhere.
        """
        if self.request.modes is not None:
            return dict(self.request.modes)
        modes = streams.describe_all()
        if self.request.terminal and os.isatty(2):
            modes["stderr"] = "stdout"
        return modes

    def _make_order(self, warm_up: bool) -> dict[str, Any]:
        host, modes = describe_host(), self._modes()
        return make_order(self.plan, self.request, self.places, host, modes, warm_up=warm_up)


def settle_status(result: protocol.Exit) -> int:
    """Return the status that vimto ends with after `result`.

    What kept the command from being started is told, and has its status (126, 127). Raises
    `VimtoError` for what failed before or after the command: the status it may have had is no
    result then.
    """
    if result.error:
        error = VimtoError(result.error, hint=result.hint)
        if result.stage not in ("start", "command"):
            raise error
        console.error(error)
    return result.status


class _Start(Observer):
    """Gives the machine's turn to the next one, and shows what the guest program says."""

    def __init__(self, turn: Turn, accepted: Callable[[], None] | None) -> None:
        self._turn = turn
        self._accepted = accepted

    def accepted(self) -> None:
        self._turn.close()
        if self._accepted:
            self._accepted()

    def noticed(self, notice: protocol.Notice) -> None:
        show_notice(*notice)


class _Ending(Observer):
    """Says what is waited for when a command has ended and its machine goes on for long."""

    def __init__(self) -> None:
        self._stage = ""

    def noticed(self, notice: protocol.Notice) -> None:
        if notice.level == "stage":
            self._stage = notice.text
            self.wake_at = time.monotonic() + _ENDING_SAID_AFTER

    def ended(self) -> None:
        self.wake_at = 0.0

    def check(self) -> None:
        if self.wake_at and time.monotonic() >= self.wake_at:
            self.wake_at = 0.0
            console.note(f"the command has ended; waiting: {_ENDINGS[self._stage]}")


def check_streams(result: protocol.Exit, ours: Sequence[streams.Output | streams.Input]) -> None:
    """Raise `StreamError` when one of our streams failed: no status can make up for lost bytes.

    Writing to a terminal that hung up is EIO as well; SIGHUP has said so already.
    """
    for stream in ours:
        try:
            stream.verify()
        except StreamError as exc:
            if exc.errno != errno.EIO or result.signal != signal.SIGHUP:
                raise


def show_notice(level: str, text: str) -> None:
    """Show what the guest program has to say: warnings and what teardown commands say always."""
    if level == "warning":
        console.warn(text)
    elif level == "teardown" or (level == "setup" and console.verbosity()):
        console.write(text)
    elif level in ("setup", "stage"):
        pass  # what a setup command that fails said is in the error
    else:
        console.debug(text)
