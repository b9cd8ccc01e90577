"""Frames of a guest that is broken, or means harm: no result may be read from them, ever."""

import contextlib
import json
import random
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.unit.test_protocol import FRAMES
from vimto.addresses import Address
from vimto.errors import BootError, LostMachineError
from vimto.vm import protocol
from vimto.vm.conversation import Conversation, Limits
from vimto.vm.forward import Forward, Forwarding
from vimto.vm.protocol import Kind
from vimto.vm.signals import SignalPipe

DECODERS: dict[int, Callable[[bytes], object]] = {
    Kind.READY: protocol.decode_ready,
    Kind.STARTED: protocol.decode_started,
    Kind.NOTICE: protocol.decode_notice,
    Kind.EXIT: protocol.decode_exit,
    Kind.OPENED: protocol.decode_opened,
    Kind.SIGNALLED: protocol.decode_signalled,
    Kind.ACCEPTED: lambda payload: protocol.decode_empty(Kind.ACCEPTED, payload),
    Kind.PAUSED: lambda payload: protocol.decode_empty(Kind.PAUSED, payload),
    Kind.CLOCK: lambda payload: protocol.decode_empty(Kind.CLOCK, payload),
    Kind.ACK: protocol.decode_ack,
    Kind.DATA: protocol.decode_channel,
    Kind.CLOSE: protocol.decode_channel,
    Kind.RESET: protocol.decode_channel,
    Kind.DATA_ACK: protocol.decode_channel_ack,
}
# What the guest sends, by kind, as it should be.
GOOD = {
    kind: payload
    for name, (kind, payload, _) in reversed(FRAMES.items())
    if kind in DECODERS and name != "clock"
}
OBJECTS = [kind for kind in GOOD if kind in protocol.JSON_KINDS]

NO_OBJECT = {
    "nothing": b"",
    "list": b"[1]",
    "string": b'"x"',
    "null": b"null",
    "cut off": b'{"status":',
    "not UTF-8": b'{"\xff":1}',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "UTF-8 with a mark": b"\xef\xbb\xbf{}",
    "two values": b"{}{}",
    "a name twice": b'{"a":1,"a":1}',
    "deep": b"[" * 50_000 + b"]" * 50_000,
    "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "unknown members": b'{"nonsense":1}',
}
# In place of each member's value, one at a time.
VALUES: dict[str, str] = {
    "null": "null",
    "infinity": "Infinity",
    "minus infinity": "-Infinity",
    "not a number": "NaN",
    "a fraction": "1.0",
    "an exponent": "1e400",
    "huge": "9" * 5000,
    "over 64 bits": str(1 << 64),
    "negative": "-1",
    "an object": "{}",
    "a list of numbers": "[1]",
    "half a pair": '"\\ud800"',
    "the other half": '"\\udfff"',
    "a list of halves": '["\\ud800"]',
}


@pytest.mark.parametrize("name", NO_OBJECT)
@pytest.mark.parametrize("kind", OBJECTS)
def test_what_is_no_object_of_ours(kind: int, name: str) -> None:
    DECODERS[kind](GOOD[kind])
    with pytest.raises(LostMachineError, match="the guest sent a malformed frame"):
        DECODERS[kind](NO_OBJECT[name])


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("kind", OBJECTS)
def test_a_value_of_another_kind(kind: int, name: str) -> None:
    members = json.loads(GOOD[kind])
    for key in members:
        parts = [
            f"{json.dumps(other)}:{VALUES[name] if other == key else json.dumps(value)}"
            for other, value in members.items()
        ]
        with pytest.raises(LostMachineError):
            DECODERS[kind](("{" + ",".join(parts) + "}").encode())


@pytest.mark.parametrize("kind", OBJECTS)
def test_a_member_that_is_missing_or_one_too_many(kind: int) -> None:
    members = json.loads(GOOD[kind])
    for key in members:
        with pytest.raises(LostMachineError):
            DECODERS[kind](json.dumps({k: v for k, v in members.items() if k != key}).encode())
    with pytest.raises(LostMachineError):
        DECODERS[kind](json.dumps({**members, "more": 1}).encode())


@pytest.mark.parametrize(
    "members",
    [
        {"status": 256},
        {"status": -1},
        {"status": True},
        {"status": "0"},
        {"status": 0, "signal": 128},
        {"signal": 65, "status": 193},
        {"signal": 9, "status": 0},
        {"signal": 9, "status": 9},
        {"signal": False},
        {"core": 0},
        {"status": 0, "error": "it failed"},
        {"error": 1},
    ],
    ids=str,
)
def test_an_exit_that_cannot_be(members: dict[str, Any]) -> None:
    with pytest.raises(LostMachineError):
        protocol.decode_exit(json.dumps({**protocol.Exit(3)._asdict(), **members}).encode())


