"""Calls of what others gave us: whatever they raise, the link's thread goes on, and it is told."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, ParamSpec, TypeVar

from plugmeter.telemetry.commands.limiter import Limiter

Diary = Callable[[str, Mapping[str, object]], None]
"""(event, details) of the link, for a "link" record."""

_WORDS_LIMIT: Final = 300
_TOLD_BURST: Final = 30
_TOLD_PER_S: Final = 1 / 60
_P = ParamSpec("_P")
_T = TypeVar("_T")


class Guard:
    """Calls things; an exception becomes a count and a line in the diary. For one thread.

    Each kind of event is told 30 times, and then once a minute, with how many were not: who sends nonsense
    without end, or a controller that is away for months, must not fill the outbox with the diary.
    """

    def __init__(
        self,
        diary: Diary,
        counters: Counter[str],
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._diary = diary
        self._counters = counters
        self._monotonic_ns = monotonic_ns
        self._told: set[str] = set()
        self._limiters: dict[str, Limiter] = {}
        self._withheld: Counter[str] = Counter()

    def call(self, what: str, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T | None:
        """The result; None after an exception: counted as ``what``_errors, and told once a connection."""
        try:
            return function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  the boundary that keeps the thread alive: counted and told
            self._counters[f"{what}_errors"] += 1
            words = f"{type(error).__name__}: {error}"[:_WORDS_LIMIT]
            if what not in self._told:
                self._told.add(what)
                self.tell("exception", {"in": what, "error": words})
            return None

    def tell(self, event: str, details: Mapping[str, object], *, always: bool = False) -> None:
        """Into the diary, which may fail as well: then there is the count. ``always`` is for what is bounded
        otherwise."""
        limiter = self._limiters.setdefault(event, Limiter(_TOLD_BURST, _TOLD_PER_S))
        if not always and not limiter.take(self._monotonic_ns()):
            self._withheld[event] += 1
            self._counters["diary_withheld"] += 1
            return
        withheld = self._withheld.pop(event, 0)
        try:
            self._diary(event, {**details, "withheld": withheld} if withheld else details)
        except Exception:  # noqa: BLE001  there is nobody else to tell; counted
            self._counters["diary_errors"] += 1

    def new_connection(self) -> None:
        self._told.clear()
