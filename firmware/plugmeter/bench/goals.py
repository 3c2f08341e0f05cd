"""A figure beside what it ought to be, and the machine that it was had on."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure beside what it ought to be."""

    what: str
    figure: float
    goal: float
    unit: str
    at_least: bool

    @property
    def met(self) -> bool:
        """Whether it is."""
        return self.figure >= self.goal if self.at_least else self.figure <= self.goal

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {**asdict(self), "met": self.met}


def host() -> dict[str, Any]:
    """What a figure of speed depends on."""
    system = os.uname()
    return {
        "machine": system.machine,
        "kernel": system.release,
        "cpus": os.cpu_count(),
        "load_1min": os.getloadavg()[0],
        "python": sys.version.split()[0],
    }
