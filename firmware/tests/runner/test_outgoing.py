from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.runner import wire
from plugmeter.runner.outgoing import Outgoing


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair()
    with here, there:
        yield here, there


def all_of(end: socket.socket) -> list[bytes]:
    """Everything up to the other side's end."""
    heard = b""
    while data := end.recv(65_536):
        heard += data
    return heard.splitlines(keepends=True)


def say_all(outgoing: Outgoing, lines: Sequence[bytes]) -> None:
    for line in lines:
        outgoing.say(line)


def raw(number: int, count: int = 1) -> bytes:
    return wire.encode_raw(number, [b"%d" % item for item in range(count)])


def note(number: int) -> bytes:
    return wire.encode(wire.Note(str(number)))


def test_all_that_is_said_arrives_in_order(ends: tuple[socket.socket, socket.socket]) -> None:
    here, there = ends
    outgoing = Outgoing(there)
    outgoing.start()
    said = []
    for number in range(20_000):
        line = raw(number) if number % 3 else note(number)
        said.append(line)
        if number % 3:
            assert outgoing.say_raw(line, 1)
        else:
            outgoing.say(line)
    heard: list[list[bytes]] = []
    reader = threading.Thread(target=lambda: heard.append(all_of(here)))
    reader.start()
    assert outgoing.finish()
    there.shutdown(socket.SHUT_WR)
    reader.join()
    assert heard == [said]
    assert outgoing.waiting == (0, 0)


def test_raw_inputs_make_room_for_what_matters_the_oldest_first(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    here, there = ends
    outgoing = Outgoing(there, most_lines=4)
    assert [outgoing.say_raw(raw(number, 10), 10) for number in range(5)] == [True] * 4 + [False]
    outgoing.say(note(1))
    outgoing.say(note(2))
    assert (outgoing.discarded, outgoing.waiting[0]) == (30, 4)
    outgoing.start()
    assert outgoing.finish()
    there.shutdown(socket.SHUT_WR)
    told, *rest = all_of(here)
    discarded = wire.decode_message(told)
    assert isinstance(discarded, wire.Discarded)
    assert (discarded.kind, discarded.count) == ("raw", 30)
    assert discarded.since_ns <= discarded.t_ns
    assert rest == [raw(2, 10), raw(3, 10), note(1), note(2)]


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 6), st.integers(100, 300))
def test_every_raw_input_is_heard_or_counted_and_nothing_else_is_lost(
    counts: list[int], most_lines: int, most_bytes: int
) -> None:
    here, there = socket.socketpair()
    with here, there:
        outgoing = Outgoing(there, most_lines=most_lines, most_bytes=most_bytes)
        started = False
        notes = 0
        for number, count in enumerate(counts):
            if count:
                outgoing.say_raw(raw(number, count), count)
                continue
            notes += 1
            if notes >= most_lines or notes * 40 >= most_bytes:  # from here on it might wait for ever
                outgoing.start()
                started = True
            outgoing.say(note(number))
        outgoing.settle()
        if not started:
            outgoing.start()
        assert outgoing.finish()
        there.shutdown(socket.SHUT_WR)
        messages = [wire.decode_message(line[:-1]) for line in all_of(here)]
    heard = sum(each.count for each in messages if isinstance(each, wire.Raw))
    told = sum(each.count for each in messages if isinstance(each, wire.Discarded))
    assert heard + told == sum(counts)
    assert told == outgoing.discarded
    assert sum(isinstance(each, wire.Note) for each in messages) == notes
    numbers = [each.number for each in messages if isinstance(each, wire.Raw)]
    assert numbers == sorted(numbers)


def test_who_has_to_be_heard_waits_for_room(ends: tuple[socket.socket, socket.socket]) -> None:
    here, there = ends
    there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    outgoing = Outgoing(there, most_lines=2)
    outgoing.start()
    said = [wire.encode(wire.Note(f"{number}" * 1000)) for number in range(200)]
    speaker = threading.Thread(target=lambda: say_all(outgoing, said))
    speaker.start()
    speaker.join(0.3)
    assert speaker.is_alive(), "nobody has read: it cannot have been taken"
    assert outgoing.waiting[0] <= 2
    heard: list[list[bytes]] = []
    reader = threading.Thread(target=lambda: heard.append(all_of(here)))
    reader.start()
    speaker.join()
    assert outgoing.finish()
    there.shutdown(socket.SHUT_WR)
    reader.join()
    assert heard == [said]


def test_a_line_larger_than_all_room_comes_through_alone(ends: tuple[socket.socket, socket.socket]) -> None:
    here, there = ends
    outgoing = Outgoing(there, most_bytes=100)
    outgoing.start()
    large = wire.encode(wire.Note("x" * 1000))
    outgoing.say(note(1))
    outgoing.say(large)
    assert outgoing.finish()
    there.shutdown(socket.SHUT_WR)
    assert all_of(here) == [note(1), large]


def test_of_the_signs_of_life_only_the_latest_is_kept(ends: tuple[socket.socket, socket.socket]) -> None:
    here, there = ends
    outgoing = Outgoing(there)
    for number in range(1000):
        outgoing.show_life(wire.encode(wire.Progress(number, 1, 1)))
    outgoing.start()
    assert outgoing.finish()
    there.shutdown(socket.SHUT_WR)
    assert [wire.decode_message(line) for line in all_of(here)] == [wire.Progress(999, 1, 1)]


def test_once_it_is_settled_no_raw_input_is_given_up(ends: tuple[socket.socket, socket.socket]) -> None:
    here, there = ends
    outgoing = Outgoing(there, most_lines=2)
    outgoing.say_raw(raw(1), 1)
    outgoing.say_raw(raw(2), 1)
    outgoing.settle()
    outgoing.start()
    outgoing.say(note(3))
    assert outgoing.finish()
    there.shutdown(socket.SHUT_WR)
    assert all_of(here) == [raw(1), raw(2), note(3)]
    assert outgoing.discarded == 0


@pytest.mark.parametrize("dies", ["end", "abandon"])
def test_nobody_waits_for_a_listener_that_is_gone(
    dies: str, ends: tuple[socket.socket, socket.socket]
) -> None:
    here, there = ends
    outgoing = Outgoing(there, most_lines=1)
    outgoing.start()
    said = [wire.encode(wire.Note("x" * 1000))] * 5000
    speaker = threading.Thread(target=lambda: say_all(outgoing, said))
    speaker.start()
    if dies == "end":
        here.close()
    else:
        outgoing.abandon()
    speaker.join()
    assert outgoing.deaf
    if dies == "end":
        assert outgoing.finish()
    assert outgoing.waiting == (0, 0)
    assert not outgoing.say_raw(raw(1), 1)


def test_raw_lines_are_json() -> None:
    tag, value = msgspec.json.decode(raw(3, 2))
    assert (tag, value) == ("raw", {"number": 3, "count": 2, "inputs": [0, 1]})
