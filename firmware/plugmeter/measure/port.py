"""One port of a run: its line, its episodes, its matching, its state and its account."""

from __future__ import annotations

from dataclasses import dataclass

from plugmeter.measure.certificate import LineWatch
from plugmeter.measure.episodes import EpisodeDetector
from plugmeter.measure.matching import Matcher
from plugmeter.measure.ports import PortMachine, State
from plugmeter.records import RunStart

EARLY_NS = 50_000_000
"""How much earlier than the edge of VBUS an enumeration may come and still belong to it. A USB plug's
data pins are shorter than its power pins (USB 2.0, 6.5.3): on the way out they break first."""

BOUNCE_DEBOUNCES = 2
"""For how many debounce times a contact may bounce and the kernel's answer to its first edge still belong to
the episode that comes of it."""

_STATES = {
    (False, False): State.IDLE,
    (True, False): State.CONNECTING,
    (True, True): State.ACTIVE,
    (False, True): State.DETACHED,
}
"""By whether VBUS is high and whether the kernel knows a device."""


@dataclass(slots=True)
class PortAccount:
    """What happened on one port."""

    expected: int = 0
    matched: int = 0
    late: int = 0
    lost: int = 0
    ambiguous: int = 0


class Port:
    """Everything that is kept for one port: who watches its line, who matches, in what state it is."""

    def __init__(self, name: str, start: RunStart, initially_high: bool, occupied: bool) -> None:
        self.name = name
        unrest_ns = BOUNCE_DEBOUNCES * start.debounce_ns
        self.episodes = EpisodeDetector(name, start.debounce_ns, initially_high, unrest_ns)
        self.matcher = Matcher(
            name,
            start.nominal_ns,
            start.lost_after_ns,
            hold_ns=unrest_ns + start.debounce_ns + EARLY_NS,
            tolerance_ns=EARLY_NS,
        )
        self.machine = PortMachine(name, _STATES[initially_high, occupied])
        self.line = LineWatch(name)
        self.account = PortAccount()
