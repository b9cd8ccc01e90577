"""The wire between host and guest: length-prefixed frames on one virtio-serial port.

A frame is `u32 length` (of the payload, little-endian), `u8 kind`, payload. Orders and results are
JSON, streams raw bytes. `guest/internal/wire` is the other side; both read `tests/golden/wire`.

Bytes that Linux does not promise to be UTF-8 (paths, arguments, environment) travel in JSON as
Latin-1, one code point a byte: see `wire_text`.

What the guest sends is not believed: it may run anything, and its kernel is the user's experiment.
Whatever a decoder here does not take raises `LostMachineError`, for no result can be read from it.
"""

import json
import os
import struct
from enum import IntEnum
from typing import Any, NamedTuple, NoReturn

from vimto.errors import LostMachineError

VERSION = 1


class Kind(IntEnum):
    """What a frame is; `guest/internal/wire` has the same numbers."""

    READY = 1
    RUN = 2
    STARTED = 3
    STDIN = 4
    ACK = 5
    STDOUT = 6
    STDERR = 7
    SIGNAL = 8
    RESIZE = 9
    NOTICE = 10
    EXIT = 11
    OPEN = 12
    OPENED = 13
    DATA = 14
    DATA_ACK = 15
    CLOSE = 16
    RESET = 17
    ACCEPTED = 18
    CLOCK = 19
    PAUSED = 20
    RESUME = 21
    SIGNALLED = 22

    def __str__(self) -> str:
        return f"`{self.name.lower().replace('_', '-')}` frame"


JSON_KINDS = frozenset(
    (
        Kind.READY,
        Kind.RUN,
        Kind.STARTED,
        Kind.NOTICE,
        Kind.EXIT,
        Kind.OPEN,
        Kind.OPENED,
        Kind.ACCEPTED,
        Kind.PAUSED,
        Kind.SIGNALLED,
    )
)
# About forwarded connections; the rest of the kinds are about the command.
CHANNEL_KINDS = frozenset((Kind.OPENED, Kind.DATA, Kind.DATA_ACK, Kind.CLOSE, Kind.RESET))
MAX_STREAM = 256 << 10
MAX_JSON = 16 << 20
# The largest payload of each kind; there are no others.
_LIMITS = {
    **dict.fromkeys(JSON_KINDS, MAX_JSON),
    **dict.fromkeys((Kind.STDIN, Kind.STDOUT, Kind.STDERR, Kind.DATA, Kind.RESET), MAX_STREAM),
    Kind.ACK: 5,
    Kind.SIGNAL: 1,
    Kind.RESIZE: 4,
    Kind.CLOSE: 4,
    Kind.DATA_ACK: 8,
    Kind.CLOCK: 8,
    Kind.RESUME: 0,
}

# How much of a stream may be under way without the receiver's acknowledgement. A child that does
# not read its stdin, or a user who does not read our stdout, then holds up that stream alone.
STDIN_WINDOW = 256 << 10
OUTPUT_WINDOW = 1 << 20
CHANNEL_WINDOW = 256 << 10
# An acknowledgement of this many bytes says: nobody reads this stream any more.
READER_GONE = 0xFFFFFFFF

_HEADER = struct.Struct("<IB")
_ACK = struct.Struct("<BI")
_U32 = struct.Struct("<I")
_U32_PAIR = struct.Struct("<II")
_I64 = struct.Struct("<q")
_SIZE = struct.Struct("<HH")


def encode(kind: Kind, payload: bytes | memoryview = b"") -> bytes:
    """Return one frame; raises `ValueError` when `payload` is over the kind's limit."""
    if len(payload) > _LIMITS[kind]:
        raise ValueError(f"a {kind} cannot hold {len(payload)} bytes")
    return _HEADER.pack(len(payload), kind) + bytes(payload)


def encode_json(kind: Kind, value: dict[str, Any]) -> bytes:
    """Return one JSON frame; its text is ASCII."""
    return encode(kind, json.dumps(value, separators=(",", ":")).encode("ascii"))


def encode_ack(stream: int, count: int) -> bytes:
    """Return the frame that gives `count` bytes of credit back to `stream` (0, 1 or 2)."""
    return encode(Kind.ACK, _ACK.pack(stream, count))


