"""How commands are answered: the state at the broker, and a record of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from plugmeter.moments import NS
from plugmeter.telemetry.commands import message
from plugmeter.telemetry.commands.journal import Entry, Journal
from plugmeter.telemetry.commands.message import Address, Refusal, State
from plugmeter.telemetry.topics import Topics

KIND: Final = "command"
Publish: TypeAlias = Callable[[str, bytes, int | None], None]
"""(topic, payload, seconds): retained, and forgotten by the broker after so long (None: never)."""
REASON_LIMIT: Final = 2_000
KEPT_S: Final = 7 * 86_400
"""So long after its command has expired the broker forgets an answer that nobody has cleared."""
REFUSAL_KEPT_S: Final = 86_400


class Answers:
    """Thread-safe. The last state that is published of a command is its last state, whoever publishes."""

    def __init__(
        self,
        journal: Journal,
        topics: Topics,
        publish: Publish,
        record: Callable[[str, Mapping[str, Any]], None],
        now_ns: Callable[[], int],
    ) -> None:
        self._journal = journal
        self._topics = topics
        self._publish = publish
        self._record = record
        self._now_ns = now_ns
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

    def clear(self, topic: str) -> None:
        """Take away an answer that the broker has kept, of an id that the journal has forgotten."""
        with self._lock:
            self._publish(topic, b"", None)

    def refuse(self, where: Address, refusal: Refusal, withheld: int) -> None:
        """That a message has no effect. ``withheld``: how many before it were not answered nor recorded."""
        reason = refusal.reason[:REASON_LIMIT]
        self._record_refusal(where.op[:64], where.id[:64], reason, withheld)
        if where.topic:
            document = message.state_document(where.op, where.id, State.REFUSED, reason, None, self._now_ns())
            self._publish(where.topic, document, REFUSAL_KEPT_S)

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
        left_ns = min(max(0, entry.expires_ns - self._now_ns()), message.LONGEST_VALIDITY_NS)
        self._publish(self._topics.command(entry.op, entry.id), document, left_ns // NS + KEPT_S)


def _loaded(text: str | None) -> Any:  # noqa: ANN401  JSON of our own
    return None if text is None else json.loads(text)
