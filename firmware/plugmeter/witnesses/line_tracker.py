"""From the kernel's numbered line events to records: what one sense line tells, and what it lost.

Pure. The numbers are those of struct gpio_v2_line_event (include/uapi/linux/gpio.h): ``line_seqno``
counts the events of one line from 1, from the moment that the line was requested. The kernel's fifo
of a request drops its *oldest* event when it is full (linereq_put_event, drivers/gpio/gpiolib-cdev.c),
and says so nowhere but in the jump of that number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from plugmeter.records import Edge, Gap


@dataclass(frozen=True, slots=True)
class KernelEdge:
    """One line event as the kernel gave it: CLOCK_MONOTONIC ns, physical direction, number from 1."""

    t_ns: int
    rising: bool
    line_seqno: int


class LineTracker:
    """Turns the events of one requested line into ``Edge`` and ``Gap``, in the order of the kernel.

    ``since_ns`` is when the line was requested: a gap before the first event that is read begins
    there. ``active_high`` False turns the direction round: ``Edge.rising`` means that VBUS came.
    """

    __slots__ = ("_active_high", "_last_ns", "_port", "last_seqno", "lost", "seen")

    def __init__(self, port: str, since_ns: int, active_high: bool = True) -> None:
        self._port = port
        self._active_high = active_high
        self._last_ns = since_ns
        self.last_seqno = 0
        """The highest ``line_seqno`` so far: how many events the kernel has made of this line."""
        self.seen = 0
        """Events that came through."""
        self.lost = 0
        """Events that the numbers prove to be missing."""

    def take(self, events: Iterable[KernelEdge]) -> list[Edge | Gap]:
        """The records for these events; each jump of k numbers gives one Gap(count=k) before its edge.

        A number that does not grow cannot come from a sound kernel. It gives a Gap of unknown count
        (cause ``gpio_order``): nothing that follows can be proven complete.
        """
        records: list[Edge | Gap] = []
        for event in events:
            since_ns = min(self._last_ns, event.t_ns)
            missing = event.line_seqno - self.last_seqno - 1
            if missing > 0:
                self.lost += missing
                records.append(Gap(event.t_ns, "gpio", "gpio_fifo", missing, since_ns))
            elif missing < 0:
                records.append(Gap(event.t_ns, "gpio", "gpio_order", None, since_ns))
            self.seen += 1
            self.last_seqno = max(self.last_seqno, event.line_seqno)
            self._last_ns = event.t_ns
            rising = event.rising == self._active_high
            records.append(Edge(event.t_ns, self._port, rising, event.line_seqno))
        return records
