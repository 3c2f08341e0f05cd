"""What a run is asked to do: a value, so that whoever only asks for a run need not load what makes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from plugmeter.errors import UsageError
from plugmeter.sections import Config

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


def switch_lines(config: Config) -> dict[str, int | str]:
    """The lines that switch VBUS, by port. Raises UsageError where a port has none: no rig could plug it."""
    lines: dict[str, int | str] = {
        port.name: port.switch_gpio for port in config.ports if port.switch_gpio is not None
    }
    if not lines or len(lines) < len(config.ports):
        raise UsageError(
            "every port needs a line that switches its VBUS: "
            'add [ports."1-1"] with sense_gpio and switch_gpio to the config, and give it with --config'
        )
    return lines
