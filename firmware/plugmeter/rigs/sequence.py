"""When which stick goes into which port: a plan drawn from a seed. Pure: times are offsets.

The plan is a grid. With the period ``T`` (hold + rest) each port plugs once in ``T``, the ports are
staggered by ``T / ports``, and plug number k falls on port k mod ports. Each action then moves by a
uniform jitter around its place on the grid, never nearer to its predecessor on the port than the floor.
So jitter does not add up, and a density asked for is the density had.

The USB core wants a level to be stable for 100 ms before it enumerates (drivers/usb/core/hub.c,
HUB_DEBOUNCE_STABLE): a plan with a gap near or below that is allowed, but its plugs are ambiguous.
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass
from typing import Literal, TypeAlias

from plugmeter.errors import UsageError

Bounce: TypeAlias = Literal["none", "contact", "dip", "custom"]
Pulse: TypeAlias = tuple[int, bool]
"""(offset in ns after the action, level from then on)."""

MINIMUM_GAP_MS = 50.0
"""The least time between two actions on one port, whatever the jitter."""
MOST_PORTS = 1000
MOST_PAIRS = 1_000_000
"""Plugs in one plan: it is drawn as a whole, beforehand."""

_MS = 1_000_000
_BOUNCES = ("none", "contact", "dip", "custom")
_CONTACT_COUNT = (2, 5)
_CONTACT_MS = (1.0, 10.0)
_DIP_MS = (20.0, 60.0)
# A dip needs a level that was stable before and gets stable again behind it, each 100 ms and some.
_DIP_HOLD_MS = 120.0 + _DIP_MS[1] + 120.0


@dataclass(frozen=True, slots=True)
class Step:
    """One action: a stick is plugged into or pulled from a port.

    The sense line takes the level ``plugged`` at ``t_offset_ns`` and then follows ``pulses``, the last
    of which leaves it at ``plugged`` again.
    """

    t_offset_ns: int
    port: str
    plugged: bool
    stick: int
    pulses: tuple[Pulse, ...] = ()


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the actions are before they are moved by jitter.

    ``slot_ms`` is from one plug to the next over all ports, ``hold_ms`` from a plug to its pull. With
    ``shifts`` the sticks begin one further in their row at each cycle.
    """

    slot_ms: float
    hold_ms: float
    shifts: bool


