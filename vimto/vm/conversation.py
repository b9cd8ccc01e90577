"""The conversation with one guest, from its first word to the command's status.

    BOOTING ──ready──> (run sent) ──> ORDERED ──accepted──> PREPARING ──started──> RUNNING
                                    (paused, where a debugger is to attach) └─> PAUSED ─┘
                                                     └─────────exit─────────┴──exit──> EXITED

A restored guest begins in ORDERED: it said `ready` before it was saved. Each state has a limit of
its own; until RUNNING only time that the machine could use counts. Until `accepted` the order may
be given to another machine; after it never.
"""

import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from vimto.errors import BootError, LostMachineError
from vimto.vm import protocol
from vimto.vm.delivery import Delivery
from vimto.vm.observer import Observer, State
from vimto.vm.patience import Patience
from vimto.vm.protocol import Kind
from vimto.vm.signals import ENDING, Interrupted, SignalPipe, is_on_terminal
from vimto.vm.streams import Input, Output

_WAITING = (State.BOOTING, State.ORDERED, State.PREPARING)

# How long our own reader may take for the rest of the output once a signal asked us to end.
_FLUSH_LIMIT = 1.0
# A command that ignores this many requests to end is ended with its machine.
_PATIENCE = 3


# What a guest does that runs on for too long, by its stage.
_DOING = {
    "": "the command was still running",
    "teardown": "the command had ended, but a `teardown` command was still running",
    "flush": "the command had ended, but what is in the shared directories was still written back",
}


class Limits(NamedTuple):
    """Seconds that each state may last; 0 means no limit. `stop` is the grace period of signals."""

    boot: float
    accept: float
    prepare: float
    run: float
    stop: float = 10.0

    def of(self, state: State) -> float:
        """Return the limit of `state`."""
        limits = (self.boot, self.accept, self.prepare, 0.0, self.run, 0.0)
        return limits[state]


