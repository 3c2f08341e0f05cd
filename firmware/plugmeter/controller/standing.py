"""A device's standing in the audit: what is wrong with it as a whole, beside each of its streams. Pure.

What was refused was never acknowledged: the device still has it, and nobody else does. So where anything was,
nobody can say that every record is accounted for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

RETURNS: Final = 3
"""A device that came back so often to a stream that it had left is two devices. Once or twice it may be one:
a card that was changed for another and back, or two controllers that hear of one change in turn."""

_SHOWN: Final = 5
_MEND: Final = (
    "it has a copy of that device's outbox: stop it, move its outbox.sqlite aside, and start it again, so "
    "that it begins a stream of its own (telemetry.md says how to send what waits in the file)"
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What was refused of a device because of the stream that it named."""

    stream: str
    """Empty: one more than a device may tell of without a record."""
    owner: str
    """The device whose stream it is; empty where it is nobody's."""
    count: int


@dataclass(frozen=True, slots=True)
class Standing:
    """Of one device."""

    device: str
    streams: int
    refused: int = 0
    """Records, tombstones and accounts, ever."""
    refusals: tuple[Refusal, ...] = ()
    foreign: tuple[str, str] | None = None
    """The stream that its latest status names, and whose it is, where it is another's."""
    returned: tuple[tuple[str, int], ...] = ()
    """Streams that it came back to after it had left them, and how often."""

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong, a line each."""
        return tuple(_faults(self))


def _faults(standing: Standing) -> Iterable[str]:
    foreign = [each for each in standing.refusals if each.stream]
    for each in foreign[:_SHOWN]:
        yield (
            f"REFUSED: {each.count:,} records or accounts of {standing.device}: stream {each.stream} "
            f"belongs to {each.owner or 'another device'}; {_MEND}"
        )
    if len(foreign) > _SHOWN:
        yield f"and of {len(foreign) - _SHOWN} more streams that belong to other devices"
    named = standing.foreign
    if named is not None and all(each.stream != named[0] for each in foreign):
        yield f"{standing.device} reports as stream {named[0]}, which belongs to {named[1]}; {_MEND}"
    for each in standing.refusals:
        if not each.stream:
            yield (
                f"REFUSED: {each.count:,} accounts of {standing.device}: it tells of stream after stream and "
                "sends no record of them; look at what runs there, or who else uses its name at the broker"
            )
    rest = standing.refused - sum(each.count for each in standing.refusals)
    if rest > 0:
        yield (
            f"REFUSED: {rest:,} records or accounts of {standing.device}, of streams that belong to other "
            f"devices (which ones was not kept); {_MEND}"
        )
    twins = [(stream, times) for stream, times in standing.returned if times >= RETURNS]
    if twins:
        stream, times = max(twins, key=lambda each: each[1])
        yield (
            f"two devices have the name {standing.device}: it reports as one stream and as another in turn "
            f"(it came back to {stream} {times:,} times); give each a name of its own (daemon.device)"
        )