def encode_resize(rows: int, columns: int) -> bytes:
    """Return the frame that gives the guest's terminal a new size."""
    return encode(Kind.RESIZE, _SIZE.pack(rows, columns))


def encode_channel(kind: Kind, channel: int, data: bytes = b"") -> bytes:
    """Return a `DATA`, `CLOSE` or `RESET` frame of a forwarded connection."""
    return encode(kind, _U32.pack(channel) + data)


def encode_channel_ack(channel: int, count: int) -> bytes:
    """Return the frame that gives `count` bytes of credit back to a forwarded connection."""
    return encode(Kind.DATA_ACK, _U32_PAIR.pack(channel, count))


def encode_clock(nanoseconds: int) -> bytes:
    """Return the answer to a guest that asks for the time: nanoseconds since the epoch."""
    return encode(Kind.CLOCK, _I64.pack(nanoseconds))


class Notice(NamedTuple):
    """Something for the user; `level` is one of `NOTICE_LEVELS`.

    At the level `stage` it is for us: `text` is one of `STAGES`, which the guest has come to.
    """

    level: str
    text: str


NOTICE_LEVELS = ("info", "warning", "setup", "teardown", "stage")
# After the command has ended.
STAGES = ("teardown", "flush")


class Exit(NamedTuple):
    """How the command ended: `status` is 128+N after signal N, and never 0 beside an `error`.

    `stage` is where the guest was then: `mount`, `setup`, `start`, `command`, `teardown`, `flush`.
    """

    status: int
    signal: int = 0
    core: bool = False
    error: str = ""
    stage: str = "command"
    hint: str = ""


_LAST_SIGNAL = 64
_LAST_PID = 1 << 22
_MOST = (1 << 53) - 1


def decode_ready(payload: bytes) -> int:
    """Return the version of the protocol that the guest speaks; the rest is for logs."""
    members = _Members("ready", payload)
    version = members.whole("protocol")
    if version == VERSION:
        for name in ("agent", "release"):
            members.text(name)
        members.whole("cpus", 1)
        members.whole("boot_ms")
        members.texts("filesystems")
        members.end()
    return version


def decode_started(payload: bytes) -> int:
    """Return the command's process id."""
    members = _Members("started", payload)
    pid = members.whole("pid", 1, _LAST_PID)
    members.whole("mount_ms")
    members.end()
    return pid


def decode_empty(kind: Kind, payload: bytes) -> None:
    """Take a frame that says all by its kind: an empty object, or nothing (`CLOCK`)."""
    if kind in JSON_KINDS:
        _Members(kind.name.lower(), payload).end()
    elif payload:
        _refuse(f"{kind} of {len(payload)} bytes")


def decode_notice(payload: bytes) -> Notice:
    """Return what the guest program has to say."""
    members = _Members("notice", payload)
    notice = Notice(level=members.text("level"), text=members.text("text"))
    members.end()
    if notice.level not in NOTICE_LEVELS:
        _refuse("notice of an unknown level")
    if notice.level == "stage" and notice.text not in STAGES:
        _refuse("notice of an unknown stage")
    return notice


def decode_exit(payload: bytes) -> Exit:
    """Return the guest's report on the command."""
    members = _Members("exit", payload)
    report = Exit(
        status=members.whole("status", 0, 255),
        signal=members.whole("signal", 0, _LAST_SIGNAL),
        core=members.flag("core"),
        error=members.text("error"),
        stage=members.text("stage"),
        hint=members.text("hint"),
    )
    members.end()
    if report.signal and report.status != 128 + report.signal:
        _refuse(f"status {report.status} for signal {report.signal}")
    if report.error and not report.status:
        _refuse("status 0 beside an error")
    return report


def decode_signalled(payload: bytes) -> str:
    """Return what keeps a signal from having an effect, or ""."""
    members = _Members("signalled", payload)
    members.whole("signal", 0, _LAST_SIGNAL)
    stuck = members.text("stuck")
    members.end()
    return stuck


def decode_opened(payload: bytes) -> tuple[int, str]:
    """Return (channel, why it could not be opened); "" if it is open."""
    members = _Members("opened", payload)
    channel, error = members.whole("id", 0, 0xFFFFFFFF), members.text("error")
    members.end()
    return channel, error


