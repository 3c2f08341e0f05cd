"""What every witness is: something to poll, to read until it is dry, and to close."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from plugmeter.records import Record, Tally, WitnessName


class Witness(Protocol):
    """A source of records that any loop can drive.

    ``read`` never blocks and never raises for what the other side sent or lost: that comes back as
    a ``Gap`` among the records. ``tally`` may be called at any time, also after ``close``.
    """

    @property
    def name(self) -> WitnessName: ...

    def fileno(self) -> int:
        """A descriptor that polls readable (or POLLERR) when ``read`` has something to return."""
        ...

    def read(self) -> Sequence[Record]:
        """All that is there now, oldest first; empty when there is nothing."""
        ...

    def held_since_ns(self) -> int | None:
        """The stamp of the oldest record that was received and ``read`` has not given out yet.

        None where it holds nothing, or stamps only in ``read``. Time may not move on beyond it.
        """
        ...

    def tally(self) -> Tally:
        """What has been offered to this witness so far, and what of that it still holds."""
        ...

    def close(self) -> None:
        """Give everything back to the kernel; a second call does nothing."""
        ...
