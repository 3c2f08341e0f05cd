"""The keepalive that adapts: how long the link may be idle before it asks the broker whether it is there.

The boxes between a device and its broker forget idle connections after a time of their own, and say
nothing. So the interval starts at a quarter of what is allowed, grows by half with every few intervals that
went well, and is halved when a connection was lost by silence.
"""

from __future__ import annotations


class Keepalive:
    """The interval, in seconds, between ``floor_s`` and ``maximum_s``."""

    def __init__(self, maximum_s: float, *, floor_s: float = 4.0, answers_to_grow: int = 4) -> None:
        if maximum_s <= 0 or floor_s <= 0 or answers_to_grow < 1:
            raise ValueError("an interval is longer than nothing")
        self._configured_s = maximum_s
        self._maximum_s = maximum_s
        self._floor_s = min(floor_s, maximum_s)
        self._answers_to_grow = answers_to_grow
        self._answers = 0
        self.interval_s = max(self._floor_s, maximum_s / 4.0)

    def limit(self, server_s: float | None) -> None:
        """A new connection; ``server_s`` is the broker's Server Keep Alive (MQTT 5, 3.2.2.3.14), if any."""
        self._answers = 0
        self._maximum_s = self._configured_s if not server_s else min(self._configured_s, server_s)
        self.interval_s = min(self.interval_s, self._maximum_s)

    def answered(self) -> None:
        """An idle time of a whole interval was survived: the broker answered."""
        self._answers += 1
        if self._answers >= self._answers_to_grow:
            self._answers = 0
            self.interval_s = min(self._maximum_s, self.interval_s * 1.5)

    def silence(self) -> None:
        """A connection was lost and nobody had said so."""
        self._answers = 0
        self.interval_s = min(self._maximum_s, max(self._floor_s, self.interval_s / 2.0))
