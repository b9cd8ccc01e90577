"""The wire, byte for byte: the golden frames are read by the guest's tests too."""

import json
import os
from pathlib import Path

import pytest

from vimto.errors import LostMachineError
from vimto.vm import protocol
from vimto.vm.protocol import FrameReader, Kind

GOLDEN = Path(__file__).parents[1] / "golden/wire/frames.txt"


def read_golden() -> dict[str, tuple[int, bytes, bytes]]:
    """Return kind, payload and whole frame by name."""
    frames = {}
    for line in GOLDEN.read_text().splitlines():
        if line and not line.startswith("#"):
            name, kind, payload, frame = line.split()
            payload = "" if payload == "-" else payload
            frames[name] = (int(kind), bytes.fromhex(payload), bytes.fromhex(frame))
    return frames


FRAMES = read_golden()


@pytest.mark.parametrize("name", FRAMES)
def test_frames_are_written_and_read_as_the_guest_does(name: str) -> None:
    kind, payload, frame = FRAMES[name]
    assert protocol.encode(kind, payload) == frame
    assert FrameReader().feed(frame) == [(kind, payload)]


def test_each_kind_of_frame_has_a_limit_and_an_example() -> None:
    assert set(protocol._LIMITS) == {kind for kind, _, _ in FRAMES.values()} == set(protocol.Kind)


def test_a_stream_may_be_cut_anywhere() -> None:
    stream = b"".join(frame for _, _, frame in FRAMES.values())
    whole = [(kind, payload) for kind, payload, _ in FRAMES.values()]
    assert FrameReader().feed(stream) == whole
    for step in (1, 3, 4096):
        reader = FrameReader()
        found = [
            frame
            for at in range(0, len(stream), step)
            for frame in reader.feed(stream[at : at + step])
        ]
        assert found == whole


def test_payloads_with_a_shape() -> None:
    assert protocol.encode_ack(0, 65536) == FRAMES["ack-stdin"][2]
    assert protocol.decode_ack(FRAMES["ack-reader-gone"][1]) == (1, protocol.READER_GONE)
    assert protocol.encode_resize(50, 132) == FRAMES["resize"][2]
    assert protocol.encode_channel(Kind.CLOSE, 7) == FRAMES["close"][2]
    assert protocol.encode_channel_ack(7, 7) == FRAMES["data-ack"][2]
    assert protocol.decode_channel(FRAMES["data"][1]) == (7, b"GET /\r\n")
    assert protocol.decode_ready(FRAMES["ready"][1]) == protocol.VERSION
    assert protocol.decode_exit(FRAMES["exit-signal"][1]) == protocol.Exit(134, 6, core=True)


def test_the_order_is_written_as_the_guest_reads_it() -> None:
    _, payload, frame = FRAMES["run"]
    order = json.loads(payload)
    assert json.loads(protocol.encode_json(Kind.RUN, order)[5:]) == order
    path = protocol.host_text(order["argv"][0])
    assert os.fsencode(path) == b"/tmp/p\xe4ckage.test"
    assert protocol.wire_text(path) == order["argv"][0]
    assert protocol.wire_text(b"\xff\xfe") == "\xff\xfe"
    assert frame[4] == Kind.RUN


def test_limits_and_nonsense() -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        protocol.encode(Kind.STDOUT, bytes(protocol.MAX_STREAM + 1))
    too_long = (protocol.MAX_STREAM + 1).to_bytes(4, "little") + bytes([Kind.STDOUT])
    with pytest.raises(LostMachineError):
        FrameReader().feed(too_long)
    with pytest.raises(LostMachineError):
        protocol.decode_ack(b"123")
    with pytest.raises(LostMachineError):
        protocol.decode_channel(b"123")


def test_a_frame_is_named_and_not_numbered() -> None:
    assert str(Kind.DATA_ACK) == "`data-ack` frame"
    with pytest.raises(LostMachineError, match="a malformed frame: `signal` frame of 2 bytes"):
        FrameReader().feed(b"\2\0\0\0\10xx")
    with pytest.raises(LostMachineError, match="a malformed frame: unknown kind 99"):
        FrameReader().feed(b"\0\0\0\0\x63")
    with pytest.raises(ValueError, match="a `signal` frame cannot hold 2 bytes"):
        protocol.encode(Kind.SIGNAL, b"xx")
