"""What a run is asked to do: a value, so that whoever only asks for a run need not load what makes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

RIGS = ("injected", "gadget", "relay", "passive")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is asked to do, beyond the configuration."""

    rig: str
    real_lines: bool = False
    """The injected rig drives the switch lines of [ports] instead of mock pins."""
    duration_s: float | None = None
    """For the passive rig: how long to watch."""
    state: Path | None = None
    """Where the last coldplug scan is kept, to tell what changed while nobody was looking."""
    die_after_steps: int | None = None
    """The rig fails on purpose: how the self-test and the tests see a rig die."""
    udevd_drops_every: int = 0
    """The injected rig's udevd loses every n-th event: how the tests see the stage udevd."""