@dataclass(frozen=True, slots=True)
class SequencePlan:
    """What to plug: ``sticks`` x ``cycles`` plugs in all, and as many pulls.

    ``gap_ms`` is the nominal time between two actions on one port, ``jitter_ms`` how far each action
    may move either way. ``density_per_s`` is plugs per second over all ports; None means as many as the
    gap allows. ``bounce``: contact puts 2-5 bounces of 1-10 ms at each plug and pull, dip opens the
    contact for 20-60 ms in the middle of each plugged level (and holds the stick longer, so that it may),
    custom plays ``pulses`` at each plug and their inverse at each pull.

    Raises UsageError for a plan that cannot be carried out.
    """

    sticks: int
    cycles: int
    ports: tuple[str, ...]
    gap_ms: float = 250.0
    jitter_ms: float = 15.0
    seed: int = 0
    density_per_s: float | None = None
    bounce: Bounce = "none"
    pulses: tuple[Pulse, ...] = ()

    def __post_init__(self) -> None:
        if self.sticks < 1:
            raise UsageError(f"a sequence needs at least one stick, not {self.sticks}")
        if self.cycles < 1:
            raise UsageError(f"a sequence needs at least one cycle, not {self.cycles}")
        if self.sticks * self.cycles > MOST_PAIRS:
            raise UsageError(
                f"{self.sticks} sticks in {self.cycles} cycles are more than the {MOST_PAIRS} plugs "
                "that one sequence may have: take fewer sticks or cycles"
            )
        if not self.ports:
            raise UsageError("a sequence needs at least one port")
        if len(set(self.ports)) != len(self.ports):
            twice = next(port for port in self.ports if self.ports.count(port) > 1)
            raise UsageError(f"port {twice} is named twice: each port of a sequence may be named once")
        if len(self.ports) > MOST_PORTS:
            raise UsageError(f"a sequence has at most {MOST_PORTS} ports, not {len(self.ports)}")
        if not self.gap_ms >= MINIMUM_GAP_MS or math.isinf(self.gap_ms):
            raise UsageError(f"the minimum gap is 50 ms per port, not {self.gap_ms:g} ms: ask for more")
        if not 0 <= self.jitter_ms <= self.gap_ms:
            raise UsageError(
                f"the jitter is between 0 and the gap of {self.gap_ms:g} ms, not {self.jitter_ms:g} ms: "
                "lower the jitter, or raise the gap"
            )
        if self.bounce not in _BOUNCES:
            raise UsageError(
                f"there is no bounce pattern {self.bounce!r}: it is one of {', '.join(_BOUNCES)}"
            )
        if self.density_per_s is not None:
            self._check_density(self.density_per_s)
        self._check_pulses()

    def _check_density(self, density_per_s: float) -> None:
        if not density_per_s > 0 or math.isinf(density_per_s):
            raise UsageError(f"the density is a number of plugs per second above 0, not {density_per_s:g}")
        period_ms = self._least_hold_ms + self.gap_ms
        ports = _ceil(density_per_s * period_ms / 1e3)
        if ports > len(self.ports):
            raise UsageError(
                f"{density_per_s:g} plugs/s need {ports} ports at a gap of {self.gap_ms:g} ms, "
                f"and there are {len(self.ports)}: name more ports, or lower the density or the gap"
            )
        sticks = _ceil(density_per_s * self._busy_ms(self._least_hold_ms) / 1e3)
        if sticks > self.sticks:
            raise UsageError(
                f"{density_per_s:g} plugs/s need {sticks} sticks at a gap of {self.gap_ms:g} ms, "
                f"and there are {self.sticks}: take more sticks, or lower the density or the gap"
            )

    def _check_pulses(self) -> None:
        if self.bounce != "custom":
            if self.pulses:
                raise UsageError(f"pulses are for the bounce pattern custom, not for {self.bounce}")
            return
        offsets = [0, *(offset_ns for offset_ns, _ in self.pulses)]
        if len(offsets) < 3:
            raise UsageError(
                "the bounce pattern custom needs at least two pulses: away from the level, and back"
            )
        if any(later <= earlier for earlier, later in itertools.pairwise(offsets)):
            raise UsageError("the offsets of custom pulses must rise, from above 0")
        levels = [True, *(high for _, high in self.pulses)]
        if not levels[-1] or any(a == b for a, b in itertools.pairwise(levels)):
            raise UsageError("the levels of custom pulses must alternate, from low to high at the last")
        limit_ns = min(self.hold_floor_ns, self.rest_floor_ns)
        if offsets[-1] >= limit_ns:
            raise UsageError(
                f"custom pulses end after {offsets[-1] / _MS:g} ms, but the next action may come "
                f"after {limit_ns / _MS:g} ms: shorten them, or raise the gap"
            )

    @property
    def pairs(self) -> int:
        """Plugs in all; there are as many pulls."""
        return self.sticks * self.cycles

    @property
    def hold_floor_ns(self) -> int:
        """The least time from a plug to the pull that follows it on the port."""
        return _floor_ns(max(MINIMUM_GAP_MS, self._least_hold_ms - self.jitter_ms))

    @property
    def rest_floor_ns(self) -> int:
        """The least time from a pull to the plug that follows it on the port."""
        return _floor_ns(max(MINIMUM_GAP_MS, self.gap_ms - self.jitter_ms))

    @property
    def _least_hold_ms(self) -> float:
        return max(self.gap_ms, _DIP_HOLD_MS + self.jitter_ms) if self.bounce == "dip" else self.gap_ms

    def _busy_ms(self, hold_ms: float) -> float:
        """From a stick's plug to its next one at the earliest: held, pulled, carried to a port."""
        return hold_ms + MINIMUM_GAP_MS + 2 * self.jitter_ms

    def grid(self) -> Grid:
        """The grid on which the plan is drawn."""
        # Below 50 ms + jitter the floor would eat the jitter: make room where the density leaves it.
        room_ms = MINIMUM_GAP_MS + self.jitter_ms
        hold_ms = max(self._least_hold_ms, room_ms)
        # Plain turns would put each stick into the same port for ever: then they shift by one a cycle,
        # which brings a stick's next turn one plug nearer.
        same_port = len(self.ports) > 1 and self.sticks > 1 and self.sticks % len(self.ports) == 0
        if self.density_per_s is None:
            slot_ms = (hold_ms + max(self.gap_ms, room_ms)) / len(self.ports)
            turns = self.sticks - 1 if same_port else self.sticks
            return Grid(max(slot_ms, self._busy_ms(hold_ms) / turns), hold_ms, same_port)
        slot_ms = 1e3 / self.density_per_s
        by_ports_ms = slot_ms * len(self.ports) - self.gap_ms
        by_sticks_ms = slot_ms * self.sticks - self._busy_ms(0)
        hold_ms = max(self._least_hold_ms, min(hold_ms, by_ports_ms, by_sticks_ms))
        shifts = same_port and slot_ms * (self.sticks - 1) >= self._busy_ms(hold_ms)
        return Grid(slot_ms, hold_ms, shifts)


