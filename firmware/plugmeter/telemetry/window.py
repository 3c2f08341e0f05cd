"""What is under way: batches that were sent and that the controller has not acknowledged.

A batch ends in one of three ways: all its numbers are acknowledged; the broker refuses it (PUBACK from 0x80
on); or the acknowledgement does not come in time. In the last two its numbers become *due*: they are read
from the outbox again, where those that have gone meanwhile have left a tombstone. No record is held here.

How many may be under way starts at the limit. A batch that times out, is refused or is heard by nobody
(reason code 0x10) brings it down to one, which then is the probe; each batch that is acknowledged whole lets
it grow by one again, so that it doubles with every round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from plugmeter.telemetry import ranges
from plugmeter.telemetry.ranges import Range, Ranges

WINDOW_LIMIT: Final = 20
"""Messages under way, whatever a broker's Receive Maximum allows."""


@dataclass(slots=True)
class _Flight:
    """A batch under way, or one that is due to be sent again. Times are monotonic seconds."""

    left: Ranges
    """What is not acknowledged."""
    since_s: float
    """When its numbers were first sent."""
    answered_s: float | None = None
    """When the broker's PUBACK came: from then on the controller has time."""


class Window:
    """The batches under way, by ticket."""

    def __init__(self, most: int = WINDOW_LIMIT, *, ack_timeout_s: float) -> None:
        if not 1 <= most <= WINDOW_LIMIT:
            raise ValueError(f"a window has 1 to {WINDOW_LIMIT} places, not {most}")
        self._most = most
        self._limit = most
        self._allowed = most
        self._ack_timeout_s = ack_timeout_s
        self._flights: dict[int, _Flight] = {}
        self._due: list[_Flight] = []
        self._tickets = 0

    def clear(self) -> None:
        """The connection is lost: what was under way is unknown now, and read from the outbox again."""
        self._flights.clear()
        self._due.clear()

    def open(self, receive_maximum: int) -> None:
        """A new connection, with the broker's Receive Maximum."""
        self.clear()
        self._limit = max(1, min(self._most, receive_maximum))
        self._allowed = min(self._allowed, self._limit)

    # --- what happened -------------------------------------------------------------------------------

    def sent(self, numbers: Ranges, now_s: float, *, since_s: float | None = None) -> int:
        """A batch with these ``numbers`` was given to the broker; ``since_s``: when for the first time.

        Gives its ticket. (Not MQTT's packet identifier: the broker frees that with the PUBACK.)
        """
        self._tickets += 1
        self._flights[self._tickets] = _Flight(numbers, now_s if since_s is None else since_s)
        return self._tickets

    def answered(self, ticket: int, now_s: float, *, heard: bool = True) -> bool:
        """A PUBACK below 0x80; not ``heard`` is 0x10. False where that batch is not under way any more."""
        flight = self._flights.get(ticket)
        if flight is None:
            return False
        flight.answered_s = now_s
        if not heard:
            self._allowed = 1
        return True

    def refused(self, ticket: int) -> bool:
        """A PUBACK from 0x80 on: not delivered. False where that batch is not under way any more."""
        flight = self._flights.pop(ticket, None)
        if flight is None:
            return False
        self._becomes_due(flight)
        return True

    def acknowledged(self, wanted: Sequence[Range]) -> int:
        """The controller has committed ``wanted``, in any order. How many of the numbers under way these
        were."""
        gone = ranges.normalise(wanted)
        before = self.records
        for ticket, flight in tuple(self._flights.items()):
            flight.left = ranges.subtract(flight.left, gone)
            if not flight.left:
                del self._flights[ticket]
                self._allowed = min(self._limit, self._allowed + 1)
        for flight in self._due:
            flight.left = ranges.subtract(flight.left, gone)
        self._due = [flight for flight in self._due if flight.left]
        return before - self.records

    def overdue(self, now_s: float) -> int:
        """How many batches the controller has not acknowledged in time; they are due now."""
        late = [
            ticket
            for ticket, flight in self._flights.items()
            if flight.answered_s is not None and now_s - flight.answered_s >= self._ack_timeout_s
        ]
        for ticket in late:
            self._becomes_due(self._flights.pop(ticket))
        return len(late)

    def _becomes_due(self, flight: _Flight) -> None:
        self._allowed = 1
        self._due.append(flight)
        self._due.sort(key=lambda each: each.left[0])

    # --- what may be done ----------------------------------------------------------------------------

    @property
    def room(self) -> bool:
        """Whether another batch may be sent."""
        return len(self._flights) < self._allowed

    def take_due(self) -> tuple[Ranges, float] | None:
        """The oldest numbers to be sent again, and since when they are under way. The window forgets them."""
        if not self._due:
            return None
        flight = self._due.pop(0)
        return flight.left, flight.since_s

    def still_due(self, numbers: Ranges, since_s: float) -> None:
        """What ``take_due`` gave and did not fit into one message."""
        self._due.append(_Flight(numbers, since_s))
        self._due.sort(key=lambda each: each.left[0])

    # --- how it stands -------------------------------------------------------------------------------

    @property
    def limit(self) -> int:
        return self._limit

    @property
    def allowed(self) -> int:
        return self._allowed

    @property
    def in_flight(self) -> int:
        """Batches under way."""
        return len(self._flights)

    @property
    def empty(self) -> bool:
        return not self._flights and not self._due

    @property
    def records(self) -> int:
        """Numbers that were sent and are not acknowledged."""
        return sum(ranges.total(each.left) for each in (*self._flights.values(), *self._due))

    @property
    def oldest_s(self) -> float | None:
        """When the oldest of them was first sent."""
        return min((each.since_s for each in (*self._flights.values(), *self._due)), default=None)

    def next_timeout_s(self) -> float | None:
        """When the next batch is overdue."""
        answered = [each.answered_s for each in self._flights.values() if each.answered_s is not None]
        return min(answered) + self._ack_timeout_s if answered else None
