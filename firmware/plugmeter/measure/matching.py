"""Order-preserving one-to-one matching of one port's episodes with one witness's enumerations.

Plugs go with adds and pulls with removes, in a single order for both. A pair is possible when the kinds
agree and -tolerance_ns <= latency <= lost_after_ns, with latency = enumeration's t_ns - episode's t_start_ns.
Of all matchings the one with the most pairs is chosen, and among those the one with the least total latency.

Exactness: the choice is the optimum over all records as long as no episode's window closes while an
alternative is alive. When one does close, its verdict is taken from the best hypothesis at that moment and
alternatives that disagree are dropped, because verdicts may not wait for ever. A busy stretch from its first
episode to its last enumeration within ``lost_after_ns``, after and before a pause as long, is therefore
always exact. The price is paid by one case: a *constant* lag of more than a whole cycle, kept up for longer
than ``lost_after_ns`` without a pause, reads as a loss of the first episodes and surplus at the end.

Everything runs on event time. ``advance(now_ns)`` promises that every record with a time up to ``now_ns -
hold_ns`` was added. An enumeration waits for as long, since an episode is announced only when it is stable:
``hold_ns`` must be at least the most unrest plus the debounce time plus the tolerance. Results and their
order do not depend on how advances are interleaved with the records.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from plugmeter.measure.enumerations import Enumeration
from plugmeter.measure.episodes import AmbiguousPulse, Episode
from plugmeter.measure.hypotheses import Frontier

_COMPACT_AT = 256  # decided episodes that may stay at the front of the lists before they are cut off


@dataclass(frozen=True, slots=True)
class Matched:
    """The episode was captured, after ``latency_ns``; ``late`` if that is more than the nominal time."""

    episode: Episode
    enumeration: Enumeration
    latency_ns: int
    late: bool


@dataclass(frozen=True, slots=True)
class Lost:
    """No enumeration belongs to the episode."""

    episode: Episode


class Surplus(NamedTuple):
    """No episode belongs to the enumeration.

    A ``duplicate`` repeats the kind of the port's enumeration just before it; anything else is an
    ``orphan``. ``excuse`` is the latest ambiguous pulse that began before it and ended no more than the
    nominal time ago: the kernel may rightly have acted on that.
    """

    enumeration: Enumeration
    kind: Literal["duplicate", "orphan"]
    excuse: AmbiguousPulse | None

    @property
    def excused(self) -> bool:
        """Whether an ambiguous pulse may account for it."""
        return self.excuse is not None


@dataclass(frozen=True, slots=True)
class Undecided:
    """The run ended while the episode's window was still open; nothing can be said about it."""

    episode: Episode


Result: TypeAlias = Matched | Lost | Surplus | Undecided


