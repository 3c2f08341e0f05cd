"""The two ledgers that conserve: of what a witness was offered, and of what became of every episode.

Each side of an equation is counted where it happens: a ledger that computed one term from the others
could not be wrong, and so could not prove anything.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from plugmeter.measure.stages import Stage
from plugmeter.records import Gap, Tally, WitnessName


@dataclass(frozen=True, slots=True)
class WitnessAccount:
    """offered = delivered + lost + pending, of one witness. ``lost`` is by the gap's cause.

    ``uncounted_gaps`` are gaps of which nobody knows how many records they cost: with one of them,
    or without any tally, the account cannot conserve.
    """

    name: WitnessName
    offered: int
    delivered: int
    lost: dict[str, int]
    pending: int
    uncounted_gaps: int
    tallied: bool

    @property
    def lost_total(self) -> int:
        """All losses, whatever their cause."""
        return sum(self.lost.values())

    @property
    def conserved(self) -> bool:
        """Whether every record offered is accounted for."""
        return not self.violations()

    def violations(self) -> list[str]:
        """What is wrong with the account, a line each; empty where it conserves."""
        lines = []
        if not self.tallied:
            lines.append(f"witness {self.name}: it never said how much it was offered")
        else:
            accounted = self.delivered + self.lost_total + self.pending
            if self.offered != accounted:
                lines.append(
                    f"witness {self.name}: offered {self.offered}, but delivered {self.delivered} "
                    f"+ lost {self.lost_total} + pending {self.pending} = {accounted}"
                )
        if self.uncounted_gaps:
            lines.append(
                f"witness {self.name}: {self.uncounted_gaps} gap(s) that cost an unknown number of records"
            )
        return lines


class WitnessLedger:
    """Counts what one witness delivered and lost, against the tally that it gives of itself."""

    __slots__ = ("_delivered", "_lost", "_tally", "_uncounted_gaps", "name")

    def __init__(self, name: WitnessName) -> None:
        self.name: WitnessName = name
        self._delivered = 0
        self._lost: Counter[str] = Counter()
        self._uncounted_gaps = 0
        self._tally: Tally | None = None

    @property
    def delivered(self) -> int:
        """How many records have arrived."""
        return self._delivered

    def deliver(self, n: int = 1) -> None:
        """``n`` records arrived from the witness. A ``Gap`` or ``Tally`` is not one of them."""
        self._delivered += n

    def gap(self, gap: Gap) -> None:
        """The witness lost records."""
        self._check(gap.witness)
        if gap.count is None:
            self._uncounted_gaps += 1
        else:
            self._lost[gap.cause] += gap.count

    def tally(self, tally: Tally) -> None:
        """The witness's own account, of everything since it was opened; the latest counts."""
        self._check(tally.witness)
        if self._tally is None or tally.t_ns >= self._tally.t_ns:
            self._tally = tally

    def account(self) -> WitnessAccount:
        """The account so far. In the middle of a run it conserves right after a tally, not in between."""
        tally = self._tally
        return WitnessAccount(
            name=self.name,
            offered=tally.offered if tally else 0,
            delivered=self._delivered,
            lost=dict(sorted(self._lost.items())),
            pending=tally.pending if tally else 0,
            uncounted_gaps=self._uncounted_gaps,
            tallied=tally is not None,
        )

    def _check(self, witness: WitnessName) -> None:
        if witness != self.name:
            raise ValueError(f"a record of witness {witness} in the ledger of {self.name}")


@dataclass(slots=True)
class VerdictLedger:
    """Counts of verdicts: whoever gives a verdict adds to them, and to the totals where episodes arise.

    Episodes: expected = matched + late + lost + undecided_episodes. Ambiguous pulses are counted beside,
    never as expected. Enumerations: enumerations = matched + late + stranded + duplicates + orphans
    + excused + undecided_enumerations. The undecided are what the matcher says that it still holds.
    """

    expected: int = 0
    matched: int = 0
    late: int = 0
    ambiguous: int = 0
    lost: Counter[Stage] = field(default_factory=Counter)
    undecided_episodes: int = 0
    enumerations: int = 0
    stranded: int = 0
    """Enumerations whose episode was lost further on: the kernel told of it, and not all others heard."""
    duplicates: int = 0
    orphans: int = 0
    excused: int = 0
    """Enumerations without an episode for a known reason: coldplug, or a port without a sense line."""
    undecided_enumerations: int = 0

    @property
    def lost_total(self) -> int:
        """Episodes lost, at whatever stage."""
        return sum(self.lost.values())

    @property
    def conserved(self) -> bool:
        """Whether every episode and every enumeration has exactly one fate, as far as counts can tell."""
        return not self.violations()

    def violations(self) -> list[str]:
        """What is wrong with the counts, a line each; empty where they conserve."""
        episodes = {
            "matched": self.matched,
            "late": self.late,
            "lost": self.lost_total,
            "undecided": self.undecided_episodes,
        }
        enumerations = {
            "matched": self.matched,
            "late": self.late,
            "stranded": self.stranded,
            "duplicates": self.duplicates,
            "orphans": self.orphans,
            "excused": self.excused,
            "undecided": self.undecided_enumerations,
        }
        lines = []
        for side, total, fates in (
            ("expected episodes", self.expected, episodes),
            ("enumerations seen", self.enumerations, enumerations),
        ):
            accounted = sum(fates.values())
            if total != accounted:
                sum_of = " + ".join(f"{word} {count}" for word, count in fates.items())
                lines.append(f"{side}: {total}, but {sum_of} = {accounted}")
        counts = {"expected": self.expected, "ambiguous": self.ambiguous, "enumerations": self.enumerations}
        counts |= {f"lost at {stage}": count for stage, count in self.lost.items()}
        counts |= {f"{word} episodes": count for word, count in episodes.items() if word != "lost"}
        counts |= {f"{word} enumerations": count for word, count in enumerations.items()}
        lines += [f"{word}: a count of {count} cannot be" for word, count in counts.items() if count < 0]
        return lines
