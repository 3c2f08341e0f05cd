"""How commands are answered: the state at the broker, and a record of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from plugmeter.telemetry.commands import message
from plugmeter.telemetry.commands.journal import Entry, Journal
from plugmeter.telemetry.commands.message import Address, Refusal, State
from plugmeter.telemetry.topics import Topics

KIND: Final = "command"
REASON_LIMIT: Final = 2_000


class Answers:
    """Thread-safe. The last state that is published of a command is its last state, whoever publishes."""

    def __init__(
        self,
        journal: Journal,
        topics: Topics,
        publish: Callable[[str, bytes], None],
        record: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        self._journal = journal
        self._topics = topics
        self._publish = publish
        self._record = record
        self._lock = threading.Lock()

    def tell(self, entry: Entry) -> None:
        """What a command has just become: to the broker, and into the records."""
        with self._lock:
            self._publish_state(entry)
        if entry.state is State.EXECUTING and entry.attempts == 1:
            return  # it follows from the next record
        self._record(
            KIND,
            {
                "op": entry.op,
                "id": entry.id,
                "state": str(entry.state),
                "reason": entry.reason,
                "result": _loaded(entry.result),
                "attempts": entry.attempts,
                "signed": entry.signed,
            },
        )

    def repeat(self, command_id: str) -> None:
        """To the broker, once more, where a command stands. Raises PlugmeterError: the journal's."""
        with self._lock:  # what is read here is older than what tell() waits to publish
            entry = self._journal.find(command_id)
            if entry is not None:
                self._publish_state(entry)

    def refuse(self, where: Address, refusal: Refusal, withheld: int, now_ns: int) -> None:
        """That a message has no effect. ``withheld``: how many before it were not answered nor recorded."""
        reason = refusal.reason[:REASON_LIMIT]
        self._record_refusal(where.op[:64], where.id[:64], reason, withheld)
        if where.topic:
            self._publish(
                where.topic, message.state_document(where.op, where.id, State.REFUSED, reason, None, now_ns)
            )

    def tell_withheld(self, withheld: int) -> None:
        """That there were too many refusals to answer and record each."""
        self._record_refusal("", "", "too many refusals: these had neither an answer nor a record", withheld)

    def _record_refusal(self, op: str, command_id: str, reason: str, withheld: int) -> None:
        self._record(
            KIND,
            {
                "op": op,
                "id": command_id,
                "state": str(State.REFUSED),
                "reason": reason,
                "result": None,
                "withheld": withheld,
            },
        )

    def _publish_state(self, entry: Entry) -> None:
        document = message.state_document(
            entry.op, entry.id, entry.state, entry.reason, _loaded(entry.result), entry.changed_ns
        )
        self._publish(self._topics.command(entry.op, entry.id), document)


def _loaded(text: str | None) -> Any:  # noqa: ANN401  JSON of our own
    return None if text is None else json.loads(text)
