"""What a run's process and its parent say to each other: one JSON array a line, ``[tag, value]``. Pure.

Child to parent:

    ["note", {"text": ...}]             what does not stop the run but its user must know
    ["ready", {...}]                    the witnesses are bound, the first coldplug scan is in
    ["started", {"start": RunStart}]    what the run is about; the rig starts next
    ["verdict", {"verdict": Verdict}]   one decided episode
    ["gap", {"gap": Gap}]               records that a witness knows it lost
    ["raw", {"number": 7, ...}]         a batch of the run's inputs, each as ``recording`` writes it
    ["discarded", {"count": 96, ...}]   raw inputs that found no room, because the parent did not read
    ["resynced", {"devices": 3, ...}]   the answer to a resync
    ["progress", {...}]                 once a second, also when nothing happens
    ["finished", {"report": {...}}]     the run's end
    ["failure", {"reason": ...}]        instead: there was no run, in one line
    ["bye", {}]                         the last word

Parent to child: ["setup", {...}] first, then ["stop", {}] and ["resync", {}]. The end of the stream, at
either end, is the other's death.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import msgspec

from plugmeter.measure.verdicts import Verdict
from plugmeter.records import Gap, RunStart

LINE_LIMIT_BYTES: Final = 16 << 20
"""No message is longer; a report with all that it may hold is under 1 MiB."""


@dataclass(frozen=True, slots=True)
class Note:
    """One line that the equipment has to tell."""

    text: str


@dataclass(frozen=True, slots=True)
class Ready:
    """All is open and bound. ``devices`` are those that the first coldplug scan found."""

    pid: int
    rig: str
    truth: str
    ports: tuple[str, ...]
    witnesses: tuple[str, ...]
    devices: int
    version: str
    host: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Started:
    """The run begins."""

    start: RunStart


@dataclass(frozen=True, slots=True)
class Decided:
    """One verdict."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Missed:
    """One gap."""

    gap: Gap


@dataclass(frozen=True, slots=True)
class Raw:
    """``count`` inputs of the run, in order: a JSON array with an item for each (``recording.encode``).

    ``number`` counts the batches from 1; one that was discarded leaves a hole.
    """

    number: int
    count: int
    inputs: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Discarded:
    """``count`` inputs (``kind`` raw) or verdicts and gaps (news) were given up, for want of room, between
    two monotonic times."""

    kind: str
    count: int
    since_ns: int
    t_ns: int


@dataclass(frozen=True, slots=True)
class Resynced:
    """A scan that was asked for is in; ``devices`` is None where it could not be made."""

    t_ns: int
    devices: int | None


@dataclass(frozen=True, slots=True)
class WitnessCount:
    """A witness's account in mid-run: offered = delivered + lost + pending + what is on its way."""

    offered: int
    delivered: int
    lost: int
    pending: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the run is; ``wakeups`` and ``work`` are the loop's (see ``progress.Progress``).

    ``listener_drops``: what the kernel dropped since the start for all uevent sockets that show in the
    run's namespace, its own among them; None where that cannot be read. ``queued`` and ``queued_bytes`` wait
    for the parent; ``discarded`` raw inputs were given up so far.
    """

    t_ns: int
    wakeups: int
    work: int
    expected: int = 0
    expected_plugs: int = 0
    matched: int = 0
    late: int = 0
    ambiguous: int = 0
    undecided: int = 0
    duplicates: int = 0
    orphans: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    """By stage; stages that lost nothing are left out."""
    witnesses: dict[str, WitnessCount] = field(default_factory=dict)
    listener_drops: int | None = None
    steps_done: int = 0
    steps_total: int = 0
    rss_bytes: int = 0
    queued: int = 0
    queued_bytes: int = 0
    discarded: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """The report, and how many verdicts, gaps and raw inputs were told: whoever has fewer lacks some.

    ``raw`` + ``discarded`` are all inputs of the run; both are 0 unless all records were asked for.
    """

    report: dict[str, Any]
    verdicts: int
    gaps: int
    raw: int
    discarded: int


@dataclass(frozen=True, slots=True)
class Failure:
    """There is no report, for ``reason``. ``kind`` is the error's class, or "died", as the parent says it."""

    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class Bye:
    """The child has said all and ends."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Never on the wire: the parent's own last word. ``status``: the exit status, or minus the signal."""

    status: int


Message: TypeAlias = (
    Note
    | Ready
    | Started
    | Decided
    | Missed
    | Raw
    | Discarded
    | Resynced
    | Progress
    | Finished
    | Failure
    | Bye
    | Ended
)