def plan(sequence: SequencePlan) -> list[Step]:
    """The steps of a sequence, strictly ordered by time; the same seed gives the same steps.

    Per port plug and pull alternate, beginning with a plug. No stick is in two ports at once, and the
    sticks take turns: each plays ``cycles`` times, in other ports each cycle where their number and the
    density allow it.
    """
    draw = random.Random(sequence.seed)
    ports = sequence.ports
    grid = sequence.grid()
    jitter_ms = sequence.jitter_ms
    hold_floor_ns, rest_floor_ns = sequence.hold_floor_ns, sequence.rest_floor_ns
    free_from_ns = [0] * len(ports)
    steps: list[Step] = []
    for pair in range(sequence.pairs):
        lane = pair % len(ports)
        cycle, place = divmod(pair, sequence.sticks)
        stick = (place + cycle) % sequence.sticks if grid.shifts else place
        nominal_ms = jitter_ms + pair * grid.slot_ms
        plug_ns = max(_ns(nominal_ms + draw.uniform(-jitter_ms, jitter_ms)), free_from_ns[lane])
        pull_ns = max(
            _ns(nominal_ms + grid.hold_ms + draw.uniform(-jitter_ms, jitter_ms)), plug_ns + hold_floor_ns
        )
        free_from_ns[lane] = pull_ns + rest_floor_ns
        at_plug, at_pull = _pulses(sequence, draw)
        # Times are whole µs; the port's number in the ns makes them distinct without moving any interval.
        steps.append(Step(plug_ns + lane, ports[lane], True, stick, at_plug))
        steps.append(Step(pull_ns + lane, ports[lane], False, stick, at_pull))
    steps.sort(key=lambda step: step.t_offset_ns)
    return steps


def _pulses(sequence: SequencePlan, draw: random.Random) -> tuple[tuple[Pulse, ...], tuple[Pulse, ...]]:
    match sequence.bounce:
        case "none":
            return (), ()
        case "contact":
            return (
                _contact(draw, True, sequence.hold_floor_ns),
                _contact(draw, False, sequence.rest_floor_ns),
            )
        case "dip":
            width_ns = _ns(draw.uniform(*_DIP_MS))
            opens_ns = (sequence.hold_floor_ns - width_ns) // 2
            return ((opens_ns, False), (opens_ns + width_ns, True)), ()
        case "custom":
            return sequence.pulses, tuple((offset_ns, not high) for offset_ns, high in sequence.pulses)


def _contact(draw: random.Random, settles_at: bool, floor_ns: int) -> tuple[Pulse, ...]:
    """Bounces that are over by half of the time to the next action."""
    count = draw.randint(*_CONTACT_COUNT)
    least_ms, most_ms = _CONTACT_MS
    most_ms = min(most_ms, floor_ns / _MS / 2 / (2 * count))
    at_ns = 0
    pulses: list[Pulse] = []
    for _ in range(count):
        for level in (not settles_at, settles_at):
            at_ns += _ns(draw.uniform(least_ms, most_ms))
            pulses.append((at_ns, level))
    return tuple(pulses)


def _ns(ms: float) -> int:
    """Milliseconds in ns, rounded to whole microseconds."""
    return round(ms * 1e3) * 1000


def _floor_ns(ms: float) -> int:
    """As ``_ns``, but rounded down, so that many in a row do not leave the grid."""
    return math.floor(ms * 1e3) * 1000


def _ceil(value: float) -> int:
    return math.ceil(value - 1e-9)
