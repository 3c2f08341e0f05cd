"""The judge: it looks again when there is news, waits no longer than its patience, and mixes no plugs up."""

from __future__ import annotations

from plugmeter.measure.enumerations import Enumeration
from plugmeter.measure.episodes import Episode
from plugmeter.measure.gaps import GapIntervals
from plugmeter.measure.matching import Matched
from plugmeter.measure.nodes import NodeSighting
from plugmeter.measure.sightings import Sightings
from plugmeter.measure.stages import Stage
from plugmeter.measure.verdicts import Judge
from plugmeter.records import Gap, WitnessName

MS = 1_000_000
PATIENCE_NS = 4_000 * MS
ALL = ("gpio", "netlink", "udev", "inotify")


class Bench:
    """A judge, and what it is told by the pipeline."""

    def __init__(self, *observed: str) -> None:
        self.sightings = Sightings(60_000 * MS)
        self.gaps = GapIntervals(60_000 * MS)
        self.judge = Judge(frozenset(observed), self.sightings, self.gaps, PATIENCE_NS)
        self.ordinal = 0

    def edge(self, t_ms: int) -> None:
        self.judge.edge("1-1", True, t_ms * MS)

    def see(self, witness: WitnessName, t_ms: int, seqnum: int) -> None:
        if not self.sightings.see(Enumeration("1-1", True, t_ms * MS, seqnum, witness)):
            self.judge.heard(seqnum)

    def plug(self, t_ms: int, seqnum: int) -> None:
        """The pair (episode, enumeration) is matched."""
        self.ordinal += 1
        episode = Episode("1-1", self.ordinal, True, t_ms * MS, (t_ms + 100) * MS)
        enumeration = Enumeration("1-1", True, (t_ms + 110) * MS, seqnum, "netlink")
        self.judge.hold(Matched(episode, enumeration, 110 * MS, False))

    def node(self, t_ms: int, *, inotify: bool = True) -> None:
        t_ns = t_ms * MS
        self.judge.note_node(NodeSighting("sda", True, 1, t_ns, t_ns, t_ns if inotify else None, "1-1"))


def test_complete_evidence_is_judged_at_once() -> None:
    bench = Bench(*ALL)
    bench.edge(0)
    bench.see("netlink", 110, 1)
    bench.plug(0, 1)
    assert bench.judge.settle(200 * MS) == []
    bench.see("udev", 112, 1)
    assert bench.judge.settle(210 * MS) == []
    bench.node(115)
    (verdict,) = bench.judge.settle(220 * MS)
    assert (verdict.outcome, verdict.stage) == ("matched", None)
    assert (verdict.netlink_ns, verdict.udev_ns, verdict.node_ns) == (110 * MS, 112 * MS, 115 * MS)
    assert len(bench.judge) == 0


def test_patience_ends() -> None:
    bench = Bench("gpio", "netlink", "udev")
    bench.see("netlink", 110, 1)
    bench.plug(0, 1)
    assert bench.judge.settle(110 * MS + PATIENCE_NS) == []
    (verdict,) = bench.judge.settle(110 * MS + PATIENCE_NS + 1)
    assert (verdict.outcome, verdict.stage, verdict.enumerated) == ("lost", Stage.UDEVD, True)


def test_a_lost_node_is_not_replaced_by_that_of_the_next_plug() -> None:
    # The next plug's node is there before the matching has that plug: the edge is the bound.
    bench = Bench(*ALL)
    for t_ms, seqnum in ((0, 1), (500, 2)):
        bench.edge(t_ms)
        bench.see("netlink", t_ms + 110, seqnum)
        bench.see("udev", t_ms + 112, seqnum)
    bench.plug(0, 1)
    bench.node(115, inotify=False)
    assert bench.judge.settle(300 * MS) == []
    bench.node(615)
    assert bench.judge.settle(620 * MS) == []
    bench.plug(500, 2)
    (second,) = bench.judge.settle(700 * MS)
    assert (second.outcome, second.node_ns) == ("matched", 615 * MS)
    (first,) = bench.judge.settle(111 * MS + PATIENCE_NS)
    assert (first.outcome, first.stage, first.node_ns) == ("lost", Stage.DEVTMPFS, None)


def test_a_gap_says_where_it_was_lost() -> None:
    bench = Bench("gpio", "netlink", "udev")
    bench.see("netlink", 110, 1)
    bench.plug(0, 1)
    bench.gaps.add(Gap(150 * MS, "udev", "socket_queue", 3, 100 * MS))
    (verdict,) = bench.judge.settle(0, final=True)
    assert verdict.stage == Stage.UDEV_SOCKET_QUEUE


def test_verdicts_come_in_the_order_of_the_matching() -> None:
    bench = Bench("gpio", "netlink", "udev")
    for seqnum in range(1, 1001):
        bench.see("netlink", 10 * seqnum + 110, seqnum)
        bench.plug(10 * seqnum, seqnum)
    assert bench.judge.settle(200 * MS) == []
    assert len(bench.judge) == 1000
    for seqnum in (700, 30, 500):
        bench.see("udev", 10 * seqnum + 112, seqnum)
    assert [v.episode.ordinal for v in bench.judge.settle(300 * MS)] == [30, 500, 700]
    rest = bench.judge.settle(400 * MS, final=True)
    assert [v.episode.ordinal for v in rest] == [n for n in range(1, 1001) if n not in (30, 500, 700)]
    assert len(bench.judge) == 0


def test_what_is_settled_leaves_nothing_behind() -> None:
    bench = Bench("gpio", "netlink")
    for seqnum in range(1, 500):
        bench.edge(500 * seqnum)
        bench.see("netlink", 500 * seqnum + 110, seqnum)
        bench.plug(500 * seqnum, seqnum)
        assert len(bench.judge.settle((500 * seqnum + 400) * MS)) == 1
    judge = bench.judge
    assert not judge._open and not judge._by_seqnum and not judge._by_kind
    assert len(judge._edges["1-1", True]) < 20
    assert len(judge._due) < 20
