"""The audit: is every number of every stream stored, under a tombstone, or still with its device? Pure.

A device's outbox tells its account (in its summary): the numbers it produced, how many of them are still
pending, and the lowest that is. Below that we must have all that has no tombstone; so what is missing
there is LOST. What is missing above it is pending, but no more numbers can be than the device says. A
tombstone may be on its way itself: as many numbers as it told of and we have no tombstone for are excused.

Of a stream that is over (its database was corrupt or lost, and another has begun) nothing comes any more:
what is missing there was cut off.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from plugmeter.controller.standing import Standing
from plugmeter.telemetry import ranges
from plugmeter.telemetry.ranges import Ranges


@dataclass(frozen=True, slots=True)
class Told:
    """The latest account of a stream, as its device told it."""

    received_ms: int
    produced: int
    acknowledged: int
    tombstoned: int
    pending: int
    oldest_pending: int
    unannounced: int | None
    """Numbers whose tombstone the device has not told us of yet; None where it does not say."""
    contradictions: int
    contradiction: str


@dataclass(frozen=True, slots=True)
class Books:
    """What we have of a stream: ``stored`` by the records themselves, ``covered`` by our index of them.

    What was deleted after the time for which records are kept is in both: it was stored.
    """

    device: str
    stream: str
    stored: Ranges
    covered: Ranges
    buried: Ranges
    told: Told | None
    duplicates: int = 0
    conflicts: int = 0
    over_because: str | None = None
    """Why nothing comes of it any more; None of a device's present stream."""
    previous: str | None = None
    """The stream before it, where its first record names one."""
    deleted: Ranges = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """What the audit says of one stream."""

    books: Books
    produced: int
    """The highest number that we know of."""
    stored: int
    tombstoned: int
    pending: int
    """Missing, and still with the device."""
    lost: int
    """Missing for certain: so many at least of ``lost_among``."""
    lost_among: Ranges
    cut_off: int
    """Missing, and the stream is over."""
    faults: tuple[str, ...]
    """What is wrong, a line each."""
    notes: tuple[str, ...]
    """What is worth knowing and not wrong."""

    @property
    def ok(self) -> bool:
        """Whether every number is accounted for."""
        return not self.faults


def examine(books: Books) -> Finding:
    """The audit of one stream. Total: whatever a device told."""
    told = books.told
    known = ranges.merge(books.stored, books.buried)
    highest = max(known[-1][1] if known else 0, told.produced if told else 0)
    missing = ranges.subtract(((1, highest),) if highest else (), known)
    absent = ranges.total(missing)
    lost, among = _lost(missing, told, ranges.total(books.buried))
    cut_off = absent - lost if books.over_because is not None else 0
    return Finding(
        books=books,
        produced=highest,
        stored=ranges.total(books.stored),
        tombstoned=ranges.total(books.buried),
        pending=absent - lost - cut_off,
        lost=lost,
        lost_among=among,
        cut_off=cut_off,
        faults=tuple(_faults(books, lost, among, cut_off)),
        notes=tuple(_notes(books, absent)),
    )


def _lost(missing: Ranges, told: Told | None, buried: int) -> tuple[int, Ranges]:
    """How many numbers are lost at least, and among which."""
    if told is None:
        return 0, ()
    excused = told.unannounced if told.unannounced is not None else max(0, told.tombstoned - buried)
    below = ranges.clip(missing, 1, told.oldest_pending - 1)
    within = ranges.clip(missing, 1, told.produced)
    by_place = ranges.total(below) - excused
    by_count = ranges.total(within) - excused - told.pending
    if by_place <= 0 and by_count <= 0:
        return 0, ()
    return (by_place, below) if by_place >= by_count else (by_count, within)


def _faults(books: Books, lost: int, among: Ranges, cut_off: int) -> Iterable[str]:
    if lost:
        every = "" if lost == ranges.total(among) else "at least "
        yield f"LOST: {every}{lost} of the numbers {in_words(among)}: the device has let go of them"
    if cut_off:
        yield f"cut off: {cut_off} numbers that were produced never came, and the stream is over"
    if books.conflicts:
        yield (
            f"{books.conflicts} numbers came again with another content: the device's state was copied or "
            "restored from a copy" + ("" if books.deleted else " (both are kept)")
        )
    if books.told and books.told.contradictions:
        yield (
            f"the device's account contradicted itself {books.told.contradictions} times, the last time: "
            f"{books.told.contradiction}"
        )
    if books.stored != books.covered:
        differing = ranges.merge(
            ranges.subtract(books.stored, books.covered), ranges.subtract(books.covered, books.stored)
        )
        yield (
            f"the database was changed by another hand: its index does not fit its records at "
            f"{in_words(differing)}"
        )