def test_exits_that_can_be() -> None:
    for report in (
        protocol.Exit(0),
        protocol.Exit(255),
        protocol.Exit(192, 64, True),
        protocol.Exit(125, error="no", stage="mount", hint="x"),
    ):
        assert protocol.decode_exit(json.dumps(report._asdict()).encode()) == report


@pytest.mark.parametrize("kind", [kind for kind in GOOD if kind not in OBJECTS])
def test_payloads_of_another_size(kind: int) -> None:
    DECODERS[kind](GOOD[kind])
    wrong = [b"x"] if kind == Kind.CLOCK else [b"", b"123", b"1234567890"]
    for payload in wrong if kind not in (Kind.DATA, Kind.RESET) else wrong[:2]:
        with pytest.raises(LostMachineError):
            frame = len(payload).to_bytes(4, "little") + bytes([kind]) + payload
            for _, found in protocol.FrameReader().feed(frame):
                DECODERS[kind](found)


@pytest.fixture
def signals() -> Iterator[SignalPipe]:
    with SignalPipe() as pipe:
        yield pipe


def converse(signals: SignalPipe, stream: bytes) -> protocol.Exit:
    """Return what a conversation makes of a guest that says `stream` and hangs up."""
    here, there = socket.socketpair()
    with here, there, Forwarding([Forward(Address(host="127.0.0.1"), Address(port=80))]) as forward:
        here.setblocking(False)
        sender = threading.Thread(target=say, args=(there, stream))
        sender.start()
        limits = Limits(boot=20, accept=20, prepare=20, run=20)
        order = {"argv": ["x"]}
        conversation = Conversation(here.fileno(), lambda: order, limits, signals, [forward])
        try:
            return conversation.run()
        finally:
            here.close()
            sender.join()


def say(end: socket.socket, stream: bytes) -> None:
    """Send all that the host takes."""
    with contextlib.suppress(OSError):
        end.sendall(stream)
        end.shutdown(socket.SHUT_WR)


def frame(kind: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "little") + bytes([kind]) + payload


# A whole conversation, as (kind, payload); what the guest need not say is in its middle.
CALM = [
    (Kind.READY, GOOD[Kind.READY]),
    (Kind.ACCEPTED, b"{}"),
    (Kind.CLOCK, b""),
    (Kind.STARTED, GOOD[Kind.STARTED]),
    (Kind.NOTICE, GOOD[Kind.NOTICE]),
    (Kind.STDOUT, b"abc"),
    (Kind.OPENED, GOOD[Kind.OPENED]),
    (Kind.DATA, GOOD[Kind.DATA]),
    (Kind.DATA_ACK, GOOD[Kind.DATA_ACK]),
    (Kind.RESET, GOOD[Kind.RESET]),
    (Kind.EXIT, GOOD[Kind.EXIT]),
]


def mutate(chance: random.Random) -> bytes:
    """Return the conversation with one to three faults."""
    frames = [bytearray(frame(kind, payload)) for kind, payload in CALM]
    for _ in range(chance.randint(1, 3)):
        victim = chance.choice(frames)
        match chance.randrange(6):
            case 0:
                victim[chance.randrange(len(victim))] ^= 1 << chance.randrange(8)
            case 1:
                del victim[chance.randint(1, len(victim)) :]
            case 2:
                at = chance.randrange(len(victim))
                victim[at:at] = chance.randbytes(chance.randint(1, 9))
            case 3:
                frames.insert(chance.randrange(len(frames)), bytearray(chance.choice(frames)))
            case 4:
                kind, payload = chance.choice(CALM)
                text = payload.replace(b"0", chance.choice(list(VALUES.values())).encode(), 1)
                frames[frames.index(victim)] = bytearray(frame(kind, text))
            case _:
                frames[frames.index(victim)] = bytearray(
                    frame(chance.randrange(30), chance.choice(list(NO_OBJECT.values())))
                )
    return b"".join(map(bytes, frames))


def test_the_calm_conversation_has_a_result(signals: SignalPipe) -> None:
    assert converse(signals, b"".join(frame(*item) for item in CALM)).status == 0


@pytest.mark.parametrize("seed", range(8))
def test_no_fault_gives_a_traceback_or_a_status_out_of_range(
    signals: SignalPipe, seed: int
) -> None:
    chance = random.Random(seed)
    lost = 0
    for _ in range(100):
        stream = mutate(chance)
        try:
            report = converse(signals, stream)
        except (LostMachineError, BootError):
            lost += 1
        else:
            assert 0 <= report.status <= 255 and 0 <= report.signal <= 64, stream
    assert lost > 20