@dataclass(frozen=True, slots=True)
class Setup:
    """What to run: the configuration's effective values (``config.describe``) and the plan's fields."""

    config: dict[str, Any]
    source: str
    rig: str
    real_lines: bool = False
    duration_s: float | None = None
    state: str | None = None
    die_after_steps: int | None = None
    udevd_drops_every: int = 0


@dataclass(frozen=True, slots=True)
class StopRun:
    """End the run soon, with what was seen."""


@dataclass(frozen=True, slots=True)
class Resync:
    """Make a coldplug scan now."""


Order: TypeAlias = Setup | StopRun | Resync

MESSAGES: Final[dict[str, type[Any]]] = {
    "note": Note,
    "ready": Ready,
    "started": Started,
    "verdict": Decided,
    "gap": Missed,
    "raw": Raw,
    "discarded": Discarded,
    "resynced": Resynced,
    "progress": Progress,
    "finished": Finished,
    "failure": Failure,
    "bye": Bye,
}
ORDERS: Final[dict[str, type[Any]]] = {"setup": Setup, "stop": StopRun, "resync": Resync}

_TAGS: Final = {cls: tag for tag, cls in (*MESSAGES.items(), *ORDERS.items())}
_ENCODE: Final = msgspec.json.Encoder().encode
_SPLIT: Final = msgspec.json.Decoder(tuple[str, msgspec.Raw]).decode
_DECODE_MESSAGE: Final = {tag: msgspec.json.Decoder(cls).decode for tag, cls in MESSAGES.items()}
_DECODE_ORDER: Final = {tag: msgspec.json.Decoder(cls).decode for tag, cls in ORDERS.items()}


def encode(said: Message | Order) -> bytes:
    """One line, with its newline."""
    return _ENCODE((_TAGS[type(said)], said)) + b"\n"


def encode_raw(number: int, items: list[bytes]) -> bytes:
    """A ``Raw`` message of inputs that are encoded already."""
    return b'["raw",{"number":%d,"count":%d,"inputs":[%b]}]\n' % (number, len(items), b",".join(items))


def decode_message(line: bytes) -> Message:
    """What a child said. Raises ValueError, and nothing else, for what is no message."""
    message: Message = _decode(line, _DECODE_MESSAGE)
    if isinstance(message, Raw):  # passed on as it is, so it must be what it says: msgspec only skips it
        inputs = bytes(message.inputs)
        inputs.decode()
        if not inputs.startswith(b"["):
            raise ValueError("raw inputs are an array")
    return message


def decode_order(line: bytes) -> Order:
    """What a parent said. Raises ValueError, and nothing else, for what is no order."""
    order: Order = _decode(line, _DECODE_ORDER)
    return order


def _decode(line: bytes, decoders: dict[str, Any]) -> Any:  # noqa: ANN401  one of the types of the table
    try:
        tag, value = _SPLIT(line)
        decode = decoders.get(tag)
        if decode is None:
            raise ValueError(f"nothing is called {ascii(tag)[:40]}")
        return decode(value)
    except RecursionError:
        raise ValueError("nested too deep") from None


class Lines:
    """A stream of bytes, cut into lines: whole ones come out, as soon as they are there.

    A line of more than ``limit_bytes`` is passed over up to its end and counted in ``too_long``; so no more
    than ``limit_bytes`` are ever held, whatever the other side sends.
    """

    def __init__(self, limit_bytes: int = LINE_LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._skipping = False
        self.too_long = 0

    @property
    def partial(self) -> bool:
        """Whether a line has begun that has not ended."""
        return self._held_bytes > 0 or self._skipping

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that ``data`` completes, without their newlines."""
        if b"\n" not in data:
            self._hold(data)
            return []
        first, *middle, last = data.split(b"\n")
        self._hold(first)
        lines = [] if self._skipping else [b"".join(self._held)]
        self._held.clear()
        self._held_bytes = 0
        self._skipping = False
        for line in middle:
            if len(line) > self._limit_bytes:
                self.too_long += 1
            else:
                lines.append(line)
        self._hold(last)
        return lines

    def _hold(self, part: bytes) -> None:
        if self._skipping or not part:
            return
        if self._held_bytes + len(part) > self._limit_bytes:
            self.too_long += 1
            self._skipping = True
            self._held.clear()
            self._held_bytes = 0
            return
        self._held.append(part)
        self._held_bytes += len(part)