def _notes(books: Books, absent: int) -> Iterable[str]:
    if books.over_because is not None:
        yield f"broken off: {books.over_because}"
    if books.previous is not None:
        yield f"it follows {books.previous}"
    if books.deleted:
        yield f"{ranges.total(books.deleted):,} of the stored are older than is kept: deleted since"
    if books.told is None:
        yield "the device has not told its account yet" + (
            ": what is missing counts as pending" if absent else ""
        )


def in_words(spans: Ranges, most: int = 6) -> str:
    """Ranges for people: ``3, 7 to 9 and 5 more ranges``."""
    words = [f"{first}" if first == last else f"{first} to {last}" for first, last in spans[:most]]
    if len(spans) > most:
        words.append(f"{len(spans) - most} more ranges")
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def well(findings: Sequence[Finding], standings: Sequence[Standing]) -> bool:
    """Whether every record is accounted for."""
    return all(finding.ok for finding in findings) and not any(each.faults for each in standings)


def as_value(findings: Sequence[Finding], standings: Sequence[Standing] = ()) -> dict[str, Any]:
    """The audit as a JSON object."""
    return {
        "accounted": well(findings, standings),
        "devices": [
            {
                "device": standing.device,
                "accounted": not standing.faults,
                "streams": standing.streams,
                "refused": standing.refused,
                "faults": list(standing.faults),
            }
            for standing in standings
        ],
        "streams": [
            {
                "device": finding.books.device,
                "stream": finding.books.stream,
                "accounted": finding.ok,
                "produced": finding.produced,
                "stored": finding.stored,
                "deleted": ranges.total(finding.books.deleted),
                "tombstoned": finding.tombstoned,
                "pending": finding.pending,
                "lost": finding.lost,
                "lost_among": [list(each) for each in finding.lost_among[:1_000]],
                "cut_off": finding.cut_off,
                "duplicates": finding.books.duplicates,
                "conflicts": finding.books.conflicts,
                "over": finding.books.over_because is not None,
                "previous": finding.books.previous,
                "faults": list(finding.faults),
                "notes": list(finding.notes),
            }
            for finding in findings
        ],
    }


def render(findings: Sequence[Finding], standings: Sequence[Standing] = ()) -> str:
    """The audit for people; each line ends with a newline."""
    if not findings and not standings:
        return "no device has reported yet: there is nothing to account for\n"
    told = {standing.device: standing for standing in standings}
    of_device: dict[str, list[Finding]] = {device: [] for device in told}
    for finding in findings:
        of_device.setdefault(finding.books.device, []).append(finding)
    lines = []
    for device, streams in of_device.items():
        lines.append(device)
        faults = told[device].faults if device in told else ()
        lines += [f"  {fault}   <-" for fault in faults]
        if not streams and not faults:
            lines.append("  no stream yet: it has sent no record and no account")
        lines += _streams(streams)
    bad = sum(not finding.ok for finding in findings) + sum(bool(each.faults) for each in standings)
    what = f"{_many(len(of_device), 'device')}, {_many(len(findings), 'stream')}"
    lines.append(f"{what}: every record is accounted for" if not bad else f"{what}: {bad} not accounted for")
    return "".join(line + "\n" for line in lines)


def _streams(findings: Sequence[Finding]) -> list[str]:
    lines = []
    for finding in findings:
        lines.append(
            f"  {finding.books.stream}  {finding.produced:,} produced = {finding.stored:,} stored"
            f" + {_extra(finding)} {finding.pending:,} pending"
            + (f" + {finding.cut_off:,} cut off" if finding.cut_off else "")
            + (f" + {finding.lost:,} LOST" if finding.lost else "")
            + ("" if finding.ok else "   <-")
        )
        lines += [f"    {fault}" for fault in finding.faults]
        lines += [f"    ({note})" for note in finding.notes]
    return lines


def _extra(finding: Finding) -> str:
    """Tombstoned numbers that are not stored as well (a record may have come before its tombstone)."""
    both = ranges.total(ranges.intersect(finding.books.stored, finding.books.buried))
    return f"{finding.tombstoned - both:,} tombstoned +"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")
