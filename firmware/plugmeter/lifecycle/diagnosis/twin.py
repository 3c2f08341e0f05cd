"""Another device of the same name: the broker ends the connection of the one for that of the other."""

from __future__ import annotations

from plugmeter.lifecycle.diagnosis.finding import LINK, Finding
from plugmeter.lifecycle.samples import Observation


class Twin:
    """Accuses while the link suspects one. It ends with a connection that stands."""

    def __init__(self) -> None:
        self._finding: Finding | None = None

    def look(self, seen: Observation) -> list[Finding]:
        """The finding, if it holds at this moment."""
        if seen.link is None or not seen.link.twin:
            self._finding = None
            return []
        evidence = (
            "the broker closes each connection as soon as it is made: perhaps another device has this name;"
            " give each a daemon.device of its own"
        )
        self._finding = self._finding or Finding("twin", LINK, seen.now_ns, evidence, "none")
        return [self._finding]
