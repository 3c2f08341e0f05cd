"""The receiver: reads what devices send, commits it in groups, and only then acknowledges it.

One thread does all of it, one step after the other:

    read -> gather (some 100 ms, 1,000 records) -> one transaction -> PUBACK and the message on the ack topic

So what waits in memory is bounded by the Receive Maximum that we give the broker: without our PUBACKs it
sends no more. Where records are kept for some time only, each turn ends with deleting a few that are older.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from plugmeter.controller.broker import BrokerSettings
from plugmeter.controller.connection import RECEIVE_MAXIMUM, Connection
from plugmeter.controller.gathering import LINGER_S, Gathering
from plugmeter.controller.retention import Retention
from plugmeter.controller.store import Store, StoreTrouble
from plugmeter.progress import Progress
from plugmeter.wakeup import Wakeup

_PATIENCE_S: Final = 0.5
_DRAIN_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class ReceiverStatus:
    """How the receiver is doing; for the page."""

    state: str
    """connecting, connected, waiting or stopped."""
    broker: str
    since_ms: int
    reason: str
    """Why it is not connected, or what is wrong although it is; empty if nothing."""
    trouble: str
    """Why the database cannot be written; empty if it can."""
    counters: Mapping[str, int] = field(default_factory=dict)


class Receiver:
    """``start``, then ``stop``: it commits what it has, acknowledges it and ends."""

    def __init__(
        self,
        settings: BrokerSettings,
        store: Store,
        *,
        client_id: str,
        share: str | None,
        tell: Callable[[str], None],
        linger_s: float = LINGER_S,
        keep_days: int | None = None,
    ) -> None:
        self.progress = Progress("receiver")
        self._broker = settings.name
        self._tell = tell
        self._store = store
        self._connection = Connection(
            settings, client_id=client_id, share=share, tell=tell, known=self._known
        )
        self._gathering = Gathering(store, tell, linger_s)
        self._retention = Retention(store, keep_days, tell) if keep_days is not None else None
        self._wakeup = Wakeup()
        self._stopping = False
        self._thread = threading.Thread(target=self._main, name="receiver", daemon=True)
        self._failure: BaseException | None = None

    # -- for other threads ------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def stop(self, timeout_s: float = 30.0) -> bool:
        """Commit what was read, acknowledge it, disconnect. False where that took too long."""
        self._stopping = True
        self._wakeup.wake()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def failure(self) -> BaseException | None:
        """The defect that ended it, if one did."""
        return self._failure

    def status(self) -> ReceiverStatus:
        """A snapshot."""
        connection, gathering, retention = self._connection, self._gathering, self._retention
        return ReceiverStatus(
            connection.state,
            self._broker,
            connection.since_ms,
            connection.reason,
            gathering.trouble,
            {**gathering.counters, **connection.counters, **(retention.counters if retention else {})},
        )

    # -- the thread -------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            while not self._stopping:
                self._turn()
            self._drain()
        except BaseException as failure:  # whoever supervises us ends the process with it
            self._failure = failure
            raise
        finally:
            self._connection.end()
            self._wakeup.close()

    def _turn(self) -> None:
        self._connection.attempt(time.monotonic())
        ready = self._connection.wait(self._patience_s(time.monotonic()), self._wakeup.fileno())
        self.progress.woke(ready or bool(self._gathering))
        self._serve()
        now = time.monotonic()
        full = self._connection.unconfirmed >= RECEIVE_MAXIMUM
        hurry = self._connection.flooded and self._gathering.wants_more()
        if not hurry and self._gathering.due(now, full=full):
            self._commit(now)
        if self._retention is not None and not self._gathering.trouble:
            self._retention.turn(time.monotonic(), time.time_ns() // 1_000_000)

    def _patience_s(self, now: float) -> float:
        """How long there is certainly nothing to do unless something is read."""
        known = [self._connection.patience_s(now), self._gathering.patience_s(now)]
        if self._retention is not None and not self._gathering.trouble:
            known.append(self._retention.patience_s(now))
        return min([_PATIENCE_S, *(each for each in known if each is not None)])

    def _serve(self) -> None:
        self._connection.serve(self._gathering.wants_more, self._gathering.take)

    def _commit(self, now: float) -> bool:
        booked = self._gathering.commit(now)
        if booked is None:
            return False
        self._connection.confirm()
        for device, streams in booked.acknowledge.items():
            for stream, held in streams.items():
                self._connection.acknowledge(device, stream, held)
        if self._gathering.missed() and not self._stopping:
            self._connection.renew("documents were dropped while the database could not be written")
        return True

    def _known(self) -> list[str]:
        """The names of all devices; none while they cannot be read."""
        try:
            with self._store.reading() as session:
                return [str(name) for (name,) in session.rows("SELECT name FROM device")]
        except StoreTrouble as trouble:
            self._tell(f"{trouble}; devices that the broker does not tell of are not asked for")
            return []

    def _drain(self) -> None:
        """Commit what is read and see its acknowledgements off; bounded."""
        deadline = time.monotonic() + _DRAIN_S
        while self._gathering and time.monotonic() < deadline and not self._commit(time.monotonic()):
            time.sleep(0.2)
        if self._gathering:
            self._tell(
                f"{self._gathering.events} records could not be committed; their devices still have them"
            )
        while self._connection.owes and time.monotonic() < deadline:
            self._connection.wait(0.05, None)
            self._serve()
        self._connection.leave(deadline)
