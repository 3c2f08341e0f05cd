"""Defects of what the conductor calls: logged with their traceback, made an event, and not met twice."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, TypeVar

from plugmeter.lifecycle.stages import Event

LOG: Final = logging.getLogger("plugmeter.lifecycle")

_OF_THE_STAGE: Final = frozenset({"start", "ready", "end_intake", "intake", "flush_and_publish", "backlog"})
"""Entry actions and exit conditions: without them their stage would not end."""

Result = TypeVar("Result")


class Defects:
    """Calls others by name, and those that raised what they must not no more. For one thread."""

    def __init__(self, happen: Callable[[Event, str], None]) -> None:
        """``happen`` gets DEFECT for what the stage cannot do without, FATAL for all else; with one line."""
        self._happen = happen
        self._broken: set[str] = set()

    def ask(self, name: str, function: Callable[[], Result], otherwise: Result) -> Result:
        """What ``function`` gives. If it raises, that is a defect: it is logged, it happens, and what is
        called ``name`` is never called again."""
        if name in self._broken:
            return otherwise
        try:
            return function()
        except Exception as error:
            LOG.exception("%s failed: a defect", name)
            self._broken.add(name)
            event = Event.DEFECT if name in _OF_THE_STAGE else Event.FATAL
            self._happen(event, f"{name} failed: {type(error).__name__}")
            return otherwise

    def forget(self, name: str) -> bool:
        """Whether it is one with a defect. The next one of that name is another one, and may be called."""
        if name not in self._broken:
            return False
        self._broken.remove(name)
        return True
