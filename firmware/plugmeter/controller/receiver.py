"""The receiver: reads what devices send, commits it in groups, and only then acknowledges it.

One thread does all of it, one step after the other:

    read -> gather (some 100 ms, 1,000 records) -> one transaction -> PUBACK and the message on the ack topic

So what waits in memory is bounded by the Receive Maximum that we give the broker: without our PUBACKs it
sends no more. When the database fails, what was read is kept and tried again, and nothing is acknowledged.
The session is clean and ends with the connection: what a broker has not delivered, its device still has.
"""

from __future__ import annotations

import random
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, MQTTMessageInfo
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from plugmeter.controller.arrivals import Arrivals, printable
from plugmeter.controller.booking import Booked, book
from plugmeter.controller.broker import BrokerSettings
from plugmeter.controller.store import Store, StoreTrouble
from plugmeter.progress import Progress
from plugmeter.telemetry import acks, envelope, ranges
from plugmeter.telemetry.ranges import Ranges
from plugmeter.telemetry.topics import Topics, every_device
from plugmeter.wakeup import Wakeup

GROUP_EVENTS: Final = 1_000
"""So many are enough for a commit. A device has 20 messages of 100 records under way as a rule, and waits
then: one that waited for all of them would be idle while the device is not, and the other way round."""
MOST_EVENTS: Final = 5_000
"""While the database is in trouble: beyond this, what its sender does not keep (QoS 0) is dropped."""
MOST_BYTES: Final = 8 << 20
LINGER_S: Final = 0.1
"""So long a message waits for others at most before it is committed."""
QUIET_S: Final = 0.01
"""When nothing came for so long, nothing is waited for."""
RECEIVE_MAXIMUM: Final = 50
"""Messages of QoS 1 that the broker may send before we have committed the first of them."""