def _refuse(what: str) -> NoReturn:
    raise LostMachineError(f"the guest sent a malformed frame: {what}")


class _Members:
    """The members of a JSON object, taken one by one; `end` refuses those that nobody took."""

    def __init__(self, what: str, payload: bytes) -> None:
        self._what = what
        try:
            value = json.loads(
                payload.decode("utf-8"),
                object_pairs_hook=_unique,
                parse_int=_parse_int,
                parse_float=_no_number,
                parse_constant=_no_number,
            )
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            _refuse(f"`{what}` is not an object")
        self._members: dict[str, Any] = value

    def _take(self, name: str, kind: type) -> Any:
        value = self._members.pop(name, None)
        if type(value) is not kind:  # a bool is an int
            _refuse(f"`{self._what}` has no valid `{name}`")
        return value

    def whole(self, name: str, least: int = 0, most: int = _MOST) -> int:
        """Return a number from `least` to `most`."""
        value = self._take(name, int)
        if not least <= value <= most:
            _refuse(f"`{self._what}` has no valid `{name}`")
        return int(value)

    def flag(self, name: str) -> bool:
        """Return a truth value."""
        return bool(self._take(name, bool))

    def text(self, name: str) -> str:
        """Return a string that has a UTF-8 form."""
        return self._check_text(name, self._take(name, str))

    def texts(self, name: str) -> list[str]:
        """Return a list of strings."""
        return [self._check_text(name, item) for item in self._take(name, list)]

    def _check_text(self, name: str, value: object) -> str:
        # An escape can write half of a surrogate pair, which no stream of ours could.
        if not isinstance(value, str) or any("\ud800" <= char <= "\udfff" for char in value):
            _refuse(f"`{self._what}` has no valid `{name}`")
        return value

    def end(self) -> None:
        """Refuse what is left."""
        if self._members:
            _refuse(f"`{self._what}` has {len(self._members)} unknown members")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _parse_int(text: str) -> int:
    if len(text) > 20:  # `int` takes long for many digits, and refuses 4,300
        raise ValueError("out of range")
    return int(text)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a whole number")


def decode_ack(payload: bytes) -> tuple[int, int]:
    """Return (stream, count); raises `LostMachineError` for a payload of another size."""
    return _unpack(_ACK, payload)


def decode_channel(payload: bytes) -> tuple[int, bytes]:
    """Return (channel, data) of a `DATA`, `CLOSE` or `RESET` frame."""
    if len(payload) < _U32.size:
        _refuse("a channel's without the channel")
    return int(_U32.unpack_from(payload)[0]), payload[_U32.size :]


def decode_channel_ack(payload: bytes) -> tuple[int, int]:
    """Return (channel, count); raises `LostMachineError` for a payload of another size."""
    return _unpack(_U32_PAIR, payload)


def _unpack(shape: struct.Struct, payload: bytes) -> tuple[int, int]:
    if len(payload) != shape.size:
        _refuse(f"{len(payload)} bytes instead of {shape.size}")
    first, second = shape.unpack(payload)
    return first, second


class FrameReader:
    """Cuts a byte stream into frames: `feed` what was read, iterate over what is whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[Kind, bytes]]:
        """Return the frames that `data` completes, as (kind, payload).

        Raises `LostMachineError` at an unknown kind, and at a length over the limit: the stream
        cannot be trusted after that.
        """
        buffer = self._buffer
        buffer += data
        frames = []
        start = 0
        while len(buffer) - start >= _HEADER.size:
            length, kind = _HEADER.unpack_from(buffer, start)
            if length > _LIMITS.get(kind, -1):
                known = kind in _LIMITS
                _refuse(f"{Kind(kind)} of {length} bytes" if known else f"unknown kind {kind}")
            end = start + _HEADER.size + length
            if len(buffer) < end:
                break
            frames.append((Kind(kind), bytes(memoryview(buffer)[start + _HEADER.size : end])))
            start = end
        if start:
            del buffer[:start]
        return frames


def wire_text(value: str | bytes) -> str:
    """Return a path, argument or environment entry as it travels in JSON (Latin-1)."""
    return os.fsencode(value).decode("latin-1")


def host_text(value: str) -> str:
    """Return the wire's `value` as Python's own file system text."""
    return os.fsdecode(value.encode("latin-1"))
