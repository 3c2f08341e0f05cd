"""Verdicts: what became of an episode, once every witness has had its chance to see it."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Set
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

from plugmeter.measure.episodes import Episode
from plugmeter.measure.gaps import GapIntervals
from plugmeter.measure.matching import Lost, Matched
from plugmeter.measure.nodes import NodeSighting
from plugmeter.measure.sightings import Sightings
from plugmeter.measure.stages import Evidence, Sight, Stage, stage_of
from plugmeter.measure.strays import Strays
from plugmeter.records import WitnessName

UDEVD_NS = 1_000_000_000
"""How long udevd's rules may take: what udevd was told of, it passes on within this time, or so late that a
gap of our own cannot be what swallowed it."""

NODE_LEAD_NS = 50_000_000
"""How much earlier than its device a disk's node may go."""

Outcome: TypeAlias = Literal["matched", "late", "lost"]

_Kind: TypeAlias = tuple[str, bool]
"""(port, plugged)."""
_NONE: Set[int] = frozenset()
_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one episode. ``stage`` is where it was lost, None otherwise.

    The times are None where that witness did not see it.
    """

    episode: Episode
    outcome: Outcome
    stage: Stage | None
    enumerated: bool = False
    """Whether an enumeration was matched with it, even if it was lost further on."""
    netlink_ns: int | None = None
    udev_ns: int | None = None
    node_ns: int | None = None


class Judge:
    """Holds each matched episode until all observed witnesses saw it, or ``patience_ns`` has passed.

    ``observed`` are the witnesses that take part in the run: what they did not see counts against a
    stage, what nobody looked for does not.

    It looks at an episode again only when there is news of it (``hold``, ``heard``, ``note_node``) or when
    its patience ends, so what waits costs nothing, however much it is.
    """

    def __init__(
        self, observed: frozenset[str], sightings: Sightings, gaps: GapIntervals, patience_ns: int
    ) -> None:
        self._observed = observed
        self._sightings = sightings
        self._gaps = gaps
        self._patience_ns = patience_ns
        self._number = 0
        self._open: dict[int, Matched] = {}
        """By number, in the order in which they were held, which is that of their verdicts."""
        self._by_seqnum: dict[int, set[int]] = {}
        self._by_kind: dict[_Kind, set[int]] = {}
        self._due: list[tuple[int, int]] = []
        """A heap of (when its patience ends, number); numbers that are not open any more are passed over."""
        self._fresh: set[int] = set()
        self._edges: dict[_Kind, list[int]] = {}
        """Times of the edges that may have begun an episode of the kind, rising."""
        self._nodes: dict[_Kind, deque[NodeSighting]] = {}
        self._strays = Strays(4 * patience_ns)
        self.nodes_unclaimed = 0
        """Nodes on a port that no episode of it claimed in time."""

    def __len__(self) -> int:
        return len(self._open)

    def edge(self, port: str, rising: bool, t_ns: int) -> None:
        """An edge: what comes after it on its port belongs to no earlier episode of the same kind."""
        edges = self._edges.setdefault((port, rising), [])
        insort(edges, t_ns)
        # An edge older than every node that is remembered marks their beginning; those before it are no use.
        useless = bisect_right(edges, t_ns - 2 * self._patience_ns) - 1
        if useless > 0:
            del edges[:useless]

    def heard(self, seqnum: int) -> None:
        """One more witness saw the enumeration of this SEQNUM."""
        self._fresh |= self._by_seqnum.get(seqnum, _NONE)

    def note_node(self, sighting: NodeSighting) -> None:
        """Take a node's sighting as evidence for the episode of its port."""
        if sighting.port is None:
            self._strays.keep(sighting)
            return
        kind = (sighting.port, sighting.added)
        sighting = self._strays.join(sighting)
        self._nodes.setdefault(kind, deque()).append(sighting)
        self._fresh |= self._by_kind.get(kind, _NONE)

    def hold(self, match: Matched) -> None:
        """Take a pair from the matching."""
        self._number += 1
        number, episode, enumeration = self._number, match.episode, match.enumeration
        self._open[number] = match
        self._by_seqnum.setdefault(enumeration.seqnum, set()).add(number)
        self._by_kind.setdefault((episode.port, episode.plugged), set()).add(number)
        heapq.heappush(self._due, (enumeration.t_ns + self._patience_ns, number))
        self._fresh.add(number)

    def lost(self, loss: Lost) -> Verdict:
        """An episode that no enumeration came for: the stage says what the witnesses did meanwhile."""
        from_ns = loss.episode.t_first_ns
        until_ns = loss.episode.t_start_ns + self._patience_ns
        evidence = Evidence(
            netlink=self._unseen("netlink", from_ns, until_ns),
            udev=self._unseen("udev", from_ns, until_ns),
            node="not_expected" if "inotify" in self._observed else "not_observed",
        )
        return Verdict(loss.episode, "lost", stage_of(evidence))

    def settle(self, now_ns: int, *, final: bool = False) -> list[Verdict]:
        """All verdicts that are ripe; with ``final`` all, from the evidence that there is."""
        due = self._due
        while due and due[0][0] < now_ns:
            self._fresh.add(heapq.heappop(due)[1])
        look_at = sorted(self._open if final else self._fresh & self._open.keys())
        self._fresh.clear()
        ripe: list[Verdict] = []
        for number in look_at:
            match = self._open[number]
            verdict = self._judge(match, final or now_ns > match.enumeration.t_ns + self._patience_ns)
            if verdict is not None:
                ripe.append(verdict)
                self._release(number, match)
        self._forget_nodes(now_ns - 2 * self._patience_ns)
        return ripe

    def _release(self, number: int, match: Matched) -> None:
        del self._open[number]
        _leave(self._by_seqnum, match.enumeration.seqnum, number)
        _leave(self._by_kind, (match.episode.port, match.episode.plugged), number)

    def _judge(self, match: Matched, due: bool) -> Verdict | None:
        episode, enumeration = match.episode, match.enumeration
        times = self._sightings.times_ns(enumeration.seqnum)
        seen_ns = enumeration.t_ns
        from_ns = min(episode.t_first_ns, seen_ns) - NODE_LEAD_NS
        next_ns = self._next_start_ns(episode)
        nodes = self._nodes.get((episode.port, episode.plugged), deque())
        mine = [node for node in nodes if from_ns <= _first_ns(node) < next_ns]
        node_ns = next((node.t_inotify_ns for node in mine if node.t_inotify_ns is not None), None)
        complete = (
            ("netlink" in times or "netlink" not in self._observed)
            and ("udev" in times or "udev" not in self._observed)
            and (node_ns is not None or "inotify" not in self._observed)
        )
        if not (complete or due):
            return None
        if "inotify" not in self._observed:
            node: Sight = "not_observed"
        elif node_ns is not None:
            node = "seen"
        elif not mine:
            node = "not_expected"
        else:
            node = self._unseen("inotify", from_ns, seen_ns + UDEVD_NS)
        # A witness can have dropped it only when it was sent: by the kernel before anybody saw it, by udevd
        # after the kernel's group had it.
        stage = stage_of(
            Evidence(
                netlink="seen" if "netlink" in times else self._unseen("netlink", from_ns, seen_ns),
                udev="seen" if "udev" in times else self._unseen("udev", seen_ns, seen_ns + UDEVD_NS),
                node=node,
            )
        )
        for each in mine:  # and none of an earlier episode, which may still wait
            nodes.remove(each)
        outcome: Outcome = "lost" if stage else "late" if match.late else "matched"
        return Verdict(episode, outcome, stage, True, times.get("netlink"), times.get("udev"), node_ns)

    def _next_start_ns(self, episode: Episode) -> float:
        """When the next episode of the same kind on the same port can have begun, as far as there is one.

        Not the next episode that waits: a node comes before the enumeration of its plug is matched, and an
        episode that has lost its own node would take the next one's.
        """
        edges = self._edges.get((episode.port, episode.plugged), [])
        i = bisect_right(edges, episode.t_start_ns)
        return edges[i] if i < len(edges) else math.inf

    def _forget_nodes(self, before_ns: int) -> None:
        for kind, nodes in list(self._nodes.items()):
            while nodes and _first_ns(nodes[0]) < before_ns:
                nodes.popleft()
                self.nodes_unclaimed += 1
            if not nodes:
                del self._nodes[kind]

    def _unseen(self, witness: WitnessName, from_ns: int, until_ns: int) -> Sight:
        if witness not in self._observed:
            return "not_observed"
        return "gap" if self._gaps.overlaps(witness, from_ns, until_ns) else "missed"


def _first_ns(node: NodeSighting) -> int:
    times = (node.t_netlink_ns, node.t_udev_ns, node.t_inotify_ns)
    return min(t for t in times if t is not None)


def _leave(index: dict[_Key, set[int]], key: _Key, number: int) -> None:
    """Take ``number`` out of an index of sets; none of them stays behind empty."""
    numbers = index[key]
    numbers.discard(number)
    if not numbers:
        del index[key]
