"""The connection to the broker: made, served, made again when it breaks; messages in, acknowledgements out.

Every method is for one thread; paho's callbacks run in it too, within ``serve``. The session is clean and
ends with the connection: what a broker has not delivered, its device still has.
"""

from __future__ import annotations

import random
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, MQTTMessageInfo
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from plugmeter.controller.arrivals import printable
from plugmeter.controller.broker import BrokerSettings
from plugmeter.controller.subscribing import Plan, Step
from plugmeter.telemetry import acks, envelope, ranges
from plugmeter.telemetry.ranges import Ranges
from plugmeter.telemetry.topics import Topics, every_device, parse

RECEIVE_MAXIMUM: Final = 50
"""Messages of QoS 1 that the broker may send before we have confirmed the first of them."""

_PACKET_LIMIT_BYTES: Final = envelope.BATCH_LIMIT_BYTES + 65_536
_CONNACK_S: Final = 10.0
_RETRY_S: Final = (0.5, 30.0)
_REFUSED_S: Final = 10.0
"""Not sooner is tried again what a broker refused: it will hardly have changed its mind."""
_TAKEN_OVER: Final = 0x8E
_SHORT_LIFE_S: Final = 5.0
"""Two connections in a row that broke so soon: somebody else may have our name. (mosquitto 2.0.11 throws a
client out for another of its name without a DISCONNECT that would say so.)"""
_SETTLED_S: Final = 0.05
"""When a broker has answered a SUBSCRIBE and nothing came for so long, all has come that was retained."""
_ANSWER_LOST_S: Final = 2.0
"""Its answer itself may be dropped behind a flood: so long after the last of that it will not come."""


