"""The effects of commands, one at a time, in a thread of their own; and those that a restart interrupted."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, TypeAlias

from plugmeter.errors import PlugmeterError
from plugmeter.moments import rfc3339
from plugmeter.telemetry import strictjson
from plugmeter.telemetry.commands.answers import REASON_LIMIT
from plugmeter.telemetry.commands.journal import Entry, Journal
from plugmeter.telemetry.commands.message import State
from plugmeter.telemetry.commands.operations import Interrupted, Memo, Operations, carry_out

MOST_ATTEMPTS: Final = 3
RESULT_LIMIT_BYTES: Final = 8_192
"""An answer must stay below message.PAYLOAD_LIMIT_BYTES, or we would refuse it ourselves."""
_RETRY_S: Final = 1.0

_End: TypeAlias = tuple[State, str | None, Mapping[str, Any] | None]


class Effects:
    """Thread-safe; ``recover`` comes first. ``tell`` is called after each step that the journal has.

    ``trouble`` is one line while the journal cannot be written: the step is then tried again each second.
    """

    def __init__(
        self,
        journal: Journal,
        operations: Operations,
        tell: Callable[[Entry], None],
        now_ns: Callable[[], int],
    ) -> None:
        self.trouble: str | None = None
        self.defects = 0
        """How often an operation raised what it must not; the thread was begun anew then."""
        self.executing: tuple[str, str, int] | None = None
        """(op, id, monotonic ns of its beginning) of what is being carried out."""
        self.restarting = False
        """The daemon ends, by a command or not: nothing more is begun until the next one does."""
        self._journal = journal
        self._operations = operations
        self._tell = tell
        self._now_ns = now_ns
        self._changed = threading.Condition()
        self._waiting: deque[str] = deque()
        self._closing = False
        self._thread = self._new_thread()

    @property
    def waiting(self) -> int:
        """How many commands wait or are being carried out."""
        return len(self._waiting)

    def recover(self, accept: Collection[str]) -> None:
        """Settle or queue what has no end yet, and begin to work. Raises PlugmeterError: the journal's."""
        for entry in self._journal.unfinished():
            if entry.op == "restart":
                self._end(entry, (State.SUCCESSFUL, None, {"restarted": True}))
            elif entry.op == "hwtest" and entry.attempts:
                self._end(entry, (State.FAILED, "interrupted by a restart", None))
            elif entry.op not in accept:
                self._end(entry, (State.FAILED, f"{entry.op} is not in commands.accept any more", None))
            elif entry.attempts >= MOST_ATTEMPTS:
                reason = f"begun {entry.attempts} times, and each time the daemon ended before it did"
                self._end(entry, (State.FAILED, reason, None))
            else:
                self._waiting.append(entry.id)
        self._thread.start()

    def add(self, entry: Entry) -> None:
        """To be carried out when its turn comes."""
        with self._changed:
            self._waiting.append(entry.id)
            self._changed.notify_all()

    def revive(self) -> None:
        """A defect of an operation ends the thread: then the next command gets a new one."""
        if not (self._thread.is_alive() or self._closing or self.restarting):
            self._thread = self._new_thread()
            self._thread.start()

    def close(self) -> threading.Thread:
        """Begin nothing more. Gives the thread, which ends as soon as the operation under way does."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        return self._thread

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._work, name="operator-effect", daemon=True)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if self._closing or self.restarting:
                    return
                command_id = self._waiting[0]
            try:
                self._carry_out(command_id)
            finally:
                self._waiting.popleft()

    def _carry_out(self, command_id: str) -> None:
        entry = self._persisted(lambda: self._journal.find(command_id))
        if entry is None:
            return
        if not entry.attempts and self._now_ns() > entry.expires_ns:
            reason = f"expired at {rfc3339(entry.expires_ns)}, before its turn came"
            self._end_at_last(entry, (State.FAILED, reason, None))
            return
        begun = self._persisted(lambda: self._journal.begin(command_id, self._now_ns()))
        if begun is None:
            return
        self._tell(begun)
        end = self._effect(begun)
        if end is None or (begun.op == "restart" and end[0] is State.SUCCESSFUL):
            self.restarting = True  # recover() carries it on, or tells its end
        else:
            self._end_at_last(begun, end)

    def _effect(self, entry: Entry) -> _End | None:
        """How it ended; None where it was interrupted."""
        end: _End | None = None
        is_defect = True
        self.executing = (entry.op, entry.id, time.monotonic_ns())
        try:
            result = carry_out(
                self._operations, entry.op, entry.id, json.loads(entry.arguments), self._memo(entry)
            )
            end = (State.SUCCESSFUL, None, _bounded(result))
            is_defect = False
        except Interrupted:
            is_defect = False
        except (PlugmeterError, OSError) as error:
            end = (State.FAILED, " ".join(str(error).split())[:REASON_LIMIT] or type(error).__name__, None)
            is_defect = False
        finally:
            self.executing = None
            if is_defect:  # it ends this thread, with its traceback
                self.defects += 1
                kind = sys.exc_info()[0]
                name = kind.__name__ if kind else "?"
                reason = f"a defect of plugmeter ({name}): its traceback is in the device's journal"
                self._end_at_last(entry, (State.FAILED, reason, None))
        return end

    def _memo(self, entry: Entry) -> Memo:
        def write(value: Mapping[str, Any] | None) -> None:
            if self._persisted(lambda: self._journal.note(entry.id, value)) is None:
                raise Interrupted("the daemon is stopping")

        return Memo(None if entry.note is None else json.loads(entry.note), write)

    def _end_at_last(self, entry: Entry, end: _End) -> None:
        ended = self._persisted(lambda: self._journal.finish(entry.id, *end, self._now_ns()))
        if ended is not None:
            self._tell(ended)

    def _end(self, entry: Entry, end: _End) -> None:
        self._tell(self._journal.finish(entry.id, *end, self._now_ns()))

    def _persisted(self, step: Callable[[], Entry | None]) -> Entry | None:
        """A step of the journal, tried until it succeeds; None where we are to end before it does."""
        while True:
            try:
                entry = step()
            except PlugmeterError as error:
                self.trouble = str(error)
            else:
                self.trouble = None
                return entry
            with self._changed:
                if self._changed.wait_for(lambda: self._closing, _RETRY_S):
                    return None


def _bounded(result: Mapping[str, Any]) -> Mapping[str, Any]:
    size = len(strictjson.canonical(result))
    return result if size <= RESULT_LIMIT_BYTES else {"omitted_bytes": size}
