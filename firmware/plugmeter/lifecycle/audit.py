"""What is told of the daemon's life: each signal and each transition, for the journal and for telemetry.

Pure. ``fields()`` are structured fields of the journal (systemd.journal-fields(7)), ``data()`` the JSON
object of a telemetry record of the kind ``KIND``. The MESSAGE_IDs are UUIDs made once, at random. They never
change, for operators have filters on them (``journalctl MESSAGE_ID=...``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Final

from plugmeter.lifecycle.stages import Event, Stage
from plugmeter.moments import rfc3339

SIGNAL_MESSAGE_ID: Final = "451e5ab68fb44f899d1e9d9f7ac3b77b"

RELOAD_REFUSED_MESSAGE_ID: Final = "0348e7176a984b4cb835fdc935016368"

TRANSITION_MESSAGE_IDS: Final[Mapping[tuple[Stage, Stage], str]] = MappingProxyType(
    {
        (Stage.INITIALIZING, Stage.INITIALIZING): "4aaa9998d71d4c0890b9adc239b50ab4",
        (Stage.INITIALIZING, Stage.RUNNING): "8fe71f99bcfb4e788d029338d2c23e11",
        (Stage.INITIALIZING, Stage.TERMINATING): "7fa0316c2e4645008047ef5be4ac69b1",
        (Stage.RUNNING, Stage.RUNNING): "873bf5ae61614ca1aeb5329f8ff9e7c0",
        (Stage.RUNNING, Stage.TERMINATING): "b95b41016cc943a0a9bffac38359aee2",
        (Stage.TERMINATING, Stage.DRAINING): "3e80771d76c04b6aa72b59cc9dd16967",
        (Stage.TERMINATING, Stage.STOPPED): "6b6e4a3feb0148b68928f46bc3e25b65",
        (Stage.DRAINING, Stage.STOPPED): "cf49ee2552f648b18127914bc587572e",
    }
)
"""One for each arrow of ``stages.TABLE``; those that stay are a reload, and one that has to wait."""


@dataclass(frozen=True, slots=True)
class SignalReceived:
    """A signal, who sent it, and when in the daemon's life. Several of one number that come together are one
    (signal(7): standard signals do not queue); of these the first sender is told."""

    KIND: ClassVar[str] = "signal"

    number: int
    name: str
    """As SIGTERM."""
    pid: int
    """The sender's; 0 is the kernel (Ctrl-C at a terminal) or somebody outside this PID namespace."""
    uid: int
    """The sender's real user id."""
    command: str
    """The sender's command line as far as /proc still had it; printable ASCII, perhaps empty."""
    stage: Stage
    """In which it arrived."""
    time_ns: int
    """Wall time, nanoseconds since 1970."""

    def text(self) -> str:
        """One line."""
        who = self.command or ("the kernel" if self.pid == 0 else "an unknown command")
        return f"{self.name} from {who} (pid {self.pid}, uid {self.uid}) while {self.stage}"

    def fields(self) -> dict[str, str]:
        """For the journal."""
        return {
            "MESSAGE_ID": SIGNAL_MESSAGE_ID,
            "PLUGMETER_SIGNAL": self.name,
            "PLUGMETER_SIGNAL_NUMBER": str(self.number),
            "PLUGMETER_SENDER_PID": str(self.pid),
            "PLUGMETER_SENDER_UID": str(self.uid),
            "PLUGMETER_SENDER_COMMAND": self.command,
            "PLUGMETER_STAGE": self.stage,
        }

    def data(self) -> dict[str, object]:
        """For the record; its time is the record's too."""
        return {
            "number": self.number,
            "name": self.name,
            "pid": self.pid,
            "uid": self.uid,
            "command": self.command,
            "stage": self.stage.value,
            "time": rfc3339(self.time_ns),
        }


@dataclass(frozen=True, slots=True)
class TransitionMade:
    """A step from one stage to another, or a reload, which stays in its stage."""

    KIND: ClassVar[str] = "transition"

    source: Stage
    event: Event
    target: Stage
    reason: str
    """One line; empty where the event says it all."""
    spent_s: float
    """How long ``source`` had lasted, in seconds."""
    time_ns: int
    """Wall time, nanoseconds since 1970."""

    def text(self) -> str:
        """One line."""
        because = f": {self.reason}" if self.reason else ""
        if self.source is self.target:
            return f"{self.event} while {self.source}{because}"
        return f"{self.source} -> {self.target} ({self.event}) after {self.spent_s:.3f} s{because}"

    def fields(self) -> dict[str, str]:
        """For the journal."""
        return {
            "MESSAGE_ID": TRANSITION_MESSAGE_IDS[self.source, self.target],
            "PLUGMETER_FROM": self.source,
            "PLUGMETER_STAGE": self.target,
            "PLUGMETER_EVENT": self.event,
            "PLUGMETER_REASON": self.reason,
            "PLUGMETER_SPENT_US": str(int(self.spent_s * 1e6)),
        }

    def data(self) -> dict[str, object]:
        """For the record; its time is the record's too."""
        return {
            "from": self.source.value,
            "event": self.event.value,
            "to": self.target.value,
            "reason": self.reason,
            "spent_s": round(self.spent_s, 6),
            "time": rfc3339(self.time_ns),
        }


Audited = SignalReceived | TransitionMade
