"""paho-mqtt, one client object for one connection, reduced to calls and values.

Nothing of ours runs inside of paho: its callbacks only note what happened, as values for the caller to take
afterwards. So no exception of ours can end its loop, and no lock of it is held while records are read or
written. What paho does on its own is left out: its thread, its reconnecting (it forgets the window there) and
its memory of messages, which ends with the object.

Two of its methods are its own affair and used nevertheless, as no public ones do the same:
``_create_socket`` (to hand it a socket that is connected already, so that connecting cannot block) and
``_send_pingreq`` (to ask the broker for a sign of life at an interval that changes while connected).
test_client.py notices if they go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from plugmeter.telemetry.wire import MESSAGE_LIMIT_BYTES, Wire

if TYPE_CHECKING:
    from paho.mqtt.client import SocketLike
    from paho.mqtt.reasoncodes import ReasonCode

RECEIVE_MAXIMUM: Final = 20
"""Messages with QoS 1 that the broker may have under way to us."""
_READS_IN_A_TURN: Final = 64
_UNWRITTEN_LIMIT: Final = 1_000


@dataclass(frozen=True, slots=True)
class Opening:
    """What CONNECT says. ``keepalive_s`` is the longest silence that the broker has to bear with."""

    client_id: str
    keepalive_s: int
    will_topic: str
    will: bytes
    username: str = ""
    password: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Connected:
    """CONNACK 0, with the broker's limits."""

    receive_maximum: int
    most_bytes: int
    keepalive_s: float | None
    """Server Keep Alive; None if it takes ours."""


@dataclass(frozen=True, slots=True)
class Refused:
    """CONNACK with another reason code."""

    code: int


@dataclass(frozen=True, slots=True)
class Subscribed:
    """SUBACK, a reason code for each filter."""

    mid: int
    codes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Answered:
    """PUBACK."""

    mid: int
    code: int


@dataclass(frozen=True, slots=True)
class Arrived:
    """PUBLISH. ``topic`` is None if it was not UTF-8."""

    topic: str | None
    payload: bytes
    retain: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """The connection is over; ``code`` if the broker said why (DISCONNECT)."""

    code: int | None


Event = Connected | Refused | Subscribed | Answered | Arrived | Ended


class _Client(paho.Client):
    """paho's client on a socket that exists already."""

    def __init__(self, wire: Wire, client_id: str) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=paho.MQTTv5,
            reconnect_on_failure=False,
        )
        self._wire = wire

    def _create_socket(self) -> SocketLike:
        return self._wire

    def ping(self) -> None:
        self._send_pingreq()


