"""A loop that spins: it wakes up thousands of times a second and finds nothing to do."""

from __future__ import annotations

from dataclasses import dataclass

from plugmeter.lifecycle.diagnosis.finding import Finding, remedy_for, seconds
from plugmeter.lifecycle.samples import Observation, WorkerSample

IDLE_SHARE = 0.1
"""A worker with work in fewer of its wake-ups than this has hardly any."""
_CALM_SHARE = 0.2


@dataclass(slots=True)
class _Watched:
    at_ns: int
    wakeups: int
    work: int
    cpu_ns: int | None
    hot_ns: int = 0
    calm_ns: int = 0
    finding: Finding | None = None


class Spinning:
    """Accuses a worker that wakes up oftener than ``wakeups_per_s`` for ``for_ns``, nine of ten in vain.

    It is acquitted once it has been at under half of that, or at work, for as long.
    """

    def __init__(self, wakeups_per_s: float, for_ns: int = 3_000_000_000) -> None:
        self._limit = wakeups_per_s
        self._for_ns = for_ns
        self._measure_ns = for_ns // 6
        """The shortest time that a rate is measured over."""
        self._workers: dict[str, _Watched] = {}

    def look(self, seen: Observation) -> list[Finding]:
        """All that holds at this moment. A worker that is gone is no longer judged."""
        kept: dict[str, _Watched] = {}
        for worker in seen.workers:
            before = self._workers.get(worker.name)
            if before is None:
                kept[worker.name] = _Watched(seen.now_ns, worker.wakeups, worker.work, _cpu(worker, seen))
            else:
                kept[worker.name] = self._judged(worker, before, seen)
        self._workers = kept
        return [watched.finding for watched in kept.values() if watched.finding]

    def _judged(self, worker: WorkerSample, before: _Watched, seen: Observation) -> _Watched:
        took_ns = seen.now_ns - before.at_ns
        if took_ns < self._measure_ns or took_ns <= 0:
            return before
        wakeups, work = worker.wakeups - before.wakeups, worker.work - before.work
        cpu_ns = _cpu(worker, seen)
        after = _Watched(
            seen.now_ns, worker.wakeups, worker.work, cpu_ns, before.hot_ns, before.calm_ns, before.finding
        )
        if wakeups < 0 or work < 0:  # it was started anew, and counts from 0
            after.hot_ns = after.calm_ns = 0
            after.finding = None
            return after
        per_s = wakeups * 1e9 / took_ns
        share = work / wakeups if wakeups else 1.0
        after.hot_ns = before.hot_ns + took_ns if per_s > self._limit and share < IDLE_SHARE else 0
        is_calm = per_s <= self._limit / 2 or share >= _CALM_SHARE
        after.calm_ns = before.calm_ns + took_ns if is_calm else 0
        if after.finding is None and after.hot_ns >= self._for_ns:
            evidence = (
                f"{worker.name} wakes up {per_s:,.0f} times a second and finds work in {share:.1%} of them,"
                f" for {seconds(after.hot_ns)} (limit {self._limit:,.0f})"
            )
            if cpu_ns is not None and before.cpu_ns is not None:
                evidence += f"; its thread takes {(cpu_ns - before.cpu_ns) / took_ns:.0%} of a processor"
            since_ns = seen.now_ns - after.hot_ns
            after.finding = Finding(
                "spinning", worker.name, since_ns, evidence, remedy_for("spinning", worker.name)
            )
        elif after.finding is not None and after.calm_ns >= self._for_ns:
            after.finding = None
        return after


def _cpu(worker: WorkerSample, seen: Observation) -> int | None:
    if seen.process is None:
        return None
    return next((each.cpu_ns for each in seen.process.threads if each.name == worker.name), None)
