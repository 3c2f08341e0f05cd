"""Footprints: which retained topics this device has left at which broker, so that none stays there for good.

A broker keeps what is retained until somebody clears it. A device that is renamed, or tells Home Assistant
under another prefix, would leave a ghost of its former self; so what it leaves is written down before it is
published, and what it no longer tells is cleared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from plugmeter.files import read_regular

LOSS: Final = "what is retained at a broker under an old name or prefix may stay there"
FILE_NAME: Final = "footprints.json"
"""In the state directory."""
MOST: Final = 64
_LIMIT_BYTES: Final = 65_536
_LONGEST: Final = 512

Footprint = tuple[str, str]
"""A broker as host:port, and a topic."""


class Footprints:
    """Of one thread. What cannot be read or written is told, and costs only a ghost.

    ``write`` replaces the file with this, soon. ``machine`` is this one's (owner.machine_of): what a card
    that was copied brings along was left by the other machine, which still wants it there.
    """

    def __init__(
        self, path: Path, machine: str, tell: Callable[[str], None], write: Callable[[Path, bytes], None]
    ) -> None:
        self._path = path
        self._machine = machine
        self._tell = tell
        self._write_file = write
        self._left: dict[Footprint, None] = dict.fromkeys(self._read())  # an ordered set, the oldest first

    def at(self, broker: str) -> list[str]:
        """The topics that were left there, the oldest first."""
        return [topic for at, topic in self._left if at == broker]

    def leave(self, broker: str, topics: Collection[str]) -> None:
        """These are about to be published."""
        new = {(broker, topic): None for topic in topics}
        if new.keys() <= self._left.keys():
            return
        self._left = {each: None for each in self._left if each not in new} | new
        while len(self._left) > MOST:
            at, topic = next(iter(self._left))
            del self._left[at, topic]
            self._tell(f"too much was left at brokers: {topic} at {at} is not remembered, and never cleared")
        self._write()

    def clear(self, broker: str, topics: Collection[str]) -> None:
        """These are there no more."""
        rest = {(at, topic): None for at, topic in self._left if at != broker or topic not in topics}
        if rest.keys() != self._left.keys():
            self._left = rest
            self._write()

    def _read(self) -> list[Footprint]:
        try:
            found = json.loads(read_regular(self._path, _LIMIT_BYTES))
            machine = found["machine"]
            left = [(each["broker"], each["topic"]) for each in found["left"]]
            if not all(_is_sound(text) for each in left for text in each):
                raise ValueError("it holds what was never written")
        except FileNotFoundError:
            return []
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            self._tell(f"{self._path} is not readable ({type(error).__name__}): what is in it is not cleared")
            return []
        if machine and self._machine and machine != self._machine:
            return []
        self._machine = self._machine or str(machine)
        return left[-MOST:]

    def _write(self) -> None:
        left = [{"broker": broker, "topic": topic} for broker, topic in self._left]
        text = json.dumps({"machine": self._machine, "left": left}, indent=1)
        self._write_file(self._path, text.encode() + b"\n")


def _is_sound(text: object) -> bool:
    return isinstance(text, str) and 0 < len(text) <= _LONGEST and not set(text) & set("#+\0")
