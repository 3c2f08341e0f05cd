"""The pipeline: records in, verdicts and accounts out. Everything that ``measure`` knows, put in line.

    records -> timeline -> edges      -> episodes  \\
                        -> uevents    -> sightings  > matching -> judge -> verdicts -> ledger
                        -> nodes      -> node merge /
                        -> gaps, tallies -> witness ledgers
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from plugmeter.measure.clocks import ClockTracker
from plugmeter.measure.enumerations import Enumeration, enumeration_of
from plugmeter.measure.episodes import AmbiguousPulse, Episode
from plugmeter.measure.gaps import GapIntervals
from plugmeter.measure.latency import LatencyHistogram
from plugmeter.measure.ledger import VerdictLedger, WitnessLedger
from plugmeter.measure.matching import Lost, Matched, Result, Surplus
from plugmeter.measure.nodes import NodeMerger, NodeSighting
from plugmeter.measure.port import Port
from plugmeter.measure.ports import Input
from plugmeter.measure.presence import PresenceBook
from plugmeter.measure.seqnums import SeqnumLedger
from plugmeter.measure.sightings import Sightings
from plugmeter.measure.timeline import Timeline
from plugmeter.measure.verdicts import Judge, Verdict
from plugmeter.records import (
    Driven,
    Edge,
    Gap,
    Level,
    LineAccount,
    ListenerSample,
    NodeEvent,
    Presence,
    Record,
    RunEnd,
    RunStart,
    Tally,
    Uevent,
    WitnessName,
)

LOSSES_KEPT = 1000

SEQNUM_MAX = 2**64 - 1

_UEVENT_WITNESSES = ("netlink", "udev")

_Told = TypeVar("_Told")

NEWS_KEPT = 65_536
"""So many verdicts, and so many gaps, wait for whoever follows a run; more are counted and left out."""

LATEST_NS = 2**62
"""Times beyond it (146 years after the boot) cannot be; nor can those before the boot."""


@dataclass(slots=True)
class Outcomes:
    """Every decided episode's time and whether it was lost, 9 bytes each."""

    t_ns: array[int] = field(default_factory=lambda: array("q"))
    lost: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True, slots=True)
class News:
    """What came out since somebody asked last: verdicts and gaps, each in the order in which they came.

    ``omitted`` counts those that found no room, because nobody had asked for too long.
    """

    verdicts: tuple[Verdict, ...] = ()
    gaps: tuple[Gap, ...] = ()
    omitted: int = 0


_NO_NEWS = News()


