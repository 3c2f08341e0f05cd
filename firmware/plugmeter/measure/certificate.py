"""The certificate: whether the ground truth of a run is provably complete.

A run without a valid certificate is INVALID, never "0 lost". Every reason against it is one line that
names the port, and says what was seen and what was to be expected.

Truth "gpio" rests on real edges. The kernel numbers the events of a line from 1 (``line_seqno``,
linux/gpio.h), so a number that is missing is an edge that was dropped. Two hard interrupts before the
thread runs become one event, which no number shows: therefore the directions must alternate, the
interrupts must be as many as the edges, and the edges must lead from the level read at the start to
that read at the end.

Truth "simulated" rests on the rig's own log: the edges seen must be those driven, one by one and in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from plugmeter.records import Driven, Edge, Gap, Level, LineAccount, Record, Truth

PAIRING_LIMIT = 65_536
"""How far the rig's log and the edges of one line may run apart and still be compared."""


@dataclass(frozen=True, slots=True)
class LineEvidence:
    """What speaks for and against the truth of one sense line, over a whole run."""

    port: str
    factory: str
    """The pin factory by name; empty where the run brought no account of the line."""
    kernel_numbers: bool
    edges: int
    rising: int
    falling: int
    seqno_first: int
    seqno_last: int
    """``line_seqno`` of the first and last edge; 0 where there is none."""
    seqno_breaks: int
    """Edges, the first apart, whose ``line_seqno`` was not one more than that before."""
    alternation_breaks: int
    """Edges in the direction of the one before, or of the level read before the first."""
    driven: int | None
    """Levels in the rig's own log; None where the rig keeps none."""
    interrupts: int | None
    initially_high: bool | None
    """The level read before the first edge; None where none was."""
    finally_high: bool | None
    """The level read after the last edge; None where none was."""
    gaps: int
    """Gaps of the gpio witness: it does not say of which line, so each counts against all."""
    driven_mismatches: int = 0
    """Pairs (n-th level driven, n-th edge) of which one rises and the other falls."""
    driven_unchecked: int = 0
    """Driven levels and edges that were not compared since the two ran apart too far."""


class LineWatch:
    """Gathers the evidence of one line from the records of a run, fed in their order.

    The first ``Level`` is the initial one if it comes before any edge; the final one is the last that
    comes after all edges. Records of other ports and witnesses are passed over.
    """

    __slots__ = (
        "_account",
        "_alternation_breaks",
        "_driven",
        "_driven_ahead",
        "_driven_mismatches",
        "_driven_unchecked",
        "_edges",
        "_edges_ahead",
        "_finally_high",
        "_gaps",
        "_high",
        "_initially_high",
        "_rising",
        "_seqno_breaks",
        "_seqno_first",
        "_seqno_last",
        "port",
    )

    def __init__(self, port: str) -> None:
        self.port = port
        self._account: LineAccount | None = None
        self._edges = 0
        self._rising = 0
        self._seqno_first = 0
        self._seqno_last = 0
        self._seqno_breaks = 0
        self._alternation_breaks = 0
        self._high: bool | None = None  # after the last edge, or as read before the first
        self._initially_high: bool | None = None
        self._finally_high: bool | None = None
        self._gaps = 0
        self._driven = 0
        self._driven_ahead: deque[bool] = deque()
        self._edges_ahead: deque[bool] = deque()
        self._driven_mismatches = 0
        self._driven_unchecked = 0

    def feed(self, record: Record) -> None:
        """Takes one record in; only those of this port, and the gaps of the witness gpio, matter."""
        match record:
            case Gap(witness="gpio"):
                self._gaps += 1
            case Edge(port=self.port):
                self._edge(record)
            case Driven(port=self.port):
                self._driven += 1
                self._pair(record.rising, self._driven_ahead, self._edges_ahead)
            case Level(port=self.port):
                if not self._edges and self._initially_high is None:
                    self._initially_high = self._high = record.high
                else:
                    self._finally_high = record.high
            case LineAccount(port=self.port):
                self._account = record
            case _:
                pass

    def evidence(self) -> LineEvidence:
        """What was gathered so far."""
        account = self._account
        return LineEvidence(
            port=self.port,
            factory=account.factory if account else "",
            kernel_numbers=account.kernel_numbers if account else False,
            edges=self._edges,
            rising=self._rising,
            falling=self._edges - self._rising,
            seqno_first=self._seqno_first,
            seqno_last=self._seqno_last,
            seqno_breaks=self._seqno_breaks,
            alternation_breaks=self._alternation_breaks,
            driven=self._driven or None,
            interrupts=account.interrupts if account else None,
            initially_high=self._initially_high,
            finally_high=self._finally_high,
            gaps=self._gaps,
            driven_mismatches=self._driven_mismatches,
            driven_unchecked=self._driven_unchecked,
        )

    def _edge(self, edge: Edge) -> None:
        if not self._edges:
            self._seqno_first = edge.line_seqno
        elif edge.line_seqno != self._seqno_last + 1:
            self._seqno_breaks += 1
        if edge.rising == self._high:
            self._alternation_breaks += 1
        self._seqno_last = edge.line_seqno
        self._high = edge.rising
        self._finally_high = None
        self._edges += 1
        self._rising += edge.rising
        self._pair(edge.rising, self._edges_ahead, self._driven_ahead)

    def _pair(self, rising: bool, own: deque[bool], other: deque[bool]) -> None:
        """Compares with the oldest of the other side that waits, or waits for the other side itself."""
        if other:
            self._driven_mismatches += other.popleft() != rising
        elif len(own) < PAIRING_LIMIT and not self._driven_unchecked:
            own.append(rising)
        else:
            self._driven_unchecked += 1


