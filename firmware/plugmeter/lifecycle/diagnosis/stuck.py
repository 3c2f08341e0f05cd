"""A worker that does not move: its wake-ups rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from plugmeter.lifecycle.diagnosis.finding import Finding, remedy_for, seconds
from plugmeter.lifecycle.samples import Observation

_MOST_STEP_NS = 2_000_000_000
_MOST_CALM_NS = 5_000_000_000


@dataclass(slots=True)
class _Watched:
    wakeups: int
    rested_ns: int = 0
    calm_ns: int = 0
    finding: Finding | None = None


class Stuck:
    """Accuses a worker whose wake-ups rested for ``stuck_ns``; acquits it when it has moved for a while.

    Only time that was looked at counts: between two looks at most 2 s (or a quarter of ``stuck_ns``), so that
    a daemon that was itself stopped (SIGSTOP, a suspended machine) finds nobody stuck when it goes on.
    """

    def __init__(self, stuck_ns: int, whereabouts: Callable[[str], str]) -> None:
        self._stuck_ns = stuck_ns
        self._most_step_ns = min(_MOST_STEP_NS, stuck_ns // 4)
        self._calm_ns = min(_MOST_CALM_NS, stuck_ns // 4)
        self._whereabouts = whereabouts
        self._workers: dict[str, _Watched] = {}
        self._looked_ns: int | None = None

    def look(self, seen: Observation) -> list[Finding]:
        """All that holds at this moment. A worker that is gone is no longer judged."""
        since_last = seen.now_ns - self._looked_ns if self._looked_ns is not None else 0
        step_ns = max(0, min(since_last, self._most_step_ns))
        self._looked_ns = seen.now_ns
        self._workers = {
            each.name: self._workers.get(each.name) or _Watched(each.wakeups) for each in seen.workers
        }
        for each in seen.workers:
            self._judge(each.name, each.wakeups, seen, step_ns)
        return [watched.finding for watched in self._workers.values() if watched.finding]

    def _judge(self, name: str, wakeups: int, seen: Observation, step_ns: int) -> None:
        watched = self._workers[name]
        if wakeups != watched.wakeups:
            watched.wakeups = wakeups
            watched.rested_ns = 0
        else:
            watched.rested_ns += step_ns
        if watched.finding is None:
            watched.calm_ns = 0
            if watched.rested_ns >= self._stuck_ns:
                watched.finding = self._accuse(name, watched.rested_ns, seen)
        elif watched.rested_ns >= self._stuck_ns // 2:
            watched.calm_ns = 0
        else:
            watched.calm_ns += step_ns
            if watched.calm_ns >= self._calm_ns:
                watched.finding = None

    def _accuse(self, name: str, rested_ns: int, seen: Observation) -> Finding:
        evidence = f"{name} has not moved for {seconds(rested_ns)}"
        thread = next(
            (each for each in (seen.process.threads if seen.process else ()) if each.name == name), None
        )
        if thread is not None:
            evidence += f" (thread {thread.tid}, state {thread.state})"
        where = self._whereabouts(name)
        evidence += f": in {where}" if where else ": no thread of this process has that name"
        return Finding("stuck", name, seen.now_ns - rested_ns, evidence, remedy_for("stuck", name))
