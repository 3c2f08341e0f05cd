"""Coverage: which numbers of a stream are there, in ranges, to tell the new from the known at once."""

from __future__ import annotations

from typing import Final

from plugmeter.controller.store import Session
from plugmeter.telemetry import ranges
from plugmeter.telemetry.ranges import Range, Ranges

RECORD: Final = "record"
"""Numbers whose record came and was stored; those of ``DELETED`` stay among them."""
TOMBSTONE: Final = "tombstone"
DELETED: Final = "deleted"
"""Numbers whose record was stored for as long as records are kept, and deleted then."""
BIGGEST: Final = 2**63 - 1


def near(session: Session, stream: int, what: str, numbers: Ranges) -> Ranges:
    """The ranges that are there already and overlap or touch ``numbers``."""
    found: set[Range] = set()
    for first, last in numbers:
        # Ranges of one stream do not overlap: of those that begin before, only the last can reach here.
        below = session.rows(
            "SELECT first, last FROM coverage WHERE stream = ? AND what = ? AND first < ?"
            " ORDER BY first DESC LIMIT 1",
            (stream, what, first),
        )
        found.update((a, b) for a, b in below if b >= first - 1)
        found.update(
            (a, b)
            for a, b in session.rows(
                "SELECT first, last FROM coverage WHERE stream = ? AND what = ? AND first BETWEEN ? AND ?",
                (stream, what, first, min(last + 1, BIGGEST)),
            )
        )
    return tuple(sorted(found))


def add(session: Session, stream: int, what: str, fresh: Ranges, there: Ranges) -> None:
    """Add ``fresh``; ``there`` is what is ``near`` to it, or to more."""
    after = ranges.merge(fresh, there)
    gone = [each for each in there if each not in after]
    new = [each for each in after if each not in there]
    if gone:
        session.many(
            "DELETE FROM coverage WHERE stream = ? AND what = ? AND first = ?",
            [(stream, what, first) for first, _ in gone],
        )
    session.many(
        "INSERT INTO coverage (stream, what, first, last) VALUES (?, ?, ?, ?)",
        [(stream, what, first, last) for first, last in new],
    )


def of(session: Session, stream: int, what: str) -> Ranges:
    """All of one stream."""
    rows = session.rows("SELECT first, last FROM coverage WHERE stream = ? AND what = ?", (stream, what))
    return ranges.normalise((int(first), int(last)) for first, last in rows)
