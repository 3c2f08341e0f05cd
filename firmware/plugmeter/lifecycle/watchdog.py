"""The service manager's watchdog: fed at half of its time, and only while every worker moves."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import Final

from plugmeter.lifecycle.notify import Notifier
from plugmeter.lifecycle.vigil import Vigil
from plugmeter.progress import Progress

LOG: Final = logging.getLogger("plugmeter.lifecycle")

_RETRY_NS: Final = 1_000_000_000


class Watchdog:
    """While running; in all other stages the watchdog rests (systemd.service(5), WatchdogSec)."""

    def __init__(self, notifier: Notifier) -> None:
        self.stuck: tuple[str, ...] = ()
        """The workers that do not move: for them it is not fed."""
        self.due_ns: float = math.inf
        """When to ``look`` at the latest, CLOCK_MONOTONIC; never, where there is no watchdog."""
        self._notifier = notifier
        self._interval_ns = int((notifier.watchdog_s or 0) / 2 * 1e9)
        self._vigil = Vigil(self._interval_ns)

    def begin(self, now_ns: int) -> None:
        """It runs from now on; perhaps its time has begun with the start already."""
        if self._notifier.watchdog_s is not None:
            self.due_ns = now_ns

    def look(self, now_ns: int, workers: Iterable[Progress]) -> None:
        """Look for workers that do not move; feed it, if there is none and it is time."""
        stuck = tuple(self._vigil.look(now_ns, workers))
        if stuck != self.stuck:
            self.stuck = stuck
            if stuck:
                LOG.error("%s: no sign of life; the watchdog is not fed", ", ".join(stuck))
            else:
                LOG.info("all workers move again")
        if now_ns < self.due_ns:
            return
        if stuck:
            self.due_ns = now_ns + min(self._interval_ns // 4, _RETRY_NS)
        else:
            self._notifier.watchdog()
            self.due_ns = now_ns + self._interval_ns
