"""The five stages of the daemon, as one table: nothing else decides what follows on what.

Decisions that it makes:

- What cannot go on is stopped in order: whatever goes wrong, whenever, the way to ``stopped`` is through
  ``terminating`` and ``draining``, so that what was measured is committed. Only a second signal (``force``)
  leaves out what is left of it; the action of ``stopped`` closes the outbox all the same.
- Each stage that is on the way out is left after a time: the deadline is an event like any other.
- What a stage has no use for changes nothing: a reload while stopping, a restart while stopping.
- A stage whose own action or condition has a defect is left for the next one: nothing says that it would
  ever end. Any other part that fails ends the work, but takes no time from the stop.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple


class Stage(StrEnum):
    """Where the daemon is on its way."""

    INITIALIZING = "initializing"
    RUNNING = "running"
    TERMINATING = "terminating"
    DRAINING = "draining"
    STOPPED = "stopped"

    @property
    def stopping(self) -> bool:
        """Whether the end has begun: from here on only what is there already is worked off."""
        return self not in (Stage.INITIALIZING, Stage.RUNNING)


class Event(StrEnum):
    """What can happen to the daemon."""

    READY = "ready"
    """All is up: outbox recovered, witnesses bound, coldplug done."""
    TERM = "term"
    INT = "int"
    HUP = "hup"
    FORCE = "force"
    """A second TERM or INT, a second or more after the first."""
    RESTART = "restart"
    """A command from afar: an orderly stop, and the service manager starts anew."""
    FATAL = "fatal"
    """A part cannot go on: it says so, or what the conductor called of it raised what it should not."""
    DEFECT = "defect"
    """The stage's own action or exit condition raised what it should not."""
    DRY = "dry"
    """The intake has ended: nothing new can come."""
    DRAINED = "drained"
    """All that was produced is acknowledged."""
    DEADLINE = "deadline"
    """The stage has had its time."""


TABLE: Final[Mapping[tuple[Stage, Event], Stage]] = MappingProxyType(
    {
        (Stage.INITIALIZING, Event.READY): Stage.RUNNING,
        (Stage.INITIALIZING, Event.TERM): Stage.TERMINATING,
        (Stage.INITIALIZING, Event.INT): Stage.TERMINATING,
        (Stage.INITIALIZING, Event.HUP): Stage.INITIALIZING,
        (Stage.INITIALIZING, Event.RESTART): Stage.TERMINATING,
        (Stage.INITIALIZING, Event.FATAL): Stage.TERMINATING,
        (Stage.INITIALIZING, Event.DEFECT): Stage.TERMINATING,
        (Stage.INITIALIZING, Event.DEADLINE): Stage.TERMINATING,
        (Stage.RUNNING, Event.HUP): Stage.RUNNING,
        (Stage.RUNNING, Event.TERM): Stage.TERMINATING,
        (Stage.RUNNING, Event.INT): Stage.TERMINATING,
        (Stage.RUNNING, Event.RESTART): Stage.TERMINATING,
        (Stage.RUNNING, Event.FATAL): Stage.TERMINATING,
        (Stage.RUNNING, Event.DEFECT): Stage.TERMINATING,
        (Stage.TERMINATING, Event.DRY): Stage.DRAINING,
        (Stage.TERMINATING, Event.DEADLINE): Stage.DRAINING,
        (Stage.TERMINATING, Event.DEFECT): Stage.DRAINING,
        (Stage.TERMINATING, Event.FORCE): Stage.STOPPED,
        (Stage.DRAINING, Event.DRAINED): Stage.STOPPED,
        (Stage.DRAINING, Event.DEADLINE): Stage.STOPPED,
        (Stage.DRAINING, Event.DEFECT): Stage.STOPPED,
        (Stage.DRAINING, Event.FORCE): Stage.STOPPED,
    }
)
"""Every transition there is. A pair that is not here changes nothing. Those that lead nowhere are the reload,
which happens within ``running``, and one that comes before, which is remembered until then."""

