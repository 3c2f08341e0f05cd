"""The guard on the bytes that arrive, and the buffered socket."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.telemetry.wire import Frames, ProtocolError, Wire


def packet(first: int, length: int) -> bytes:
    head = bytearray([first])
    rest = length
    while True:
        rest, digit = divmod(rest, 128)
        head.append(digit | (0x80 if rest else 0))
        if not rest:
            return bytes(head) + bytes(length)


@given(
    st.lists(
        st.tuples(st.sampled_from([0x20, 0x30, 0x32, 0x40, 0x90, 0xD0]), st.integers(0, 700)), max_size=8
    ),
    st.lists(st.integers(1, 200), max_size=40),
)
def test_packets_pass_however_they_are_cut(packets: list[tuple[int, int]], cuts: list[int]) -> None:
    stream = b"".join(packet(*each) for each in packets)
    frames = Frames(700)
    for cut in cuts:
        frames.feed(stream[:cut])
        stream = stream[cut:]
    frames.feed(stream)
    with pytest.raises(ProtocolError, match="bytes at once"):
        frames.feed(packet(0x30, 701))


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_anything_else_is_a_protocol_error_at_most(pieces: list[bytes]) -> None:
    frames = Frames(1_000)
    try:
        for piece in pieces:
            frames.feed(piece)
    except ProtocolError:
        return


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x30\xff\xff\xff\x7f", "bytes at once"),
        (b"\x30\xff\xff\xff\xff", "without a length"),
        (b"\x34", "QoS 2"),
        (b"\x36", "QoS 2"),
    ],
)
def test_what_a_broker_must_not_send(data: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        Frames().feed(data)


def test_reads_much_and_gives_little() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    wire = Wire(ours)
    with pytest.raises(BlockingIOError):
        wire.recv(1)
    assert wire.dry
    theirs.sendall(packet(0x30, 10))
    wire.dry = False
    assert wire.recv(1) == b"\x30" and wire.recv(1) == b"\x0a" and len(wire.recv(100)) == 10
    assert wire.received_bytes == 12 and not wire.dry
    assert wire.send(b"abc") == 3 and wire.sent_bytes == 3
    theirs.sendall(b"\x34")
    with pytest.raises(ProtocolError):
        wire.recv(1)
    assert isinstance(wire.trouble, ProtocolError)
    theirs.close()
    wire.close()
    assert wire.fileno() == -1


def test_held_open_until_the_other_side_has_closed() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    wire = Wire(ours)
    wire.hold = True
    wire.close()
    assert theirs.recv(1) == b""
    theirs.sendall(b"something unread")
    assert not wire.discard()
    theirs.setblocking(False)
    sent = 0
    try:
        while sent < 100_000_000:
            sent += theirs.send(bytes(4_096))
    except BlockingIOError:
        pass
    while not wire.dry:
        assert not wire.discard()
    theirs.close()
    assert wire.discard()
    wire.hold = False
    wire.close()
