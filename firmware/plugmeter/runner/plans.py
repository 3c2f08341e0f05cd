"""What a run is asked to do, from the configuration or from a command's arguments: and that it can be done.

Whoever adopts a configuration or ends a run for another one asks here first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from plugmeter import config as configuration
from plugmeter.errors import UsageError
from plugmeter.plan import RIGS, Plan
from plugmeter.rigs.planned import port_names, sequence_of
from plugmeter.sections import Config
from plugmeter.settings import shown
from plugmeter.witnesses import pin_factories

COLDPLUG: Final = "coldplug.json"
"""In the state directory: what was plugged when the last run ended."""

LONGEST_S: Final = 7 * 86_400.0
"""As with [daemon] run_minutes."""

_OF_THE_RIG: Final = ("sticks", "cycles", "ports", "gap_ms", "jitter_ms", "density_per_s", "bounce", "seed")


def plan_of(config: Config, arguments: Mapping[str, object]) -> tuple[Config, Plan]:
    """The configuration and the plan of a run; without ``arguments`` the one that the daemon makes by itself.

    ``arguments`` are those of the command start-run: rig, sticks, cycles, ports, gap_ms, jitter_ms,
    density_per_s, bounce, seed (instead of [rig]'s) and duration_s (the passive rig's). Raises UsageError,
    one line, for what cannot be, a plan that could not be played among it.
    """
    given = dict(arguments)
    rig = given.pop("rig", config.daemon.rig)
    if rig not in RIGS:
        if rig == "none" and "rig" not in arguments:
            raise UsageError(f"which rig? [daemon] rig is none; there are {', '.join(RIGS)}")
        raise UsageError(f"rig = {shown(rig)} is not known; there are {', '.join(RIGS)}")
    duration = given.pop("duration_s", None)
    if duration is not None and rig != "passive":
        raise UsageError("duration_s is for the passive rig; the other rigs end with their plan")
    unknown = [name for name in given if name not in _OF_THE_RIG]
    if unknown:
        known = ", ".join(("rig", *_OF_THE_RIG, "duration_s"))
        raise UsageError(f"unknown argument {shown(unknown[0])}; there are {known}")
    if given and rig == "passive":
        raise UsageError(f"{next(iter(given))} is not for the passive rig, where a person does the plugging")
    if "ports" in given and rig == "relay":
        raise UsageError("ports is not for the relay rig, which takes those of [ports] in the configuration")
    try:
        changed = replace(config, rig=configuration.with_rig(config.rig, given))
    except UsageError as error:
        raise UsageError("; ".join(str(error).splitlines())) from None
    _check_lines(changed, str(rig))
    if rig != "passive":
        sequence_of(changed, str(rig), port_names(changed, str(rig)))
    return changed, Plan(
        rig=str(rig),
        duration_s=_duration_s(config, duration) if rig == "passive" else None,
        # The injected rig's devices are simulated: they are no part of what is plugged here.
        state=Path(config.daemon.state_directory) / COLDPLUG if rig != "injected" else None,
    )


def _check_lines(config: Config, rig: str) -> None:
    """A pin factory is looked for only where there are lines to open with it."""
    if rig == "relay" or (rig == "passive" and config.ports and config.witnesses.gpio):
        pin_factories.check(config.gpio.factory)


def _duration_s(config: Config, asked: object) -> float:
    if asked is None:
        return config.daemon.run_minutes * 60.0
    number = isinstance(asked, int | float) and not isinstance(asked, bool)
    if not number or not math.isfinite(asked) or not 0 < asked <= LONGEST_S:  # type: ignore[arg-type, operator]  # a number
        raise UsageError(
            f"duration_s = {shown(asked)}: it must be a number of seconds, above 0 and up to {LONGEST_S:.0f}"
        )
    return float(asked)  # type: ignore[arg-type]  # a number