FAILURES: Final = frozenset({Event.FATAL, Event.DEFECT})
"""After one of these, in whatever stage, the exit status is not 0; nor after a start that took too long."""


class StageRow(NamedTuple):
    """What a stage is: the columns of the table in the documentation."""

    meaning: str
    entry: str
    """The action on entry: a method of ``actions.Actions``, or nothing."""
    exit: str
    """The condition that ends it in good order."""
    deadline: str


STAGES: Final[Mapping[Stage, StageRow]] = MappingProxyType(
    {
        Stage.INITIALIZING: StageRow(
            "coming up", "start", "every step of start is done, and ready() says so", "start_s"
        ),
        Stage.RUNNING: StageRow("at work", "", "none: it runs until it is told to stop", "none"),
        Stage.TERMINATING: StageRow(
            "no new intake", "end_intake", "intake() has nothing left", "5 s, more while there is progress"
        ),
        Stage.DRAINING: StageRow(
            "the rest goes out",
            "flush_and_publish",
            "backlog() has nothing left",
            "drain_s × 1.5 for each recent one that ran out, at most 30 s; more while there is progress",
        ),
        Stage.STOPPED: StageRow("the end", "say_goodbye", "say_goodbye is done", "8 s, as a last resort"),
    }
)
"""Both deadlines of stopping together never go beyond stop_cap_s."""


class Transition(NamedTuple):
    """A step that the table has."""

    source: Stage
    event: Event
    target: Stage

    @property
    def moves(self) -> bool:
        """Whether another stage is entered; a reload stays."""
        return self.source is not self.target


class StageMachine:
    """The stage, and what is remembered of the way here. Pure."""

    __slots__ = ("failed", "stage")

    def __init__(self) -> None:
        self.stage = Stage.INITIALIZING
        self.failed = False
        """Whether there was a failure, in whatever stage."""

    def feed(self, event: Event) -> Transition | None:
        """What ``event`` leads to, or None where it changes nothing (but a failure is always remembered)."""
        source = self.stage
        if source is not Stage.STOPPED:
            late_start = source is Stage.INITIALIZING and event is Event.DEADLINE
            self.failed = self.failed or event in FAILURES or late_start
        target = TABLE.get((source, event))
        if target is None:
            return None
        self.stage = target
        return Transition(source, event, target)


def diagram() -> str:
    """The table as a Mermaid state diagram, for the documentation; events with one arrow share its label."""
    arrows: dict[tuple[Stage, Stage], list[str]] = {}
    for (source, event), target in TABLE.items():
        arrows.setdefault((source, target), []).append(event.value)
    lines = ["stateDiagram-v2", f"    [*] --> {Stage.INITIALIZING}"]
    lines += [f"    {stage} : {stage} ({row.meaning})" for stage, row in STAGES.items()]
    lines += [
        f"    {source} --> {target} : {', '.join(events)}" for (source, target), events in arrows.items()
    ]
    lines.append(f"    {Stage.STOPPED} --> [*]")
    return "\n".join(lines) + "\n"


def markdown() -> str:
    """The diagram, what each stage is, and the whole table, as Markdown; a dash changes nothing."""
    stages = [
        "| stage | on entry | ends when | deadline |",
        "|---" * 4 + "|",
        *(f"| {stage} | {row.entry or '–'} | {row.exit} | {row.deadline} |" for stage, row in STAGES.items()),
    ]
    events = [
        "| stage | " + " | ".join(Event) + " |",
        "|---" * (len(Event) + 1) + "|",
        *(
            f"| {stage} | " + " | ".join(TABLE.get((stage, event), "–") for event in Event) + " |"
            for stage in Stage
        ),
    ]
    return "\n".join(["```mermaid", diagram() + "```", "", *stages, "", *events]) + "\n"
