"""What a configuration has a rig plug: its ports and its sequence, known before anything is opened.

Both who checks a configuration and who makes the run of it ask here, so that nothing is accepted that cannot
run.
"""

from __future__ import annotations

from typing import Final

from plugmeter.errors import UsageError
from plugmeter.plan import switch_lines
from plugmeter.rigs.dummy_hcd import check_count
from plugmeter.rigs.sequence import Bounce, SequencePlan
from plugmeter.sections import Config

SIMULATED_GAP_MS: Final = 250
ENUMERATED_GAP_MS: Final = 1000
"""A real stick takes the kernel some 400 ms, and pulled before that it was never there."""


def port_names(config: Config, rig: str) -> tuple[str, ...]:
    """The ports that ``rig`` plugs into; none for the passive one. Raises UsageError.

    The gadget rig's get their names from the kernel, so that here only their number is true.
    """
    match rig:
        case "injected":
            return tuple(f"1-{number}" for number in range(1, config.rig.ports + 1))
        case "gadget":
            check_count(config.rig.ports)
            return tuple(f"gadget-{number}" for number in range(1, config.rig.ports + 1))
        case "relay":
            return tuple(switch_lines(config))
        case _:
            return ()


def sequence_of(config: Config, rig: str, ports: tuple[str, ...]) -> SequencePlan:
    """What ``rig`` plugs into ``ports``, and when. Raises UsageError, one line, for what cannot be played."""
    asked = config.rig
    bounce: Bounce = asked.bounce  # type: ignore[assignment]  # config has checked it against its choices
    if rig == "gadget" and bounce != "none":
        raise UsageError(f"rig gadget: its sticks cannot bounce ({bounce}); ask for bounce none, or injected")
    try:
        return SequencePlan(
            sticks=asked.sticks,
            cycles=asked.cycles,
            ports=ports,
            gap_ms=asked.gap_ms or (SIMULATED_GAP_MS if rig == "injected" else ENUMERATED_GAP_MS),
            jitter_ms=asked.jitter_ms,
            seed=asked.seed,
            density_per_s=asked.density_per_s or None,
            bounce=bounce,
        )
    except UsageError as error:
        raise UsageError(f"rig {rig}: {error}") from None