class Matcher:
    """The matcher of one port and one witness. Each episode and each enumeration gets exactly one result.

    Memory is bounded by what the window and the hold can contain. ``late_records`` counts what was added
    after the time had already passed it: still matched as well as can be, but a breach of the promise that
    ``advance`` makes.
    """

    __slots__ = (
        "_added_before",
        "_branches",
        "_clock_ns",
        "_episodes",
        "_frontier",
        "_head",
        "_held",
        "_hold_ns",
        "_kinds",
        "_lost_after_ns",
        "_nominal_ns",
        "_out",
        "_pulses",
        "_starts",
        "_sums",
        "_tolerance_ns",
        "_watermark_ns",
        "_xhead",
        "late_records",
        "port",
    )

    def __init__(
        self, port: str, nominal_ns: int, lost_after_ns: int, *, hold_ns: int, tolerance_ns: int = 0
    ) -> None:
        """``hold_ns``: at least unrest + debounce + tolerance. ``tolerance_ns``: how clocks may differ."""
        if not 0 <= nominal_ns <= lost_after_ns:
            raise ValueError(
                f"nominal_ns ({nominal_ns}) must lie between 0 and lost_after_ns ({lost_after_ns})"
            )
        if tolerance_ns < 0 or hold_ns < tolerance_ns:
            raise ValueError(
                f"hold_ns ({hold_ns}) must be at least tolerance_ns ({tolerance_ns}), and that 0"
            )
        self.port = port
        self.late_records = 0
        self._nominal_ns = nominal_ns
        self._lost_after_ns = lost_after_ns
        self._hold_ns = hold_ns
        self._tolerance_ns = tolerance_ns
        # Undecided episodes are [head:] of these; all in front is decided and cut off now and then.
        self._episodes: list[Episode] = []
        self._starts: list[int] = []
        self._kinds: list[bool] = []
        self._sums: list[int] = [0]
        self._head = 0
        self._held: deque[Enumeration] = deque()
        self._pulses: deque[AmbiguousPulse] = deque()
        # Only while there is more than one hypothesis:
        self._frontier: Frontier | None = None
        self._branches: list[Surplus] = []  # undecided enumerations, as what they are if nothing takes them
        self._xhead = 0
        self._added_before: bool | None = None
        self._clock_ns = 0  # the latest enumeration or closed window that was dealt with
        self._watermark_ns: int | None = None
        self._out: list[Result] = []

    @property
    def undecided(self) -> tuple[int, int]:
        """(episodes, enumerations) that were added and have no result yet."""
        return len(self._episodes) - self._head, len(self._held) + len(self._branches) - self._xhead

    def add_episode(self, episode: Episode) -> None:
        """Call when the episode is stable, in order. Raises ValueError for another port or a wrong order."""
        t_start_ns = episode.t_first_ns
        if episode.port != self.port:
            raise ValueError(
                f"an episode of port {episode.port} was given to the matcher of port {self.port}"
            )
        starts = self._starts
        if starts and t_start_ns < starts[-1]:
            raise ValueError(f"episode {episode.ordinal} of port {self.port} is older than the one before it")
        if self._watermark_ns is not None and t_start_ns <= self._watermark_ns:
            self.late_records += 1
        self._episodes.append(episode)
        starts.append(t_start_ns)
        self._kinds.append(episode.plugged)
        self._sums.append(self._sums[-1] + t_start_ns)

    def add_enumeration(self, enumeration: Enumeration) -> None:
        """Order does not matter before the watermark. Raises ValueError for another port."""
        if enumeration.port != self.port:
            raise ValueError(
                f"an enumeration of port {enumeration.port} was given to port {self.port}'s matcher"
            )
        t_ns = enumeration.t_ns
        if self._watermark_ns is not None and t_ns <= self._watermark_ns:
            self.late_records += 1
        held = self._held
        if held and (t_ns, enumeration.seqnum) < (held[-1].t_ns, held[-1].seqnum):
            insort(held, enumeration, key=_by_time)
        else:
            held.append(enumeration)

    def add_pulse(self, pulse: AmbiguousPulse) -> None:
        """Call when the pulse is over, in order. Raises ValueError for another port."""
        if pulse.port != self.port:
            raise ValueError(f"a pulse of port {pulse.port} was given to the matcher of port {self.port}")
        self._pulses.append(pulse)

    def advance(self, now_ns: int) -> list[Result]:
        """Every verdict that can be given by ``now_ns``."""
        watermark_ns = now_ns - self._hold_ns
        if self._watermark_ns is None or watermark_ns > self._watermark_ns:
            self._watermark_ns = watermark_ns
        held = self._held
        if held and held[0].t_ns <= watermark_ns:
            self._take(watermark_ns)
        if self._head < len(self._starts) and self._starts[self._head] + self._lost_after_ns < watermark_ns:
            self._close_windows(watermark_ns)
        if self._pulses:
            self._forget_pulses(watermark_ns)
        out = self._out
        if out:
            self._out = []
        return out

    def finish(self, now_ns: int, *, final: bool = False) -> list[Result]:
        """No record will come any more: give every verdict there is.

        An episode without an enumeration whose window is still open at ``now_ns`` is ``Undecided``, or
        ``Lost`` where ``final`` says that nothing can come any more. Nothing stays undecided inside.
        """
        self._take(None)
        self._close_windows(now_ns)
        open_from_ns = None if final else now_ns - self._lost_after_ns
        self._settle(open_from_ns)
        for episode in self._episodes[self._head :]:
            self._out.append(_unmatched(episode, open_from_ns))
        self._head = len(self._episodes)
        self._compact()
        self._pulses.clear()
        out, self._out = self._out, []
        return out

    def _take(self, until_ns: int | None) -> None:
        """Deal with the held enumerations up to ``until_ns`` (all, if None), in order of time."""
        held = self._held
        starts, kinds = self._starts, self._kinds
        tolerance_ns, lost_after_ns, nominal_ns = self._tolerance_ns, self._lost_after_ns, self._nominal_ns
        out = self._out
        while held:
            enumeration = held[0]
            t_ns = enumeration.t_ns
            if until_ns is not None and t_ns > until_ns:
                return
            held.popleft()
            head = self._head
            if head < len(starts) and starts[head] + lost_after_ns < t_ns:
                self._close_windows(t_ns)
                head = self._head
            added = enumeration.added
            limit_ns = t_ns + tolerance_ns
            if self._frontier is None:
                # How many episodes have begun decides: with one, or a first one of this kind and a second
                # of the other, no later episode can take this enumeration, and nothing better can come
                # for the first one. With none of this kind the enumeration is surplus.
                known = len(starts)
                if head < known and starts[head] <= limit_ns:
                    if kinds[head] == added:
                        second = head + 1
                        if (
                            second == known
                            or starts[second] > limit_ns
                            or (kinds[second] != added and (head + 2 >= known or starts[head + 2] > limit_ns))
                        ):
                            latency_ns = t_ns - self._episodes[head].t_start_ns
                            out.append(
                                Matched(
                                    self._episodes[head], enumeration, latency_ns, latency_ns > nominal_ns
                                )
                            )
                            self._head = second
                            if second >= _COMPACT_AT:
                                self._compact()
                            self._added_before = added
                            self._clock_ns = t_ns
                            continue
                        branch = True
                    else:
                        branch = head + 1 < known and starts[head + 1] <= limit_ns
                else:
                    branch = False
            else:
                branch = True
            surplus = self._as_surplus(enumeration)
            self._clock_ns = max(self._clock_ns, t_ns)
            if not branch or not self._branch(surplus, limit_ns):
                out.append(surplus)

    def _branch(self, surplus: Surplus, limit_ns: int) -> bool:
        """Let the hypotheses go on with one more enumeration. Returns whether any of them uses it."""
        enumeration = surplus.enumeration
        added, t_ns = enumeration.added, enumeration.t_ns
        frontier = self._frontier
        first = self._head if frontier is None else max(self._head, frontier.first_last + 1)
        until = bisect_right(self._starts, limit_ns, first)
        kinds = self._kinds
        candidates = [p for p in range(first, until) if kinds[p] == added]
        if not candidates:
            return False
        if frontier is None:
            frontier = self._frontier = Frontier(self._head, self._starts, self._sums)
        if not frontier.offer(len(self._branches), t_ns, candidates):
            used = False
        else:
            self._branches.append(surplus)
            used = True
        if len(frontier) == 1:
            self._settle(None)
        return used

    def _close_windows(self, t_ns: int) -> None:
        """Decide every episode whose window ended before ``t_ns``, in order."""
        starts, lost_after_ns = self._starts, self._lost_after_ns
        while self._head < len(starts):
            closed_ns = starts[self._head] + lost_after_ns
            if closed_ns >= t_ns:
                break
            frontier = self._frontier
            if frontier is None:
                self._out.append(Lost(self._episodes[self._head]))
                self._head += 1
            else:
                x = frontier.decide(self._head, self._xhead)
                if x is None:
                    self._out.append(Lost(self._episodes[self._head]))
                    self._head += 1
                else:
                    self._emit_pair(self._head, x)
                self._clock_ns = max(self._clock_ns, closed_ns)
                frontier.prune(self._clock_ns)
                if len(frontier) == 1:
                    self._settle(None)
            if self._head >= _COMPACT_AT:
                self._compact()

    def _settle(self, open_from_ns: int | None) -> None:
        """The best hypothesis is the truth: give its verdicts and forget the others.

        Without ``open_from_ns`` an episode that it passed over is lost: order forbids a later match.
        """
        frontier = self._frontier
        if frontier is None:
            return
        for e, x in frontier.pairs(self._head, self._xhead):
            for episode in self._episodes[self._head : e]:
                self._out.append(_unmatched(episode, open_from_ns))
            self._emit_pair(e, x)
        self._out.extend(self._branches[self._xhead :])
        self._branches.clear()
        self._xhead = 0
        self._frontier = None

    def _emit_pair(self, e: int, x: int) -> None:
        """Match episode ``e`` with undecided enumeration ``x``; those before ``x`` are surplus."""
        self._out.extend(self._branches[self._xhead : x])
        enumeration = self._branches[x].enumeration
        latency_ns = enumeration.t_ns - self._episodes[e].t_start_ns
        self._out.append(Matched(self._episodes[e], enumeration, latency_ns, latency_ns > self._nominal_ns))
        self._head = e + 1
        self._xhead = x + 1

    def _as_surplus(self, enumeration: Enumeration) -> Surplus:
        """What the enumeration is if no episode takes it; needs the one before it, so call in order."""
        duplicate = self._added_before is enumeration.added
        self._added_before = enumeration.added
        excuse = None
        if self._pulses:
            t_ns = enumeration.t_ns
            for pulse in self._pulses:
                if pulse.t_from_ns > t_ns + self._tolerance_ns:
                    break
                if t_ns - pulse.t_until_ns <= self._nominal_ns:
                    excuse = pulse
        return Surplus(enumeration, "duplicate" if duplicate else "orphan", excuse)

    def _forget_pulses(self, watermark_ns: int) -> None:
        """Drop the pulses that cannot excuse anything still to come."""
        pulses = self._pulses
        while pulses and pulses[0].t_until_ns + self._nominal_ns < watermark_ns:
            pulses.popleft()

    def _compact(self) -> None:
        """Cut what is decided off the front of the lists."""
        head, xhead = self._head, self._xhead
        del self._episodes[:head]
        del self._starts[:head]
        del self._kinds[:head]
        del self._sums[:head]
        del self._branches[:xhead]
        if self._frontier is not None:
            self._frontier.rebase(head, xhead)
        self._head = self._xhead = 0


def _by_time(enumeration: Enumeration) -> tuple[int, int]:
    return enumeration.t_ns, enumeration.seqnum


def _unmatched(episode: Episode, open_from_ns: int | None) -> Lost | Undecided:
    if open_from_ns is not None and episode.t_start_ns >= open_from_ns:
        return Undecided(episode)
    return Lost(episode)