@dataclass(frozen=True, slots=True)
class Certificate:
    """Whether the truth of a run is provably complete, and if not, every reason against it."""

    valid: bool
    truth: Truth
    reasons: tuple[str, ...]


def certify(truth: Truth, lines: Sequence[LineEvidence], failures: Sequence[str]) -> Certificate:
    """Weighs the evidence of all lines, and the failures of the run, of which each makes it invalid."""
    reasons = [f"the run failed: {failure}" for failure in failures]
    if not lines:
        reasons.append("no ground truth: no port has a sense line")
    elif truth == "simulated" and all(line.driven is None for line in lines):
        reasons.append("no ground truth: the rig kept no log of the levels that it drove")
    for line in sorted(lines, key=lambda line: line.port):
        against = _against_gpio(line) if truth == "gpio" else _against_simulated(line)
        reasons += [f"port {line.port}: {reason}" for reason in (*against, *_against_any(line))]
    return Certificate(valid=not reasons, truth=truth, reasons=tuple(reasons))


def _against_gpio(line: LineEvidence) -> Iterator[str]:
    if not line.kernel_numbers:
        factory = line.factory or "(unknown: the run brought no account of the line)"
        yield f"pin factory {factory} does not pass line_seqno on; use plugmeter-gpiod"
    else:
        yield from _against_numbers(line)
    if line.interrupts is not None and line.interrupts != line.edges:
        yield f"{line.interrupts} interrupts, but {line.edges} edges seen; each interrupt is one edge"


def _against_simulated(line: LineEvidence) -> Iterator[str]:
    driven = line.driven or 0
    if driven != line.edges:
        yield f"the rig drove {driven} levels, but {line.edges} edges seen; each level driven is one edge"
    if line.driven_mismatches:
        yield f"{line.driven_mismatches} of {line.edges} edges in the other direction than the level driven"
    if line.driven_unchecked:
        yield (
            f"edges and the rig's log ran more than {PAIRING_LIMIT} apart, so {line.driven_unchecked} "
            f"of them were not compared"
        )
    if line.kernel_numbers:  # a rig that drives real lines
        yield from _against_numbers(line)


def _against_numbers(line: LineEvidence) -> Iterator[str]:
    if not line.edges:
        return
    if line.seqno_first != 1:
        yield f"first edge seen has line_seqno {line.seqno_first}, expected 1: those before it were not seen"
    if line.seqno_breaks:
        yield (
            f"line_seqno is not contiguous in {line.seqno_breaks} place(s): {line.edges} edges seen "
            f"from {line.seqno_first} to {line.seqno_last}, expected {line.seqno_last - line.seqno_first + 1}"
        )


def _against_any(line: LineEvidence) -> Iterator[str]:
    if line.gaps:
        yield f"the gpio witness reported {line.gaps} gap(s), expected none"
    if line.alternation_breaks:
        yield (
            f"{line.alternation_breaks} of {line.edges} edges repeat the direction before them; "
            f"rising and falling must alternate ({line.rising} rising, {line.falling} falling)"
        )
    if line.initially_high is None:
        yield "no level was read before the first edge, so the edges cannot be checked against it"
    if line.finally_high is None:
        yield "no level was read after the last edge, so the edges cannot be checked against it"
    if line.initially_high is None or line.finally_high is None:
        return
    expected_high = line.initially_high ^ (line.edges % 2 == 1)
    if expected_high != line.finally_high:
        yield (
            f"{line.edges} edges lead from {_word(line.initially_high)} to {_word(expected_high)}, "
            f"but the level read at the end is {_word(line.finally_high)}"
        )


def _word(high: bool) -> str:
    return "high" if high else "low"
