"""How much is told in the journal: for a while as the controller wants it, else as it is configured."""

from __future__ import annotations

import time
from typing import Any

from plugmeter.lifecycle import journal


class LogLevel:
    """The main thread's. Levels are those of ``daemon.log_level``: debug, info, warning, error."""

    def __init__(self) -> None:
        self._until_ns = 0
        """When it is over (time.monotonic_ns); 0: no time was set."""

    def set(self, level: str, minutes: int | None) -> dict[str, Any]:
        """From now on, for so many minutes; None: until something else is wanted. The command's result."""
        journal.set_level(level)
        self._until_ns = time.monotonic_ns() + minutes * 60_000_000_000 if minutes else 0
        return {"level": level, "minutes": minutes}

    def tick(self, configured: str) -> None:
        """Once a second: back to what is configured when the time is over."""
        if self._until_ns and time.monotonic_ns() >= self._until_ns:
            self._until_ns = 0
            journal.set_level(configured)