class Pipeline:
    """Feed it records, tell it how far time has come, ask it what it knows.

    It never looks at a clock: the same calls in the same order give the same answers. It is total: any
    records in any order come to an end in some account. What cannot be (``absurd``) is counted, and the
    report says that the run contradicts itself.

    Raises ValueError for a ``start`` that cannot be: limits that are negative or out of order.
    """

    def __init__(self, start: RunStart) -> None:
        _check(start)
        self.start = start
        self.end: RunEnd | None = None
        self.now_ns = start.t_ns
        """How far the run has come."""
        self.timeline = Timeline()
        self.ports: dict[str, Port] = {}
        self.witnesses = {name: WitnessLedger(name) for name in start.witnesses}
        self.verdicts = VerdictLedger()
        self.seqnums = SeqnumLedger(reorder_window_ns=start.reorder_window_ns)
        self.latency = {
            stage: LatencyHistogram()
            for stage in ("edge_to_uevent_plug", "edge_to_uevent_pull", "uevent_to_udev", "edge_to_node")
        }
        self.gpio_to_netlink = ClockTracker()
        self.netlink_to_udev = ClockTracker()
        self.outcomes = Outcomes()
        self.losses: list[Verdict] = []
        self.losses_omitted = 0
        self.expected_plugs = 0
        self.first_listeners: ListenerSample | None = None
        self.last_listeners: ListenerSample | None = None
        self.presence = PresenceBook()
        self.absurd: Counter[str] = Counter()
        """Records that cannot be, by what is wrong with them."""
        self.overruns = 0
        self.unplaced_gaps = 0
        self._followed = False
        self._new_verdicts: list[Verdict] = []
        self._new_gaps: list[Gap] = []
        self._news_omitted = 0
        self._gaps = GapIntervals(2 * start.lost_after_ns)
        self._sightings = Sightings(2 * start.lost_after_ns)
        self._judge = Judge(frozenset(start.witnesses), self._sightings, self._gaps, 2 * start.nominal_ns)
        self._nodes = NodeMerger(window_ns=start.nominal_ns, channels=frozenset(start.witnesses))
        self._initially_high: dict[str, bool] = {}
        self._wired = set(start.ports)
        self._take: dict[type[Any], Callable[[Any], None]] = {
            Uevent: self._take_uevent,
            Edge: self._take_edge,
            Driven: lambda record: self._port(record.port).line.feed(record),
            Level: self._take_level,
            NodeEvent: self._take_node,
            Gap: self._take_gap,
            Tally: self._take_tally,
            LineAccount: lambda record: self._port(record.port).line.feed(record),
            Presence: self.presence.look,
            ListenerSample: self._take_listeners,
            RunStart: self._take_run_mark,
            RunEnd: self._take_run_mark,
        }

    # -- inputs ---------------------------------------------------------------------------------

    def feed(self, records: Iterable[Record]) -> None:
        """Take records in, in the order in which they were read."""
        self.timeline.add(records)

    def advance(self, watermark_ns: int) -> None:
        """Everything up to ``watermark_ns`` has been fed: decide what can be decided."""
        take = self._take
        self.now_ns = max(self.now_ns, watermark_ns)
        released = self.timeline.release(watermark_ns)
        if released and not 0 <= released[0].t_ns <= released[-1].t_ns <= LATEST_NS:
            released = self._possible(released)
        for record in released:
            take[type(record)](record)
        self.seqnums.advance(watermark_ns)
        for sighting in self._nodes.advance(watermark_ns):
            self._note_node(sighting)
        for name in self.ports:
            self._move_on(name, watermark_ns)
        self._pronounce(self._judge.settle(watermark_ns))

    def finish(self, end: RunEnd) -> None:
        """The run is over: decide the rest from what there is. Nothing may be fed afterwards."""
        self.advance(end.t_ns)
        self.end = end
        for sighting in self._nodes.finish():
            self._note_node(sighting)
        for port in self.ports.values():
            self._take_episodes(port, port.episodes.finish(end.t_ns))
            self._take_results(port, port.matcher.finish(end.t_ns))
        self._pronounce(self._judge.settle(end.t_ns, final=True))

    # -- what is known --------------------------------------------------------------------------

    def follow(self) -> None:
        """Keep verdicts and gaps from now on, up to ``NEWS_KEPT``, for ``take_news``.

        Unless it is asked to, the pipeline only counts them: a long run whose news nobody takes stays small.
        """
        self._followed = True

    def take_news(self) -> News:
        """The verdicts and gaps since the last call; after ``finish`` also those of the end."""
        if not (self._new_verdicts or self._new_gaps):
            return _NO_NEWS
        news = News(tuple(self._new_verdicts), tuple(self._new_gaps), self._news_omitted)
        self._new_verdicts.clear()
        self._new_gaps.clear()
        self._news_omitted = 0
        return news

    @property
    def undecided(self) -> int:
        """Episodes that wait for an enumeration or a witness, and enumerations that wait for an episode."""
        return len(self._judge) + sum(sum(port.matcher.undecided) for port in self.ports.values())

    # -- one method a record type ---------------------------------------------------------------

    def _port(self, name: str) -> Port:
        port = self.ports.get(name)
        if port is None:
            high = self._initially_high.get(name, False)
            port = self.ports[name] = Port(name, self.start, high, name in self.presence)
        return port

    def _ledger(self, name: WitnessName) -> WitnessLedger:
        """A witness's ledger. One that the run does not know of gets one too: it will lack its tally."""
        ledger = self.witnesses.get(name)
        if ledger is None:
            ledger = self.witnesses[name] = WitnessLedger(name)
        return ledger

    def _possible(self, records: list[Record]) -> list[Record]:
        possible = [record for record in records if 0 <= record.t_ns <= LATEST_NS]
        self.absurd["a time before the boot or after 146 years"] += len(records) - len(possible)
        return possible

    def _take_uevent(self, uevent: Uevent) -> None:
        witness, seqnum = uevent.witness, uevent.seqnum
        if witness not in _UEVENT_WITNESSES:
            self.absurd["a uevent of a witness that has none"] += 1
            return
        self._ledger(witness).deliver()
        if not 0 < seqnum <= SEQNUM_MAX:
            self.absurd["a SEQNUM that the kernel cannot count to"] += 1
        elif witness == "netlink":
            self.seqnums.feed(seqnum, uevent.t_ns)
        enumeration = enumeration_of(uevent)
        if enumeration is not None:
            self._take_enumeration(enumeration)
        elif uevent.devtype == "disk" and uevent.subsystem == "block":
            self._nodes.feed(uevent)
        elif uevent.devtype == "usb_device" and uevent.action == "bind" and witness == "netlink":
            self._take_bind(uevent)

    def _take_enumeration(self, enumeration: Enumeration) -> None:
        if self._sightings.see(enumeration):
            self.verdicts.enumerations += 1
            port = self._port(enumeration.port)
            port.matcher.add_enumeration(enumeration)
            port.machine.feed(Input.ADD if enumeration.added else Input.REMOVE, enumeration.t_ns)
            self.presence.hear(enumeration)
        else:
            self._judge.heard(enumeration.seqnum)

    def _take_bind(self, uevent: Uevent) -> None:
        name = uevent.devpath.rpartition("/")[2]
        if name in self.ports:
            self.ports[name].machine.feed(Input.BIND, uevent.t_ns)

    def _take_edge(self, edge: Edge) -> None:
        self._ledger("gpio").deliver()
        port = self._port(edge.port)
        self._judge.edge(edge.port, edge.rising, edge.t_ns)
        port.line.feed(edge)
        port.machine.feed(Input.VBUS_HIGH if edge.rising else Input.VBUS_LOW, edge.t_ns)
        self._take_episodes(port, port.episodes.feed(edge))

    def _is_wired(self, port: Port) -> bool:
        """Whether a line senses the port: where none does, nobody can have expected anything."""
        return port.name in self._wired

    def _take_level(self, level: Level) -> None:
        if level.port not in self.ports:
            self._initially_high[level.port] = level.high
        self._port(level.port).line.feed(level)

    def _take_node(self, event: NodeEvent) -> None:
        self._ledger("inotify").deliver()
        self._nodes.feed(event)

    def _take_gap(self, gap: Gap) -> None:
        if gap.count is not None and gap.count < 0:
            self.absurd["a count below nothing"] += 1
            return
        if gap.witness in ("coldplug", "listeners"):
            self.unplaced_gaps += 1  # they take samples and have no account
        else:
            self._ledger(gap.witness).gap(gap)
        if self._followed:
            self._tell(self._new_gaps, gap)
        self._gaps.add(gap)
        self.overruns += gap.cause in ("socket_queue", "inotify_queue")
        if gap.witness == "gpio":
            for port in self.ports.values():
                port.line.feed(gap)

    def _take_tally(self, tally: Tally) -> None:
        self._ledger(tally.witness).tally(tally)

    def _take_run_mark(self, mark: RunStart | RunEnd) -> None:
        self.absurd["a run's start or end in the middle of it"] += 1

    def _take_listeners(self, sample: ListenerSample) -> None:
        # What a listener lost in this run is the difference between the two.
        self.first_listeners = self.first_listeners or sample
        self.last_listeners = sample

    # -- on the way to a verdict ----------------------------------------------------------------

    def _move_on(self, name: str, now_ns: int) -> None:
        port = self.ports[name]
        self._take_episodes(port, port.episodes.advance(now_ns))
        self._take_results(port, port.matcher.advance(now_ns))

    def _take_episodes(self, port: Port, found: Iterable[Episode | AmbiguousPulse]) -> None:
        for item in found:
            if isinstance(item, Episode):
                self.verdicts.expected += 1
                self.expected_plugs += item.plugged
                port.account.expected += 1
                port.matcher.add_episode(item)
            else:
                self.verdicts.ambiguous += 1
                port.account.ambiguous += 1
                port.matcher.add_pulse(item)

    def _take_results(self, port: Port, results: Iterable[Result]) -> None:
        for result in results:
            if isinstance(result, Matched):
                self._judge.hold(result)
            elif isinstance(result, Lost):
                port.machine.feed(Input.TIMEOUT, result.episode.t_start_ns)
                self._pronounce([self._judge.lost(result)])
            elif isinstance(result, Surplus):
                if result.excused or not self._is_wired(port):
                    self.verdicts.excused += 1
                elif result.kind == "duplicate":
                    self.verdicts.duplicates += 1
                else:
                    self.verdicts.orphans += 1
            else:
                self.verdicts.undecided_episodes += 1

    def _note_node(self, sighting: NodeSighting) -> None:
        self._judge.note_node(sighting)

    def _pronounce(self, verdicts: Iterable[Verdict]) -> None:
        for verdict in verdicts:
            episode = verdict.episode
            account = self.ports[episode.port].account
            if verdict.stage is not None:
                self.verdicts.lost[verdict.stage] += 1
                self.verdicts.stranded += verdict.enumerated
                account.lost += 1
            elif verdict.outcome == "late":
                self.verdicts.late += 1
                account.late += 1
            else:
                self.verdicts.matched += 1
                account.matched += 1
            self.outcomes.t_ns.append(episode.t_start_ns)
            self.outcomes.lost.append(verdict.outcome == "lost")
            if verdict.outcome == "lost":
                if len(self.losses) < LOSSES_KEPT:
                    self.losses.append(verdict)
                else:
                    self.losses_omitted += 1
            self._measure_latency(verdict)
            if self._followed:
                self._tell(self._new_verdicts, verdict)

    def _tell(self, news: list[_Told], item: _Told) -> None:
        if len(news) < NEWS_KEPT:
            news.append(item)
        else:
            self._news_omitted += 1

    def _measure_latency(self, verdict: Verdict) -> None:
        episode = verdict.episode
        if verdict.netlink_ns is not None:
            if episode.plugged:
                self.latency["edge_to_uevent_plug"].record_ns(verdict.netlink_ns - episode.t_start_ns)
                self.gpio_to_netlink.add(episode.t_start_ns, verdict.netlink_ns)
            else:
                # The kernel disconnects at the first fall, however the contact bounces after it.
                self.latency["edge_to_uevent_pull"].record_ns(verdict.netlink_ns - episode.t_first_ns)
            if verdict.udev_ns is not None:
                self.latency["uevent_to_udev"].record_ns(verdict.udev_ns - verdict.netlink_ns)
                self.netlink_to_udev.add(verdict.netlink_ns, verdict.udev_ns)
        if verdict.node_ns is not None and episode.plugged:
            self.latency["edge_to_node"].record_ns(verdict.node_ns - episode.t_start_ns)


def _check(start: RunStart) -> None:
    if not 0 <= start.t_ns <= LATEST_NS:
        raise ValueError(f"a run cannot have begun at {start.t_ns} ns after the boot")
    if not 0 <= start.debounce_ns <= LATEST_NS:
        raise ValueError(f"a debounce of {start.debounce_ns} ns cannot be")
    if not 0 <= start.nominal_ns <= start.lost_after_ns <= LATEST_NS:
        raise ValueError(
            f"nominal_ns ({start.nominal_ns}) must lie between 0 and lost_after_ns ({start.lost_after_ns})"
        )
    if start.storm_quiet_ns < 0:
        raise ValueError(f"a quiet time of {start.storm_quiet_ns} ns cannot be")
    if not 0.0 < start.claim_rate < 1.0:
        raise ValueError(f"a claimed loss rate of {start.claim_rate} cannot be")
