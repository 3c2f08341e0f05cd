"""What can be set on a GPIO line, in gpiozero's words and in the kernel's. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import gpiod
from gpiod.line import Bias, Clock, Direction, Edge, Value

BIAS = {"up": Bias.PULL_UP, "down": Bias.PULL_DOWN, "floating": Bias.DISABLED}
EDGES = {"none": Edge.NONE, "rising": Edge.RISING, "falling": Edge.FALLING, "both": Edge.BOTH}


@dataclass(frozen=True, slots=True)
class LineSetup:
    """All that can be set on a pin. ``function`` None: as it was found, nothing was asked of it yet."""

    function: str | None = None
    pull: str = "floating"
    edges: str = "both"
    bounce_s: float | None = None
    armed: bool = False

    def settings(self, level: bool) -> gpiod.LineSettings:
        """The kernel's settings for this setup; ``level`` is what an output shall drive."""
        if self.function is None:
            return gpiod.LineSettings()
        if self.function == "output":
            return gpiod.LineSettings(direction=Direction.OUTPUT, output_value=line_value(level))
        return gpiod.LineSettings(
            direction=Direction.INPUT,
            bias=BIAS[self.pull],
            edge_detection=EDGES[self.edges] if self.armed else Edge.NONE,
            debounce_period=timedelta(seconds=self.bounce_s or 0),
            event_clock=Clock.MONOTONIC,
        )


def line_value(level: bool) -> Value:
    return Value.ACTIVE if level else Value.INACTIVE
