"""The wire between host and guest: length-prefixed frames on one virtio-serial port.

A frame is `u32 length` (of the payload, little-endian), `u8 kind`, payload. Orders and results are
JSON, streams raw bytes. `guest/frames.go` is the other side; both read `tests/golden/wire`.

Bytes that Linux does not promise to be UTF-8 (paths, arguments, environment) travel in JSON as
Latin-1, one code point a byte: see `wire_text`.
"""

import json
import os
import struct
from typing import Any

from vimto.errors import LostVMError

VERSION = 1
PORT_NAME = "vimto.agent"

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

JSON_KINDS = frozenset(
    (READY, RUN, STARTED, NOTICE, EXIT, OPEN, OPENED, ACCEPTED, PAUSED, SIGNALLED)
)
# About forwarded connections; the rest of the kinds are about the command.
CHANNEL_KINDS = frozenset((OPENED, DATA, DATA_ACK, CLOSE, RESET))
MAX_STREAM = 256 << 10
MAX_JSON = 16 << 20

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


def encode(kind: int, payload: bytes | memoryview = b"") -> bytes:
    """Return one frame; raises `ValueError` when `payload` is over the kind's limit."""
    if len(payload) > (MAX_JSON if kind in JSON_KINDS else MAX_STREAM):
        raise ValueError(f"a frame of kind {kind} cannot hold {len(payload)} bytes")
    return _HEADER.pack(len(payload), kind) + bytes(payload)


def encode_json(kind: int, value: dict[str, Any]) -> bytes:
    """Return one JSON frame; its text is ASCII."""
    return encode(kind, json.dumps(value, separators=(",", ":")).encode("ascii"))


def encode_ack(stream: int, count: int) -> bytes:
    """Return the frame that gives `count` bytes of credit back to `stream` (0, 1 or 2)."""
    return encode(ACK, _ACK.pack(stream, count))


def encode_resize(rows: int, columns: int) -> bytes:
    """Return the frame that gives the guest's terminal a new size."""
    return encode(RESIZE, _SIZE.pack(rows, columns))


def encode_channel(kind: int, channel: int, data: bytes = b"") -> bytes:
    """Return a `DATA`, `CLOSE` or `RESET` frame of a forwarded connection."""
    return encode(kind, _U32.pack(channel) + data)


def encode_channel_ack(channel: int, count: int) -> bytes:
    """Return the frame that gives `count` bytes of credit back to a forwarded connection."""
    return encode(DATA_ACK, _U32_PAIR.pack(channel, count))


def encode_clock(nanoseconds: int) -> bytes:
    """Return the answer to a guest that asks for the time: nanoseconds since the epoch."""
    return encode(CLOCK, _I64.pack(nanoseconds))


def decode_json(payload: bytes) -> dict[str, Any]:
    """Return a JSON frame's object; raises `LostVMError` when the guest sent anything else."""
    try:
        value = json.loads(payload)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise LostVMError("the guest sent a frame that is no JSON object")
    return value


def decode_ack(payload: bytes) -> tuple[int, int]:
    """Return (stream, count); raises `LostVMError` for a payload of another size."""
    return _unpack(_ACK, payload)


def decode_channel(payload: bytes) -> tuple[int, bytes]:
    """Return (channel, data) of a `DATA`, `CLOSE` or `RESET` frame."""
    if len(payload) < _U32.size:
        raise LostVMError("the guest sent a channel frame without a channel")
    return int(_U32.unpack_from(payload)[0]), payload[_U32.size :]


def decode_channel_ack(payload: bytes) -> tuple[int, int]:
    """Return (channel, count); raises `LostVMError` for a payload of another size."""
    return _unpack(_U32_PAIR, payload)


def _unpack(shape: struct.Struct, payload: bytes) -> tuple[int, int]:
    if len(payload) != shape.size:
        raise LostVMError("the guest sent a frame of the wrong size")
    first, second = shape.unpack(payload)
    return first, second


class FrameReader:
    """Cuts a byte stream into frames: `feed` what was read, iterate over what is whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return the frames that `data` completes, as (kind, payload).

        Raises `LostVMError` at a length over the limit: the stream cannot be trusted after that.
        """
        buffer = self._buffer
        buffer += data
        frames = []
        start = 0
        while len(buffer) - start >= _HEADER.size:
            length, kind = _HEADER.unpack_from(buffer, start)
            if length > (MAX_JSON if kind in JSON_KINDS else MAX_STREAM):
                raise LostVMError(f"the guest sent a frame of kind {kind} and {length} bytes")
            end = start + _HEADER.size + length
            if len(buffer) < end:
                break
            frames.append((kind, bytes(memoryview(buffer)[start + _HEADER.size : end])))
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
