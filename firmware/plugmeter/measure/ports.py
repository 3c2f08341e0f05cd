"""What state a port is in, as a table: VBUS says one half, the kernel's uevents the other.

The five states are the product of two facts, so a state never says more than was seen:

- is VBUS high?             in connecting, active and error; not in idle and detached
- does the kernel know a device there?   in active and detached; not in idle, connecting and error

``connecting`` and ``error`` differ only in that a wait ran out. Inputs come in the order of their event
times: a VBUS input at its episode's ``t_start_ns``, and not when it was debounced, for the kernel's remove
comes some milliseconds after the edge and long before the debounce is over. Enumerations come from one
witness only. What the table does not hold is illegal: it is recorded, and the state stays.

Decisions that the table makes:

- ``active`` + remove with VBUS still high (a reset, a software removal, a dip too short to be an episode)
  leads back to ``connecting``: power without a device, and the kernel may enumerate again.
- ``detached`` + VBUS high (a quick re-plug) is ``active`` again: the kernel still knows the old device. It
  disconnects that one first (hub_port_connect), hence remove, add.
- A lost remove leaves the port ``detached``, and after the next plug the add in ``active`` is illegal. Only
  ``connecting`` has a timeout: nothing is waited for elsewhere.
- An add without VBUS is illegal, whatever the state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple


class State(StrEnum):
    """The state of a port."""

    IDLE = "idle"
    CONNECTING = "connecting"
    ACTIVE = "active"
    DETACHED = "detached"
    ERROR = "error"

    @property
    def powered(self) -> bool:
        """Whether VBUS is high in this state."""
        return self in (State.CONNECTING, State.ACTIVE, State.ERROR)

    @property
    def occupied(self) -> bool:
        """Whether the kernel knows a device on the port in this state."""
        return self in (State.ACTIVE, State.DETACHED)


class Input(StrEnum):
    """What can happen to a port."""

    VBUS_HIGH = "vbus_high"
    VBUS_LOW = "vbus_low"
    ADD = "add"
    REMOVE = "remove"
    BIND = "bind"
    UNBIND = "unbind"
    TIMEOUT = "timeout"


TABLE: Mapping[tuple[State, Input], State] = MappingProxyType(
    {
        (State.IDLE, Input.VBUS_HIGH): State.CONNECTING,
        (State.CONNECTING, Input.ADD): State.ACTIVE,
        (State.CONNECTING, Input.VBUS_LOW): State.IDLE,
        (State.CONNECTING, Input.TIMEOUT): State.ERROR,
        (State.ACTIVE, Input.VBUS_LOW): State.DETACHED,
        (State.ACTIVE, Input.REMOVE): State.CONNECTING,
        (State.ACTIVE, Input.BIND): State.ACTIVE,
        (State.ACTIVE, Input.UNBIND): State.ACTIVE,
        (State.DETACHED, Input.REMOVE): State.IDLE,
        (State.DETACHED, Input.VBUS_HIGH): State.ACTIVE,
        (State.DETACHED, Input.BIND): State.DETACHED,
        (State.DETACHED, Input.UNBIND): State.DETACHED,
        (State.ERROR, Input.ADD): State.ACTIVE,
        (State.ERROR, Input.VBUS_LOW): State.IDLE,
    }
)
"""Every legal transition. A driver may still bind after VBUS fell: the kernel has not looked yet."""

MEANING: Mapping[State, str] = MappingProxyType(
    {
        State.IDLE: "no power, no device",
        State.CONNECTING: "power, and the kernel has still to add a device",
        State.ACTIVE: "power and a device",
        State.DETACHED: "no power, and the kernel has still to remove the device",
        State.ERROR: "power, and no device came in time",
    }
)


class Transition(NamedTuple):
    """A legal step of a port at ``t_ns`` (CLOCK_MONOTONIC); ``source`` and ``target`` may be the same."""

    port: str
    source: State
    input: Input
    target: State
    t_ns: int


class IllegalTransition(NamedTuple):
    """An input that the table does not allow in ``state``; the state stayed."""

    port: str
    state: State
    input: Input
    t_ns: int


class PortMachine:
    """One port's state. The latest ``keep_illegal`` illegal transitions are kept, all of them are counted."""

    __slots__ = ("_illegal", "illegal_count", "port", "since_ns", "state")

    def __init__(self, port: str, state: State = State.IDLE, keep_illegal: int = 100) -> None:
        """``state`` is what coldplug and the line's level say at the start of a run."""
        self.port = port
        self.state = state
        self.since_ns: int | None = None
        """When the state was last entered from another; None before the first such transition."""
        self.illegal_count = 0
        self._illegal: deque[IllegalTransition] = deque(maxlen=keep_illegal)

    @property
    def illegal(self) -> tuple[IllegalTransition, ...]:
        """The latest illegal transitions, oldest first."""
        return tuple(self._illegal)

    def feed(self, event: Input, t_ns: int) -> Transition | None:
        """The transition that ``event`` makes, or None (recorded in ``illegal``) where the table has none."""
        source = self.state
        target = TABLE.get((source, event))
        if target is None:
            self.illegal_count += 1
            self._illegal.append(IllegalTransition(self.port, source, event, t_ns))
            return None
        if target is not source:
            self.state = target
            self.since_ns = t_ns
        return Transition(self.port, source, event, target, t_ns)


def diagram() -> str:
    """The table as a Mermaid state diagram, for the documentation; inputs with one arrow share its label."""
    arrows: dict[tuple[State, State], list[str]] = {}
    for (source, event), target in TABLE.items():
        arrows.setdefault((source, target), []).append(event.value)
    lines = ["stateDiagram-v2", f"    [*] --> {State.IDLE}"]
    lines += [f"    {state} : {state} ({meaning})" for state, meaning in MEANING.items()]
    lines += [
        f"    {source} --> {target} : {', '.join(events)}" for (source, target), events in arrows.items()
    ]
    return "\n".join(lines) + "\n"


def markdown() -> str:
    """The diagram and the whole table, illegal cells as a dash, as Markdown."""
    header = [
        "| state | " + " | ".join(event.value for event in Input) + " |",
        "|---" * (len(Input) + 1) + "|",
    ]
    rows = [
        f"| {state} | " + " | ".join(TABLE.get((state, event), "–") for event in Input) + " |"
        for state in State
    ]
    return "\n".join(["```mermaid", diagram() + "```", "", *header, *rows]) + "\n"