_PACKET_LIMIT_BYTES: Final = envelope.BATCH_LIMIT_BYTES + 65_536
_CONNACK_S: Final = 10.0
_RETRY_S: Final = (0.5, 30.0)
_REFUSED_S: Final = 10.0
"""Not sooner is tried again what a broker refused: it will hardly have changed its mind."""
_DRAIN_S: Final = 5.0
_TAKEN_OVER: Final = 0x8E
_SHORT_LIFE_S: Final = 5.0
"""Two connections in a row that broke so soon: somebody else may have our name. (mosquitto 2.0.11 throws a
client out for another of its name without a DISCONNECT that would say so.)"""
_KINDS: Final = ("status", "meta", "summary", "reported", "cmd")


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
    ) -> None:
        self.progress = Progress("receiver")
        self._settings = settings
        self._store = store
        self._client_id = client_id
        self._share = share
        self._tell = tell
        self._linger_s = linger_s
        self._wakeup = Wakeup()
        self._stopping = False
        self._thread = threading.Thread(target=self._main, name="receiver", daemon=True)
        self._failure: BaseException | None = None
        self._client: Client | None = None
        self._state = "connecting"
        self._since_ms = _now_ms()
        self._reason = ""
        self._trouble = ""
        self._counters = dict.fromkeys(
            (
                "messages", "records", "duplicates", "conflicts", "refused", "tombstones", "problems",
                "strangers", "commits", "commit_failures", "acks", "ack_refusals", "dropped", "connects",
            ),
            0,
        )  # fmt: skip
        self._pause_s = 0.0
        self._attempt_at = 0.0
        self._connack_by = 0.0
        self._connected = False
        self._connected_at = 0.0
        self._short_lives = 0
        self._read: list[MQTTMessage] = []
        self._arrivals = Arrivals()
        self._unacked: list[tuple[int, int]] = []
        self._gathering_since = 0.0
        self._last_read = 0.0
        self._commit_after = 0.0
        self._commit_pause_s = 0.0
        self._last_ack: MQTTMessageInfo | None = None
        self._unsent: dict[str, dict[str, Ranges]] = {}

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
        return ReceiverStatus(
            self._state,
            self._settings.name,
            self._since_ms,
            self._reason,
            self._trouble,
            dict(self._counters),
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
            self._drop()
            self._change("stopped", "")
            self._wakeup.close()

    def _turn(self) -> None:
        now = time.monotonic()
        if self._client is None and now >= self._attempt_at:
            self._connect()
        self._wait(self._patience_s(time.monotonic()))
        if self._client is not None:
            self._serve(self._client)
        now = time.monotonic()
        if self._client is not None and not self._connected and now > self._connack_by:
            self._lost("the broker does not answer", 0.0)
        if self._due(now):
            self._commit(now)

    def _patience_s(self, now: float) -> float:
        """How long there is certainly nothing to do unless something is read."""
        until = now + 0.5
        if self._client is None:
            until = min(until, self._attempt_at)
        if self._arrivals:
            until = min(until, max(self._commit_after, min(self._gathering_since + self._linger_s,
                                                           self._last_read + QUIET_S)))  # fmt: skip
        return max(0.0, until - now)

    def _wait(self, patience_s: float) -> None:
        poller = select.poll()
        poller.register(self._wakeup, select.POLLIN)
        connection = self._client.socket() if self._client else None
        if connection is not None and self._client is not None:
            poller.register(connection, select.POLLIN | (select.POLLOUT if self._client.want_write() else 0))
            if isinstance(connection, ssl.SSLSocket) and connection.pending():
                patience_s = 0.0
        ready = poller.poll(patience_s * 1_000)
        self.progress.woke(bool(ready) or bool(self._arrivals))

    def _serve(self, client: Client) -> None:
        """Read and write as far as it goes without waiting, up to one group's worth."""
        if client.want_write():
            client.loop_write()
        while (
            client is self._client
            and self._may_read()
            and not self._has_a_group()
            and _readable(client.socket())
        ):
            if client.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                break
            self._take()
        if client is self._client:
            client.loop_misc()
        self._take()

    def _may_read(self) -> bool:
        # While the database is in trouble the broker's pings must be read all the same.
        return self._room() or bool(self._trouble)

    def _has_a_group(self) -> bool:
        return not self._trouble and self._arrivals.events >= GROUP_EVENTS

    def _room(self) -> bool:
        return self._arrivals.events < MOST_EVENTS and self._arrivals.payload_bytes < MOST_BYTES

    def _take(self) -> None:
        """Sort what paho has read."""
        read, self._read = self._read, []
        for message in read:
            now = time.monotonic()
            if not self._arrivals:
                self._gathering_since = now
            self._last_read = now
            self._counters["messages"] += 1
            if message.qos:
                self._unacked.append((message.mid, message.qos))
            if self._trouble and not self._room():
                self._counters["dropped"] += 1  # not acknowledged: its device still has it
                continue
            try:
                topic = message.topic
            except UnicodeDecodeError:
                topic = ""
            self._arrivals.add(topic, bytes(message.payload), retained=message.retain, now_ms=_now_ms())

    # -- committing -------------------------------------------------------------------------------

    def _due(self, now: float) -> bool:
        if not self._arrivals or now < self._commit_after:
            return False
        return (
            not self._room()
            or self._has_a_group()
            or len(self._unacked) >= RECEIVE_MAXIMUM
            or now >= self._gathering_since + self._linger_s
            or now >= self._last_read + QUIET_S
        )

    def _commit(self, now: float) -> bool:
        try:
            booked = book(self._store, self._arrivals, _now_ms())
        except StoreTrouble as trouble:
            self._counters["commit_failures"] += 1
            if str(trouble) != self._trouble:
                self._tell(f"{trouble}; nothing is acknowledged until it can be written again")
                self._trouble = str(trouble)
            self._commit_pause_s = min(max(0.2, 2 * self._commit_pause_s), 5.0)
            self._commit_after = now + self._commit_pause_s
            return False
        if self._trouble:
            self._tell(f"database {self._store.name} can be written again")
        self._trouble = ""
        self._commit_pause_s = self._commit_after = 0.0
        self._count(booked)
        self._arrivals = Arrivals()
        unacked, self._unacked = self._unacked, []
        if self._client is not None and self._connected:
            for mid, qos in unacked:
                self._client.ack(mid, qos)
        for device, streams in booked.acknowledge.items():
            for stream, held in streams.items():
                self._acknowledge(device, stream, held)
        return True

    def _count(self, booked: Booked) -> None:
        counters = self._counters
        counters["commits"] += 1
        counters["strangers"] += self._arrivals.strangers
        for name in ("records", "duplicates", "conflicts", "refused", "tombstones", "problems"):
            counters[name] += getattr(booked, name)

    def _acknowledge(self, device: str, stream: str, held: Ranges) -> None:
        client = self._client
        if client is None or not self._connected:
            # After the next connection; what is lost here, the device sends again and is told then.
            streams = self._unsent.setdefault(device, {})
            streams[stream] = ranges.merge(streams.get(stream, ()), held)[: acks.RANGES_LIMIT]
            return
        for start in range(0, len(held), acks.RANGES_LIMIT):
            payload = acks.encode(stream, held[start : start + acks.RANGES_LIMIT])
            self._last_ack = client.publish(Topics(device).acks, payload, qos=1)
            self._counters["acks"] += 1

    # -- the connection ---------------------------------------------------------------------------

    def _connect(self) -> None:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho gives it no types
        properties.ReceiveMaximum = RECEIVE_MAXIMUM
        properties.MaximumPacketSize = _PACKET_LIMIT_BYTES
        properties.SessionExpiryInterval = 0
        client = self._settings.client(self._client_id, manual_ack=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        self._connected = False
        try:
            client.connect(
                self._settings.host, self._settings.port, self._settings.keepalive_s,
                clean_start=True, properties=properties,
            )  # fmt: skip
        except (OSError, ValueError) as error:  # ValueError: a host name that cannot be one (idna)
            self._short_lives = 0  # nobody is there at all
            self._lost(_reason(error), 0.0)
            return
        self._client = client
        self._connack_by = time.monotonic() + _CONNACK_S
        connection = client.socket()
        if isinstance(connection, socket.socket):
            connection.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 2_000 * self._settings.keepalive_s
            )

    def _lost(self, reason: str, least_s: float) -> None:
        """There is no connection; say why, once, and when to try again: backoff with decorrelated jitter."""
        self._drop()
        low, high = _RETRY_S
        self._pause_s = min(high, random.uniform(low, max(low, 3 * self._pause_s)))
        pause_s = max(least_s, self._pause_s)
        self._attempt_at = time.monotonic() + pause_s
        if reason != self._reason or self._state == "connected":
            self._tell(f"no connection to {self._settings.name}: {reason}; trying again")
        self._change("waiting", reason)

    def _drop(self) -> None:
        client, self._client = self._client, None
        self._connected = False
        self._last_ack = None
        self._unacked.clear()  # these numbers meant something on that connection only
        connection = client.socket() if client is not None else None
        if connection is not None:
            connection.close()

    def _change(self, state: str, reason: str) -> None:
        if state != self._state:
            self._since_ms = _now_ms()
        self._state = state
        self._reason = reason

    # -- paho's callbacks: they run in our thread, within loop_read and loop_misc -------------------

    def _on_message(self, client: Client, userdata: object, message: MQTTMessage) -> None:
        self._read.append(message)

    def _on_connect(
        self, client: Client, userdata: object, flags: ConnectFlags, code: ReasonCode, properties: object
    ) -> None:
        if code.is_failure:
            self._lost(f"the broker refuses: {_words(code)}", _REFUSED_S)
            return
        self._connected = True
        self._connected_at = time.monotonic()
        self._counters["connects"] += 1
        self._tell(f"connected to {self._settings.name} as {self._client_id}")
        self._change("connected", "")
        records = every_device("records")
        filters = [f"$share/{self._share}/{records}" if self._share else records]
        filters += [every_device(kind) for kind in _KINDS]
        client.subscribe([(each, SubscribeOptions(qos=1)) for each in filters])
        unsent, self._unsent = self._unsent, {}
        for device, streams in unsent.items():
            for stream, held in streams.items():
                self._acknowledge(device, stream, held)

    def _on_subscribe(
        self, client: Client, userdata: object, mid: int, codes: list[ReasonCode], properties: object
    ) -> None:
        refused = [code for code in codes if code.is_failure]
        if refused:
            reason = f"the broker does not let us subscribe: {_words(refused[0])}"
            self._tell(f"{self._settings.name}: {reason}")
            self._reason = reason
        else:
            self._pause_s = 0.0

    def _on_publish(
        self, client: Client, userdata: object, mid: int, code: ReasonCode, properties: object
    ) -> None:
        if code.is_failure:
            if not self._counters["ack_refusals"]:
                self._tell(f"{self._settings.name}: acknowledgements are refused: {_words(code)}")
            self._counters["ack_refusals"] += 1

    def _on_disconnect(
        self, client: Client, userdata: object, flags: DisconnectFlags, code: ReasonCode, properties: object
    ) -> None:
        if client is not self._client:
            return
        if self._stopping and not code.is_failure:
            self._drop()
            return
        short = self._connected and time.monotonic() - self._connected_at < _SHORT_LIFE_S
        self._short_lives = self._short_lives + 1 if short else 0
        twin = f"another client uses the client id {self._client_id}: give each controller a --client-id"
        if code.value == _TAKEN_OVER:
            self._lost(twin, _REFUSED_S)
        elif self._short_lives >= 2:
            self._lost(f"it breaks as soon as it is made; perhaps {twin}", _REFUSED_S)
        else:
            self._lost(f"the connection broke ({_words(code)})", 0.0)

    # -- the end ----------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Commit what is read and see its acknowledgements off; bounded."""
        deadline = time.monotonic() + _DRAIN_S
        while self._arrivals and time.monotonic() < deadline and not self._commit(time.monotonic()):
            time.sleep(0.2)
        if self._arrivals:
            self._tell(
                f"{self._arrivals.events} records could not be committed; their devices still have them"
            )
        client = self._client
        if client is None or not self._connected:
            return
        last = self._last_ack  # the broker answers in order: when this one is there, all are
        while client is self._client and last and not _is_over(last) and time.monotonic() < deadline:
            self._wait(0.05)
            self._serve(client)
        if client is self._client:
            client.disconnect()
            while client is self._client and client.want_write() and time.monotonic() < deadline:
                client.loop_write()


def _is_over(ack: MQTTMessageInfo) -> bool:
    return ack.rc != MQTTErrorCode.MQTT_ERR_SUCCESS or ack.is_published()


def _readable(connection: object) -> bool:
    if not isinstance(connection, socket.socket):
        return False
    if isinstance(connection, ssl.SSLSocket) and connection.pending():
        return True
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    return bool(poller.poll(0))


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not good: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS fails: {printable((error.reason or str(error)).lower().replace('_', ' '), 120)}"
    if isinstance(error, TimeoutError):
        return "nobody answers there"
    if isinstance(error, OSError) and error.strerror:
        return printable(error.strerror.lower(), 120)
    return printable(str(error), 120) or type(error).__name__


def _words(code: ReasonCode) -> str:
    return printable(str(code).lower(), 80)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