class Connection:
    """One at a time, and none while it waits to try again."""

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        client_id: str,
        share: str | None,
        tell: Callable[[str], None],
        known: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """``known`` gives the names of the devices of before."""
        self.state = "connecting"
        """connecting, connected, waiting or stopped."""
        self.since_ms = _now_ms()
        self.reason = ""
        """Why it is not connected, or what is wrong although it is; empty if nothing."""
        self.counters = dict.fromkeys(("connects", "acks", "ack_refusals"), 0)
        self._settings = settings
        self._client_id = client_id
        records = every_device("records")
        self._records = f"$share/{share}/{records}" if share else records
        self._known = known
        self._tell = tell
        self._client: Client | None = None
        self._connected = False
        self._connected_at = 0.0
        self._connack_by = 0.0
        self._attempt_at = 0.0
        self._pause_s = 0.0
        self._short_lives = 0
        self._leaving = False
        self._plan: Plan | None = None
        self._steps: Iterator[Step] = iter(())
        self._step: Step | None = None
        self._step_mid: int | None = None
        """Of the SUBSCRIBE that has no answer yet."""
        self._step_at = 0.0
        self._step_heard = False
        """Whether anything came since it was sent."""
        self._read: list[MQTTMessage] = []
        self._unconfirmed: list[tuple[int, int]] = []
        self._last_ack: MQTTMessageInfo | None = None
        self._unsent: dict[str, dict[str, Ranges]] = {}

    @property
    def unconfirmed(self) -> int:
        """Messages of QoS 1 that were read on this connection and not confirmed yet."""
        return len(self._unconfirmed)

    @property
    def flooded(self) -> bool:
        """Whether all retained messages of a kind are coming: who does not read them now may lose some."""
        return self._step is not None and self._step.floods

    @property
    def owes(self) -> bool:
        """Whether the broker may still lack an acknowledgement of ours."""
        # It answers in order: when the last one is there, all are.
        ack = self._last_ack
        return ack is not None and ack.rc == MQTTErrorCode.MQTT_ERR_SUCCESS and not ack.is_published()

    # -- being driven -----------------------------------------------------------------------------

    def attempt(self, now: float) -> None:
        """Begin to connect, if it is time to."""
        if self._client is None and now >= self._attempt_at:
            self._connect()

    def patience_s(self, now: float) -> float | None:
        """How long there is nothing to do while there is no connection; None while there is one."""
        if self._client is None:
            return max(0.0, self._attempt_at - now)
        return None if self._step is None else _SETTLED_S

    def wait(self, patience_s: float, wakeup: int | None) -> bool:
        """Until there is something to read or write, or ``wakeup`` is readable. Whether it was before
        ``patience_s`` were over."""
        poller = select.poll()
        if wakeup is not None:
            poller.register(wakeup, select.POLLIN)
        connection = self._client.socket() if self._client else None
        if connection is not None and self._client is not None:
            poller.register(connection, select.POLLIN | (select.POLLOUT if self._client.want_write() else 0))
            if isinstance(connection, ssl.SSLSocket) and connection.pending():
                patience_s = 0.0
        return bool(poller.poll(patience_s * 1_000))

    def serve(self, wanted: Callable[[], bool], take: Callable[[str, bytes, bool], None]) -> None:
        """Read and write as far as it goes without waiting, while more is ``wanted``.

        ``take`` is called with each message: topic (empty where it is no text), payload, retained.
        """
        client = self._client
        if client is None:
            return
        if client.want_write():
            client.loop_write()
        while client is self._client and wanted() and _readable(client.socket()):
            if client.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                break
            self._hand_over(take)
        if client is self._client:
            client.loop_misc()
        self._hand_over(take)
        now = time.monotonic()
        if self._client is not None and not self._connected and now > self._connack_by:
            self._lost("the broker does not answer", 0.0)
        self._subscribe(now)

    def _hand_over(self, take: Callable[[str, bytes, bool], None]) -> None:
        read, self._read = self._read, []
        if read and self._step is not None:
            self._step_at = time.monotonic()
            self._step_heard = True
        for message in read:
            try:
                topic = message.topic
            except UnicodeDecodeError:
                topic = ""
            if self._plan is not None and (place := parse(topic)) is not None:
                self._plan.heard(place.device, place.kind)
            take(topic, bytes(message.payload), message.retain)

    # -- what is said to the broker ---------------------------------------------------------------

    def confirm(self) -> None:
        """PUBACK all that was read: the broker may send more."""
        unconfirmed, self._unconfirmed = self._unconfirmed, []
        client = self._client
        if client is None or not self._connected:
            return
        for mid, qos in unconfirmed:
            if client is not self._client:
                return  # it broke as we wrote; on another connection these numbers mean nothing
            client.ack(mid, qos)

    def acknowledge(self, device: str, stream: str, held: Ranges) -> None:
        """Tell a device what is committed."""
        client = self._client
        if client is None or not self._connected:
            # After the next connection; what is lost here, the device sends again and is told then.
            streams = self._unsent.setdefault(device, {})
            streams[stream] = ranges.merge(streams.get(stream, ()), held)[: acks.RANGES_LIMIT]
            return
        for start in range(0, len(held), acks.RANGES_LIMIT):
            payload = acks.encode(stream, held[start : start + acks.RANGES_LIMIT])
            self._last_ack = client.publish(Topics(device).acks, payload, qos=1)
            self.counters["acks"] += 1

    def leave(self, deadline: float) -> None:
        """Say goodbye; until ``deadline`` (monotonic seconds) at most."""
        client = self._client
        if client is None or not self._connected:
            return
        self._leaving = True
        client.disconnect()
        while client is self._client and client.want_write() and time.monotonic() < deadline:
            client.loop_write()

    def renew(self, why: str) -> None:
        """Connect anew, and so be told again what the broker keeps."""
        if self._client is not None and self._connected:
            self._lost(why, 0.0)

    def end(self) -> None:
        """Drop what there is, for good."""
        self._drop()
        self._change("stopped", "")

    # -- making it --------------------------------------------------------------------------------

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
        client.on_unsubscribe = self._on_unsubscribe
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
        if reason != self.reason or self.state == "connected":
            self._tell(f"no connection to {self._settings.name}: {reason}; trying again")
        self._change("waiting", reason)

    def _drop(self) -> None:
        client, self._client = self._client, None
        self._connected = False
        self._plan = self._step = self._step_mid = None
        self._last_ack = None
        self._unconfirmed.clear()  # these numbers meant something on that connection only
        connection = client.socket() if client is not None else None
        if connection is not None:
            connection.close()

    def _change(self, state: str, reason: str) -> None:
        if state != self.state:
            self.since_ms = _now_ms()
        self.state = state
        self.reason = reason

    # -- subscribing, a step at a time ------------------------------------------------------------

    def _subscribe(self, now: float) -> None:
        """Take the next step if the one before is over."""
        step = self._step
        if step is None or self._client is None:
            return
        quiet_s = now - self._step_at
        if self._step_mid is None:
            # A broker may answer before it has sent all: see that nothing more comes. What is asked for
            # by name is confirmed before there is more of it: that too could be more than a queue holds.
            if quiet_s >= _SETTLED_S if step.floods else (step.needed or not self._unconfirmed):
                self._next_step()
        elif step.floods and self._step_heard and quiet_s >= _ANSWER_LOST_S:
            self._next_step()
        elif quiet_s >= _CONNACK_S:
            self._lost("the broker does not answer", 0.0)

    def _next_step(self) -> None:
        client = self._client
        if client is None:
            return
        self._step = step = next(self._steps, None)
        self._step_at = time.monotonic()
        self._step_heard = False
        if step is None:
            self._plan = None
            self._pause_s = 0.0
            self._tell(f"connected to {self._settings.name} as {self._client_id}")
            self._change("connected", "")
        elif step.away:
            _, self._step_mid = client.unsubscribe(list(step.filters))
        else:
            options = SubscribeOptions(qos=step.qos, retainHandling=0 if step.retained else 2)
            _, self._step_mid = client.subscribe([(each, options) for each in step.filters])

    # -- paho's callbacks -------------------------------------------------------------------------

    def _on_message(self, client: Client, userdata: object, message: MQTTMessage) -> None:
        self._read.append(message)
        if message.qos:
            self._unconfirmed.append((message.mid, message.qos))

    def _on_connect(
        self, client: Client, userdata: object, flags: ConnectFlags, code: ReasonCode, properties: object
    ) -> None:
        if code.is_failure:
            self._lost(f"the broker refuses: {_words(code)}", _REFUSED_S)
            return
        self._connected = True
        self._connected_at = time.monotonic()
        self.counters["connects"] += 1
        self._plan = Plan(self._records, self._known())
        self._steps = self._plan.steps()
        self._next_step()
        unsent, self._unsent = self._unsent, {}
        for device, streams in unsent.items():
            for stream, held in streams.items():
                self.acknowledge(device, stream, held)

    def _on_subscribe(
        self, client: Client, userdata: object, mid: int, codes: list[ReasonCode], properties: object
    ) -> None:
        if client is not self._client or mid != self._step_mid:
            return
        self._step_mid = None
        self._step_at = time.monotonic()
        step = self._step
        if step is None or not step.needed:
            return
        refused = [(each, code) for each, code in zip(step.filters, codes, strict=False) if code.is_failure]
        if refused:
            each, code = refused[0]
            self._lost(f"the broker does not let us subscribe to {each}: {_words(code)}", _REFUSED_S)

    def _on_unsubscribe(
        self, client: Client, userdata: object, mid: int, codes: list[ReasonCode], properties: object
    ) -> None:
        if client is self._client and mid == self._step_mid:
            self._step_mid = None
            self._step_at = time.monotonic()

    def _on_publish(
        self, client: Client, userdata: object, mid: int, code: ReasonCode, properties: object
    ) -> None:
        if code.is_failure:
            if not self.counters["ack_refusals"]:
                self._tell(f"{self._settings.name}: acknowledgements are refused: {_words(code)}")
            self.counters["ack_refusals"] += 1

    def _on_disconnect(
        self, client: Client, userdata: object, flags: DisconnectFlags, code: ReasonCode, properties: object
    ) -> None:
        if client is not self._client:
            return
        if self._leaving and not code.is_failure:
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
