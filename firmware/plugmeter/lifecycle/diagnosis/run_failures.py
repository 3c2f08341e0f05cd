"""Runs that fail one after the other: the daemon is well, and measures nothing."""

from __future__ import annotations

from plugmeter.lifecycle.diagnosis.finding import RUNNER, Finding
from plugmeter.lifecycle.samples import Observation

_REASON_CHARACTERS = 1_000


class RunFailures:
    """Accuses at ``failures`` runs in a row that failed. It ends when the row does: see RunSample.

    There is no remedy: the next try comes by itself, and what is in the way a person has to mend.
    """

    def __init__(self, failures: int = 3) -> None:
        self._failures = failures
        self._finding: Finding | None = None

    def look(self, seen: Observation) -> list[Finding]:
        """The finding, if it holds at this moment."""
        run = seen.run
        if run is None or run.failures < self._failures:
            self._finding = None
        elif self._finding is None:
            reason = run.reason[:_REASON_CHARACTERS] or "the cause was not told"
            evidence = f"{run.failures} runs in a row failed; the last: {reason}"
            self._finding = Finding("run_failures", RUNNER, run.since_ns, evidence, "none")
        return [self._finding] if self._finding else []
