"""The window against a model that knows every single number."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from plugmeter.telemetry.ranges import Ranges
from plugmeter.telemetry.window import Window


def numbers(ranges: Ranges | list[tuple[int, int]]) -> set[int]:
    return {number for first, last in ranges for number in range(first, last + 1)}


class Model(RuleBasedStateMachine):
    """Batches of numbers; what is neither acknowledged nor forgotten is under way or due, and once."""

    def __init__(self) -> None:
        super().__init__()
        self.window = Window(5, ack_timeout_s=10.0)
        self.now = 0.0
        self.next = 1
        self.tickets: dict[int, set[int]] = {}
        self.out: set[int] = set()

    @precondition(lambda self: self.window.room)
    @rule(size=st.integers(1, 9))
    def send(self, size: int) -> None:
        ticket = self.window.sent(((self.next, self.next + size - 1),), self.now)
        self.tickets[ticket] = set(range(self.next, self.next + size))
        self.out |= self.tickets[ticket]
        self.next += size

    @precondition(lambda self: self.window.room)
    @rule()
    def send_again(self) -> None:
        due = self.window.take_due()
        if due is not None:
            assert numbers(due[0]) <= self.out
            ticket = self.window.sent(due[0], self.now, since_s=due[1])
            self.tickets[ticket] = numbers(due[0])

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), heard=st.booleans())
    def puback(self, data: st.DataObject, heard: bool) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.tickets)))
        if self.window.answered(ticket, self.now, heard=heard) and not heard:
            assert self.window.allowed == 1

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.tickets)))
        if self.window.refused(ticket):
            assert self.window.allowed == 1

    @rule(spans=st.lists(st.tuples(st.integers(1, 200), st.integers(0, 40)), max_size=4))
    def acknowledge(self, spans: list[tuple[int, int]]) -> None:
        ranges = [(first, first + length) for first, length in spans]
        gone = self.out & numbers(ranges)
        assert self.window.acknowledged(ranges) == len(gone)
        self.out -= gone

    @rule(seconds=st.floats(0, 20))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        timeout = self.window.next_timeout_s()
        late = self.window.overdue(self.now)
        assert (late > 0) == (timeout is not None and timeout <= self.now)

    @rule(receive_maximum=st.integers(0, 70_000))
    def reconnect(self, receive_maximum: int) -> None:
        self.window.open(receive_maximum)
        assert self.window.limit == max(1, min(5, receive_maximum))
        assert self.window.empty
        self.out.clear()

    @invariant()
    def books(self) -> None:
        assert self.window.records == len(self.out)
        assert self.window.in_flight <= self.window.limit
        assert 1 <= self.window.allowed <= self.window.limit
        assert self.window.empty == (not self.out)
        assert (self.window.oldest_s is None) == (not self.out)


TestWindow = Model.TestCase


def test_probes_with_one_and_doubles_with_every_round() -> None:
    window = Window(8, ack_timeout_s=1.0)
    window.open(65_535)
    ticket = window.sent(((1, 10),), 0.0)
    window.answered(ticket, 0.0)
    assert window.overdue(0.9) == 0 and window.overdue(1.0) == 1
    assert window.allowed == 1 and window.in_flight == 0 and window.records == 10
    sizes = []
    number = 11
    for _ in range(4):
        due = window.take_due()
        if due is not None:
            window.sent(due[0], 1.0, since_s=due[1])
        while window.room:
            window.sent(((number, number),), 1.0)
            number += 1
        sizes.append(window.in_flight)
        window.acknowledged([(1, number)])
    assert sizes == [1, 2, 4, 8]


def test_a_late_acknowledgement_also_counts_for_what_is_due() -> None:
    window = Window(2, ack_timeout_s=1.0)
    window.open(20)
    window.refused(window.sent(((1, 10),), 0.0))
    window.acknowledged([(1, 4), (6, 10)])
    assert window.take_due() == (((5, 5),), 0.0)
    window.still_due(((5, 5),), 0.0)
    window.acknowledged([(5, 5)])
    assert window.empty and window.take_due() is None


@pytest.mark.parametrize("most", [0, 21])
def test_refuses_nonsense(most: int) -> None:
    with pytest.raises(ValueError, match="1 to 20"):
        Window(most, ack_timeout_s=1.0)
