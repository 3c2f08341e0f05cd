"""gpiozero's pin factories by name: found without loading gpiozero."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Final

from plugmeter.errors import UsageError

OWN: Final = "plugmeter-gpiod"
"""GpiodFactory, which is given its chip and so is made without an entry point."""


def find(name: str) -> EntryPoint:
    """As gpiozero finds it (Device._default_pin_factory, which takes a name only from the environment).

    Raises UsageError, one line that names those that are there.
    """
    known = entry_points(group="gpiozero_pin_factories")
    try:
        return known[name if name in known.names else name.lower()]
    except KeyError:
        there = ", ".join(sorted({*known.names, OWN}))
        raise UsageError(f"gpio.factory = {name!r} is unknown; this machine has {there}") from None


def check(name: str) -> None:
    """Raises UsageError for a factory that is not there; whether it can be used only its use tells."""
    if name != OWN:
        find(name)