class Session:
    """One connection, from CONNECT to its end. All calls from one thread; take ``events`` after each.

    What arrives malformed makes paho raise whatever it likes (struct.error, KeyError ...): the caller
    guards ``read``, and ends the session then.
    """

    def __init__(self, wire: Wire, opening: Opening) -> None:
        self.wire = wire
        self.events: deque[Event] = deque()
        self._over = False
        self._unwritten = 0
        client = self._client = _Client(wire, opening.client_id)
        if opening.username:
            # A password is bytes (MQTT 5, 3.1.3.6). paho takes them, only its annotation does not.
            client.username_pw_set(opening.username, cast("str | None", opening.password or None))
        client.will_set(opening.will_topic, opening.will, qos=1, retain=True)
        client.max_inflight_messages_set(0)  # the window is ours
        client.on_connect = self._on_connect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's
        properties.SessionExpiryInterval = 0
        properties.ReceiveMaximum = RECEIVE_MAXIMUM
        properties.MaximumPacketSize = MESSAGE_LIMIT_BYTES
        client.connect(
            "broker", 1, opening.keepalive_s, clean_start=True, properties=properties
        )  # host and port are for _create_socket only

    def fileno(self) -> int:
        return self.wire.fileno()

    @property
    def over(self) -> bool:
        return self._over or self._client.socket() is None

    @property
    def wants_write(self) -> bool:
        return self._client.want_write() and not self.wire.write_waits_for_read

    @property
    def wants_read(self) -> bool:
        """Not while a broker sends and sends, but does not take our PUBACKs: they would pile up here."""
        return self._unwritten < _UNWRITTEN_LIMIT

    def read(self) -> None:
        """Take in what has arrived, up to a bound."""
        self.wire.dry = False
        for _ in range(_READS_IN_A_TURN):
            if self.over or self.wire.dry or not self.wants_read:
                break
            self._client.loop_read()
        if not self._client.want_write():
            self._unwritten = 0

    @property
    def more_to_read(self) -> bool:
        """There may be more that no selector tells of: it lies in a buffer."""
        return not self.over and not self.wire.dry and self.wants_read

    def write(self) -> None:
        self._client.loop_write()
        if not self._client.want_write():
            self._unwritten = 0

    def publish(
        self, topic: str, payload: bytes, *, retain: bool, qos: int = 1, keep_s: int | None = None
    ) -> int | None:
        """The packet identifier; None if the connection is over. ``keep_s``: the Message Expiry Interval."""
        properties = None
        if keep_s is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho's
            properties.MessageExpiryInterval = keep_s
        info = self._client.publish(topic, payload, qos=qos, retain=retain, properties=properties)
        return info.mid if info.rc == paho.MQTT_ERR_SUCCESS and not self.over else None

    def subscribe(self, filters: Sequence[str]) -> int | None:
        """With QoS 1. The packet identifier; None if the connection is over."""
        code, mid = self._client.subscribe([(each, 1) for each in filters])
        return mid if code == paho.MQTT_ERR_SUCCESS and not self.over else None

    def ping(self) -> None:
        self._client.ping()

    def disconnect(self) -> None:
        """Say goodbye: the broker drops the last will. Then ``discard`` until it has closed, and ``close``.

        Closing at once with something unread would send an RST, and a broker that sees it before it has read
        the DISCONNECT publishes the last will after all (RFC 2525, 2.17).
        """
        self.wire.hold = True
        self._client.disconnect()

    def discard(self) -> bool:
        """After ``disconnect``: whether the broker has closed its side."""
        return self.wire.discard()

    def close(self) -> None:
        """Without a word: the broker publishes the last will."""
        self.wire.hold = False
        self.wire.close()
        self._over = True

    # --- paho's callbacks: note it, no more ----------------------------------------------------------

    def _on_connect(
        self,
        client: paho.Client,
        userdata: object,
        flags: object,
        code: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if code.value != 0:
            self.events.append(Refused(code.value))
            return
        told = properties.json() if properties is not None else {}  # type: ignore[no-untyped-call]  # paho's
        keepalive = told.get("ServerKeepAlive")
        self.events.append(
            Connected(
                receive_maximum=int(told.get("ReceiveMaximum", 65_535)),
                most_bytes=int(told.get("MaximumPacketSize", 268_435_455)),
                keepalive_s=float(keepalive) if keepalive else None,
            )
        )

    def _on_publish(
        self, client: paho.Client, userdata: object, mid: int, code: ReasonCode, properties: Properties | None
    ) -> None:
        self.events.append(Answered(mid, code.value))

    def _on_subscribe(
        self, client: paho.Client, userdata: object, mid: int, codes: list[ReasonCode], properties: object
    ) -> None:
        self.events.append(Subscribed(mid, tuple(each.value for each in codes)))

    def _on_message(self, client: paho.Client, userdata: object, message: paho.MQTTMessage) -> None:
        self._unwritten += message.qos > 0
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = None
        self.events.append(Arrived(topic, bytes(message.payload), bool(message.retain)))

    def _on_disconnect(
        self,
        client: paho.Client,
        userdata: object,
        flags: paho.DisconnectFlags,
        code: ReasonCode,
        properties: object,
    ) -> None:
        self._over = True
        self.events.append(Ended(code.value if flags.is_disconnect_packet_from_server else None))