class Conversation:
    """Pumps frames between the port and our streams until the guest reports the exit.

    `make_order` is called when the order is due, so that its clock is right. The `observers` take
    part from now on. Where there is `patience`, time that the machine could not use does not count
    until the command runs.
    """

    def __init__(
        self,
        port: int,
        make_order: Callable[[], dict[str, Any]],
        limits: Limits,
        signals: SignalPipe,
        observers: Sequence[Observer] = (),
        patience: Patience | None = None,
    ) -> None:
        self.state = State.BOOTING
        self.signals = signals
        self.result: protocol.Exit | None = None
        self._port = port
        self._make_order = make_order
        self._limits = limits
        self.observers = observers
        self._theirs: dict[int, Observer] = {}  # who handles which descriptor
        self._patience = patience
        self._reader = protocol.FrameReader()
        self._outbox = bytearray()
        self._input: Input | None = None
        self._outputs: dict[int, Output] = {}
        self._entered = time.monotonic()
        self._held_since = 0.0
        self._asked = 0
        self._stage = ""  # of `protocol.STAGES`, once the command has ended
        self._delivery = Delivery(limits.stop)
        self._had_terminal = is_on_terminal()
        self._flush_until = 0.0
        for observer in observers:
            observer.join(self)

    def attach(self, stdin: Input | None, outputs: dict[int, Output]) -> None:
        """Take our streams: stdin if the command shall have it, and outputs by stream number."""
        self._input = stdin
        self._outputs = outputs

    def send_order(self) -> None:
        """Give the order now; called for a restored guest before `run`."""
        self.send(protocol.encode_json(Kind.RUN, self._make_order()))
        self._enter(State.ORDERED)

    def run(self) -> protocol.Exit:
        """Return the guest's report once all output is written.

        Raises `BootError` when the machine ended or was silent before `accepted`,
        `LostMachineError` after it, `Interrupted` for signals that nobody is left to handle, and
        what an observer raises.
        """
        while self.result is None or self._unwritten():
            poller = select.poll()
            for fd, events in self._interests():
                poller.register(fd, events)
            for fd, events in poller.poll(self._poll_limit()):
                self._handle(fd, events)
            self._check_limits()
            for observer in self.observers:
                observer.check()
        if self._delivery.has_killed and self.result.signal == signal.SIGKILL:
            raise Interrupted(
                signal.SIGHUP,
                "the command did not end when the terminal was closed, and was killed",
            )
        return self.result

    def resume(self) -> None:
        """Let a paused guest start its command."""
        self.send(protocol.encode(Kind.RESUME))

    def hold_clock(self) -> None:
        """Let no time count against the limits, for the machine has been stopped."""
        self._held_since = self._held_since or time.monotonic()

    def release_clock(self) -> None:
        """Let time count again."""
        if self._held_since:
            held = time.monotonic() - self._held_since
            self._entered += held
            self._delivery.postpone(held)
            self._held_since = 0.0

    # -- what to wait for

    def _interests(self) -> list[tuple[int, int]]:
        wanted: list[tuple[int, int]] = [(self.signals.fd, select.POLLIN)]
        # Before the port, so that QEMU's word on why it ends is heard before its end.
        self._theirs = {}
        for observer in self.observers:
            theirs = observer.interests()
            wanted += theirs
            self._theirs.update(dict.fromkeys((fd for fd, _ in theirs), observer))
        if self.state != State.EXITED:
            events = select.POLLIN | (select.POLLOUT if self._outbox else 0)
            wanted.append((self._port, events))
            if self._input and self.state == State.RUNNING and self._input.wanted:
                wanted.append((self._input.fd, select.POLLIN))
        wanted += [(o.fd, select.POLLOUT) for o in self._outputs.values() if o.pending]
        return wanted

    def _poll_limit(self) -> float | None:
        deadlines = [self._flush_until or self._deadline()]
        if self.state == State.RUNNING and not self._held_since:
            deadlines.append(self._delivery.wake_at)
            deadlines.append(self._input.wake_at if self._input else 0.0)
        if patience := self._patient():
            deadlines.append(patience.wake_at)
        deadlines += [observer.wake_at for observer in self.observers]
        due = min((deadline for deadline in deadlines if deadline), default=0.0)
        left = min(86400.0, max(0.0, due - time.monotonic()))  # poll(2) takes 24 days at most
        return left * 1000 + 1 if due else None

    def _deadline(self) -> float:
        limit = 0.0 if self._held_since else self._limits.of(self.state)
        return self._entered + limit if limit else 0.0

    def _patient(self) -> Patience | None:
        waiting = self.state in _WAITING and not self._held_since
        return self._patience if waiting else None

    def _unwritten(self) -> bool:
        theirs = any(observer.pending for observer in self.observers)
        return theirs or any(output.pending for output in self._outputs.values())

    def _check_limits(self) -> None:
        now = time.monotonic()
        if self._flush_until and now > self._flush_until:
            for output in self._outputs.values():
                output.broken = True
            self._outputs = {}
        if patience := self._patient():
            self._entered += patience.lost()
        deadline = self._deadline()
        if deadline and now > deadline:
            self._give_up()
        if self.state == State.RUNNING and not self._held_since:
            self._check_delivery(now)

    def _check_delivery(self, now: float) -> None:
        if self._delivery.hangs_up and self._had_terminal and not is_on_terminal():
            self.hang_up()  # some terminals send SIGHUP before they close
        number = self._delivery.check(now)
        if self._input and self._input.check(now):
            number = number or 0
        if number is not None:
            self.pass_on(number)

    def _give_up(self) -> None:
        limit = f"{self._limits.of(self.state):g} s"
        if self.state == State.BOOTING:
            raise BootError(
                f"the machine did not boot within {limit}",
                hint="`-boot-timeout` sets the limit; `-v -v` shows the kernel's log",
            )
        if self.state == State.ORDERED:
            raise BootError(f"the guest did not answer within {limit}")
        if self.state == State.PREPARING:
            raise LostMachineError(
                f"the guest was not prepared within {limit}",
                hint="a `setup` command may wait for something that does not come",
            )
        raise LostMachineError(
            f"{_DOING[self._stage]} after {limit}, vimto's own `-timeout`",
            hint="the machine has been ended; this is not a result of the test",
        )

    # -- what happens

    def _handle(self, fd: int, events: int) -> None:
        if fd == self._port:
            if events & select.POLLOUT:
                self._flush_outbox()
            if events & ~select.POLLOUT:
                self._receive()
        elif fd == self.signals.fd:
            for number in self.signals.read():
                self._take_signal(number)
        elif fd in self._theirs:
            self._theirs[fd].handle(fd, events)
        elif self._input and fd == self._input.fd:
            self.send(self._input.read_some())
            if self._input.hung_up and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                self.hang_up()
        else:
            for output in list(self._outputs.values()):  # a broken one is dropped
                if output.fd == fd:
                    self._write_output(output)

    def _receive(self) -> None:
        try:
            data = os.read(self._port, 1 << 20)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            if self.state in (State.BOOTING, State.ORDERED):
                raise BootError("the machine ended before the command was started")
            raise LostMachineError("the machine ended before the command reported its status")
        if self._input:
            self._input.heard()
        for kind, payload in self._reader.feed(data):
            self._take_frame(kind, payload)
            if self.state == State.EXITED:
                break

    def _take_frame(self, kind: Kind, payload: bytes) -> None:
        if kind in (Kind.STDOUT, Kind.STDERR):
            stream = kind - Kind.STDOUT + 1
            output = self._outputs.get(stream)
            if output is None:
                self.send(protocol.encode_ack(stream, len(payload)))
            else:
                output.put(payload)
                self._write_output(output)
        elif kind == Kind.ACK:
            stream, count = protocol.decode_ack(payload)
            if stream != 0 or self._input is None:
                raise LostMachineError("the guest acknowledged what was never sent")
            self.send(self._input.acknowledge(count))
        elif kind == Kind.NOTICE:
            self._take_notice(protocol.decode_notice(payload))
        elif kind == Kind.SIGNALLED:
            stuck = protocol.decode_signalled(payload)
            if not self._delivery.answered(stuck, time.monotonic()):
                raise LostMachineError("the guest answered a signal that it was not sent")
            if self._input:
                self._input.told(stuck)
            for observer in self.observers:
                observer.answered()
        elif kind == Kind.CLOCK:
            protocol.decode_empty(kind, payload)
            self.send(protocol.encode_clock(time.time_ns()))
        elif kind == Kind.EXIT:
            self.result = protocol.decode_exit(payload)
            self._enter(State.EXITED)
            for observer in self.observers:
                observer.ended()
        elif not any(observer.take_frame(kind, payload) for observer in self.observers):
            self._take_progress(kind, payload)

    def _take_notice(self, notice: protocol.Notice) -> None:
        if notice.level == "stage":
            self._stage = notice.text
        for observer in self.observers:
            observer.noticed(notice)

    def _take_progress(self, kind: Kind, payload: bytes) -> None:
        if kind == Kind.READY and self.state == State.BOOTING:
            check_ready(payload)
            self.send_order()
        elif kind == Kind.ACCEPTED and self.state == State.ORDERED:
            protocol.decode_empty(kind, payload)
            self._enter(State.PREPARING)
            for observer in self.observers:
                observer.accepted()
        elif kind == Kind.PAUSED and self.state == State.PREPARING and self._pauses():
            protocol.decode_empty(kind, payload)
            self._enter(State.PAUSED)
            for observer in self.observers:
                observer.paused()
        elif kind == Kind.STARTED and self.state in (State.PREPARING, State.PAUSED):
            protocol.decode_started(payload)
            self._enter(State.RUNNING)
            for observer in self.observers:
                observer.started()
        elif kind == Kind.READY:
            raise LostMachineError("the guest program began anew")
        else:
            raise LostMachineError(f"the guest sent an unexpected {kind}")

    def _pauses(self) -> bool:
        return any(observer.pauses for observer in self.observers)

    def _write_output(self, output: Output) -> None:
        count = output.write_some()
        if output.broken:
            # The command meets the end of its reader as it would on the host: EPIPE.
            self.send(protocol.encode_ack(output.stream, protocol.READER_GONE))
            del self._outputs[output.stream]
        elif count:
            self.send(protocol.encode_ack(output.stream, count))

    def _take_signal(self, number: int) -> None:
        if number == signal.SIGHUP and self._delivery.closed:
            return
        if number in ENDING:
            self._asked += 1
            if self.state < State.RUNNING or self._asked >= _PATIENCE:
                raise Interrupted(number)
            self._flush_until = (
                time.monotonic() + _FLUSH_LIMIT if self.state == State.EXITED else 0.0
            )
        if self.state != State.RUNNING:
            return
        if number == signal.SIGCONT:
            for observer in self.observers:
                observer.continued()
        elif number == signal.SIGWINCH:
            self.send_size()
        elif number == signal.SIGHUP and self._had_terminal and not is_on_terminal():
            self.hang_up()
        else:
            self.pass_on(number)
            if number in ENDING:
                self._delivery.expect(number, time.monotonic())

    def pass_on(self, number: int) -> None:
        """Send the command's process group a signal, which the guest will acknowledge."""
        self._delivery.sent(time.monotonic())
        self.send(protocol.encode(Kind.SIGNAL, bytes((number,))))

    def hang_up(self) -> None:
        """Our terminal was closed: the command is told, and cannot run on.

        Raises `Interrupted` while a debugger holds the machine, for then nobody can be asked.
        """
        if self._held_since:
            raise Interrupted(signal.SIGHUP)
        if self._delivery.closed:
            return
        if not self._delivery.hangs_up:
            self.pass_on(signal.SIGHUP)
        self._delivery.hang_up(time.monotonic())

    def send_size(self) -> None:
        """Tell the guest the size of our terminal; without one nothing happens."""
        try:
            columns, rows = os.get_terminal_size(0)
        except OSError:
            return
        if rows and columns:
            self.send(protocol.encode_resize(rows, columns))

    # -- sending

    def _enter(self, state: State) -> None:
        self.state = state
        self._entered = time.monotonic()
        if state == State.EXITED and self._asked:
            self._flush_until = self._entered + _FLUSH_LIMIT

    def send(self, frame: bytes) -> None:
        """Queue a frame for the guest; after its exit nothing is sent any more."""
        if self.state != State.EXITED:
            self._outbox += frame
            self._flush_outbox()

    def _flush_outbox(self) -> None:
        try:
            while self._outbox:
                del self._outbox[: os.write(self._port, self._outbox)]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            self._outbox.clear()  # reading the port says that the machine has ended


def check_ready(payload: bytes) -> None:
    """Raise `BootError` unless the guest speaks our protocol, and its first frame says so."""
    version = protocol.decode_ready(payload)
    if version != protocol.VERSION:
        raise BootError(
            f"the guest speaks version {version} of vimto's protocol, the host {protocol.VERSION}",
            hint="`vimto kernel prune` removes what another version left in the cache",
        )
