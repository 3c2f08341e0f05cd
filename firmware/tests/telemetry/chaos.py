"""A TCP proxy that does to a connection what networks do, between a client and a real broker.

    with Chaos(broker.port) as chaos:
        connect("127.0.0.1", chaos.port)          # forwards, packet by packet towards the client
        chaos.blackhole()                         # connections of now: nothing gets through, nobody is told
        chaos.blackhole(new_too=True)             # later ones as well, until chaos.heal()
        chaos.half_open()                         # the broker's side is closed, the client is not told
        chaos.reset()                             # RST to the client
        chaos.reset_in_puback(count=3)            # half the bytes of each of the next 3 PUBACKs, then RST
        chaos.rewrite_puback(0x97, count=5)       # reason codes of the next 5 PUBACKs (count=None: all)
        chaos.lose_publishes("/acks", count=2)    # PUBLISHes to the client are lost (the broker is not told)
        chaos.repeat_publishes("/acks", count=2)  # ... arrive twice
        chaos.swap_publishes("/acks", count=2)    # ... are held back until the next one has passed
        chaos.delay(0.2)                          # everything, in both directions
        chaos.refuse()                            # nobody listens; chaos.accept() ends it
        chaos.heal()                              # new connections are forwarded, nothing is rewritten
        chaos.done["reset_in_puback"]             # how often each has happened; chaos.connections: how many

The PUBACK ones take ``topic="/records"``: only for PUBLISHes whose topic ends so. What works on packets needs
plain MQTT; over TLS bytes are forwarded as they come.
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from tests.telemetry.broker import free_port

_FULL_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 16


class Packets:
    """Cuts a stream into MQTT packets."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        self._rest += data
        packets = []
        while (length := _packet_length(self._rest)) is not None and length <= len(self._rest):
            packets.append(bytes(self._rest[:length]))
            del self._rest[:length]
        return packets


def _packet_length(data: bytearray) -> int | None:
    remaining = shift = 0
    for index in range(1, min(len(data), 5)):
        remaining |= (data[index] & 0x7F) << shift
        if not data[index] & 0x80:
            return index + 1 + remaining
        shift += 7
    return None


def _body(packet: bytes) -> bytes:
    index = 1
    while packet[index] & 0x80:
        index += 1
    return packet[index + 1 :]


def published(packet: bytes) -> tuple[str, int] | None:
    """The topic and the packet identifier (0 with QoS 0) of a PUBLISH."""
    if packet[0] & 0xF0 != 0x30:
        return None
    body = _body(packet)
    (length,) = struct.unpack_from("!H", body)
    topic = body[2 : 2 + length].decode(errors="replace")
    return topic, struct.unpack_from("!H", body, 2 + length)[0] if packet[0] & 0x06 else 0


@dataclass
class _Order:
    """What is to happen to the next packets."""

    left: int | None = 0
    topic: str = ""
    code: int = 0

    def takes(self, topic: str) -> bool:
        return self.left != 0 and topic.endswith(self.topic)

    def took(self) -> None:
        if self.left is not None:
            self.left -= 1


@dataclass(eq=False)
class _Way:
    """One direction of a connection: what is still to be written, each with the time it is due."""

    queue: deque[tuple[float, bytes]] = field(default_factory=deque)
    packets: Packets = field(default_factory=Packets)
    over: bool = False


@dataclass(eq=False)
class _Connection:
    client: socket.socket
    broker: socket.socket | None
    up: _Way = field(default_factory=_Way)
    down: _Way = field(default_factory=_Way)
    plain: bool | None = None
    swallow: bool = False
    dead: bool = False
    topics: dict[int, str] = field(default_factory=dict)
    held: bytes | None = None


