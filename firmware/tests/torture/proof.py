"""What was counted after a scenario, or after several parts of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Proof:
    """Adds up: ``a + b`` is the proof of both."""

    hits: int = 0
    """Turns with evidence that they struck."""
    missed: int = 0
    """Turns that did not strike, and were made again."""
    kinds: Counter[str] = field(default_factory=Counter)
    """The hits, by what exactly struck."""
    stored: int = 0
    lost: int = 0
    """Committed by the device as it told us, and not at the controller (nor told of by a tombstone)."""
    holes: int = 0
    duplicates: int = 0
    tombstoned: int = 0
    books_wrong: int = 0
    tracebacks: int = 0
    """Of the device or the controller: whatever happens to them, they are to say it in a line."""
    audit_status: int = 0
    audit: str = ""
    failure: str = ""
    """Something hung, or ended by itself."""
    skipped: str = ""
    """What is needed, where it could not be done."""

    def wrong(self, times: int) -> list[str]:
        """What is against it, in a few words each; nothing if it holds for ``times`` turns."""
        counts = {
            "lost": self.lost, "holes": self.holes, "twice": self.duplicates,
            "books wrong": self.books_wrong, "tracebacks": self.tracebacks, "audit": self.audit_status,
            "turns short": max(0, times - self.hits),
        }  # fmt: skip
        found = [f"{name} {count}" for name, count in counts.items() if count]
        return [*found, *(each for each in (self.failure, self.skipped) if each)]

    def __add__(self, other: Proof) -> Proof:
        return Proof(
            self.hits + other.hits,
            self.missed + other.missed,
            self.kinds + other.kinds,
            self.stored + other.stored,
            self.lost + other.lost,
            self.holes + other.holes,
            self.duplicates + other.duplicates,
            self.tombstoned + other.tombstoned,
            self.books_wrong + other.books_wrong,
            self.tracebacks + other.tracebacks,
            max(self.audit_status, other.audit_status),
            self.audit + other.audit,
            self.failure or other.failure,
            self.skipped or other.skipped,
        )