class Chaos:
    """The proxy: a thread of its own. ``port`` is where clients connect to."""

    def __init__(self, target_port: int, host: str = "127.0.0.1") -> None:
        self._target = (host, target_port)
        self._host = host
        self.port = free_port(host)
        self.done: Counter[str] = Counter()
        self.connections = 0
        self._selector = selectors.DefaultSelector()
        self._listener: socket.socket | None = None
        self._open: list[_Connection] = []
        self._calls: deque[tuple[Callable[[], None], threading.Event]] = deque()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._orders = {
            name: _Order() for name in ("reset_in_puback", "rewrite_puback", "lose", "repeat", "swap")
        }
        self._swallow_new = False
        self._delay_s = 0.0
        self._stopping = False
        self._listen()
        self._thread = threading.Thread(target=self._run, name="chaos", daemon=True)
        self._thread.start()

    def __enter__(self) -> Chaos:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- what can be asked for -----------------------------------------------------------------------

    @property
    def alive(self) -> int:
        """Connections that a client still holds."""
        return len(self._open)

    def blackhole(self, *, new_too: bool = False) -> None:
        def act() -> None:
            self._swallow_new = new_too
            for connection in self._open:
                connection.swallow = True
            self.done["blackhole"] += 1

        self._do(act)

    def half_open(self) -> None:
        def act() -> None:
            for connection in self._open:
                connection.swallow = True
                if connection.broker is not None:
                    self._forget(connection.broker)
                    connection.broker = None
            self.done["half_open"] += 1

        self._do(act)

    def reset(self) -> None:
        def act() -> None:
            for connection in tuple(self._open):
                self._reset(connection)
            self.done["reset"] += 1

        self._do(act)

    def reset_in_puback(self, *, count: int | None = 1, topic: str = "") -> None:
        self._order("reset_in_puback", count, topic)

    def rewrite_puback(self, code: int, *, count: int | None = 1, topic: str = "") -> None:
        self._order("rewrite_puback", count, topic, code)

    def lose_publishes(self, topic: str, *, count: int | None = 1) -> None:
        self._order("lose", count, topic)

    def repeat_publishes(self, topic: str, *, count: int | None = 1) -> None:
        self._order("repeat", count, topic)

    def swap_publishes(self, topic: str, *, count: int | None = 1) -> None:
        self._order("swap", count, topic)

    def delay(self, seconds: float) -> None:
        self._delay_s = seconds

    def refuse(self) -> None:
        def act() -> None:
            if self._listener is not None:
                self._forget(self._listener)
                self._listener = None

        self._do(act)

    def accept(self) -> None:
        def act() -> None:
            if self._listener is None:
                self._listen()

        self._do(act)

    def heal(self) -> None:
        """Forward from now on. Connections that have lost something stay dead: bytes are missing in them."""

        def act() -> None:
            self._swallow_new = False
            self._delay_s = 0.0
            for order in self._orders.values():
                order.left = 0
            if self._listener is None:
                self._listen()

        self._do(act)

    def close(self) -> None:
        self._stopping = True
        try:
            self._wake_write.send(b"x")
        except OSError:
            pass  # something else has woken it: it has seen that it is to end, and closed all
        self._thread.join(10)
        assert not self._thread.is_alive()

    # --- the thread ----------------------------------------------------------------------------------

    def _order(self, name: str, count: int | None, topic: str, code: int = 0) -> None:
        def act() -> None:
            self._orders[name] = _Order(count, topic, code)

        self._do(act)

    def _do(self, call: Callable[[], None]) -> None:
        """Have the thread do it, and wait until it is done."""
        done = threading.Event()
        self._calls.append((call, done))
        self._wake_write.send(b"x")
        assert done.wait(10), "the proxy's thread hangs"

    def _listen(self) -> None:
        listener = socket.socket(socket.AF_INET6 if ":" in self._host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self._host, self.port))
        listener.listen(64)
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        self._listener = listener

    def _run(self) -> None:
        while not self._stopping:
            now = time.monotonic()
            due = [way.queue[0][0] for each in self._open for way in (each.up, each.down) if way.queue]
            timeout = max(0.0, min(due) - now) if due else 1.0
            waiting = min(timeout, 0.05) if due else timeout  # also for a full socket, without write events
            for key, _ in self._selector.select(waiting):
                if key.fileobj is self._wake_read:
                    self._obey()
                elif key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.data, _Connection) and not key.data.dead:
                    self._read(key.data, from_client=key.fileobj is key.data.client)
            for connection in tuple(self._open):
                self._flush(connection)
        for connection in tuple(self._open):
            self._drop(connection)
        if self._listener is not None:
            self._listener.close()
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()

    def _obey(self) -> None:
        self._wake_read.recv(4096)
        while self._calls:
            call, done = self._calls.popleft()
            call()
            done.set()

    def _accept(self) -> None:
        assert self._listener is not None
        client, _ = self._listener.accept()
        self.connections += 1
        broker: socket.socket | None = None
        if not self._swallow_new:
            try:
                broker = socket.create_connection(self._target, timeout=5)
            except OSError:  # no broker: as if nobody listened here
                self.done["no_broker"] += 1
                _close_with_reset(client)
                return
        connection = _Connection(client, broker, swallow=self._swallow_new)
        for end in (client, broker):
            if end is not None:
                end.setblocking(False)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._selector.register(end, selectors.EVENT_READ, connection)
        self._open.append(connection)

    def _read(self, connection: _Connection, *, from_client: bool) -> None:
        way = connection.up if from_client else connection.down
        source = connection.client if from_client else connection.broker
        if source is None or way.over or sum(len(data) for _, data in way.queue) > _FULL_BYTES:
            time.sleep(0.001)  # level-triggered: do not spin while the other end is slow
            return
        try:
            data = source.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._ended(connection, way, source)
        elif not connection.swallow:
            if connection.plain is None and from_client:
                connection.plain = data[0] == 0x10
            due = time.monotonic() + self._delay_s
            if connection.plain:
                for packet in way.packets.feed(data):
                    if from_client:
                        self._upwards(connection, packet, due)
                    else:
                        self._downwards(connection, packet, due)
                    if connection.dead:
                        return
            else:
                way.queue.append((due, data))

    def _ended(self, connection: _Connection, way: _Way, source: socket.socket) -> None:
        if source is connection.client:
            self._drop(connection)
        elif connection.swallow:  # the broker gave up: nobody tells the client
            self._forget(source)
            connection.broker = None
        else:
            self._selector.unregister(source)
            way.over = True  # what is queued still goes to the client

    def _upwards(self, connection: _Connection, packet: bytes, due: float) -> None:
        publish = published(packet)
        if publish is not None:
            connection.topics[publish[1]] = publish[0]
        connection.up.queue.append((due, packet))

    def _downwards(self, connection: _Connection, packet: bytes, due: float) -> None:
        queue = connection.down.queue
        publish = published(packet)
        if packet[0] & 0xF0 == 0x40:
            body = _body(packet)
            topic = connection.topics.pop(struct.unpack_from("!H", body)[0], "")
            order = self._orders["reset_in_puback"]
            if order.takes(topic):
                order.took()
                self.done["reset_in_puback"] += 1
                self._flush(connection)
                _send_at_once(connection.client, packet[: len(packet) // 2])
                self._reset(connection)
                return
            order = self._orders["rewrite_puback"]
            if order.takes(topic):
                order.took()
                self.done["rewrite_puback"] += 1
                packet = b"\x40\x03" + body[:2] + bytes([order.code])
        elif publish is not None:
            for name in ("lose", "repeat", "swap"):
                order = self._orders[name]
                if not order.takes(publish[0]) or (name == "swap" and connection.held is not None):
                    continue
                order.took()
                self.done[name] += 1
                if name == "lose":
                    if packet[0] & 0x06 and connection.broker is not None:  # or its window fills up
                        connection.up.queue.append((due, struct.pack("!BBH", 0x40, 2, publish[1])))
                    return
                if name == "swap":
                    connection.held = packet
                    return
                queue.append((due, packet))
        queue.append((due, packet))
        if publish is not None and connection.held is not None:
            queue.append((due, connection.held))
            connection.held = None

    def _flush(self, connection: _Connection) -> None:
        now = time.monotonic()
        for way, sink in ((connection.up, connection.broker), (connection.down, connection.client)):
            if connection.swallow or sink is None:
                way.queue.clear()
            while way.queue and way.queue[0][0] <= now and sink is not None:
                due, data = way.queue[0]
                try:
                    sent = sink.send(data)
                except BlockingIOError:
                    break
                except OSError:
                    self._drop(connection)
                    return
                if sent == len(data):
                    way.queue.popleft()
                else:
                    way.queue[0] = (due, data[sent:])
        if connection.down.over and not connection.down.queue and not connection.dead:
            self._drop(connection)

    def _reset(self, connection: _Connection) -> None:
        connection.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        connection.dead = True
        self._open.remove(connection)
        for end in (connection.client, connection.broker):
            if end is not None:
                self._forget(end)

    def _forget(self, end: socket.socket) -> None:
        if end.fileno() in self._selector.get_map():
            self._selector.unregister(end)
        end.close()


def _close_with_reset(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()


def _send_at_once(end: socket.socket, data: bytes) -> None:
    try:
        end.send(data)
    except OSError:  # the client has gone already: then it needs no RST either
        return
