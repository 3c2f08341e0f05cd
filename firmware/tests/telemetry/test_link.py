"""The link against a real mosquitto, with real failures between them."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from plugmeter.telemetry.link import Inbound, Link, LinkSettings, LinkState, Timing
from plugmeter.telemetry.topics import Topics
from tests.telemetry.broker import Authority, Mosquitto, Pair, eventually
from tests.telemetry.chaos import Chaos
from tests.telemetry.outboxes import (
    Diary,
    MemoryOutbox,
    TrivialController,
    decode_ack,
    encode,
    monotonic_deadline_ns,
)

TOPICS = Topics("bench")
QUICK = Timing(
    connect_s=5.0,
    answer_s=0.6,
    puback_s=5.0,
    retry_s=0.05,
    longest_retry_s=0.3,
    stable_s=60.0,
    short_life_s=0.0,  # what the tests do to connections is no twin
    breaker_s=300.0,
    least_keepalive_s=0.4,
)


class Bench:
    """A link and all that is around it."""

    def __init__(self, port: int, *, timing: Timing = QUICK, **settings: Any) -> None:
        self.outbox = MemoryOutbox()
        self.diary = Diary()
        self.inbox: list[Inbound] = []
        self.lock = threading.Lock()
        known: dict[str, Any] = {"host": "127.0.0.1", "keepalive_s": 4, "ack_timeout_s": 1.0, **settings}
        self.link = Link(
            LinkSettings(port=port, device="bench", **known),
            self.outbox,
            TOPICS,
            client_id="plugmeter-bench",
            inbox=self.inbox.append,
            diary=self.diary,
            encode=encode,
            decode_ack=decode_ack,
            birth=lambda: b'{"state":"online"}',
            will=lambda: b'{"state":"lost"}',
            timing=timing,
        )

    def start(self) -> Bench:
        self.link.start()
        return self

    @property
    def state(self) -> LinkState:
        return self.link.status().state

    def connected(self) -> None:
        eventually(lambda: self.state is LinkState.CONNECTED, "connected")

    def failed(self, cause: str) -> None:
        eventually(
            lambda: self.link.status().failures.get(cause, 0) > 0, f"failure {cause}: {self.diary.entries}"
        )

    def delivered(self) -> None:
        """Everything that was produced has been acknowledged."""
        eventually(
            lambda: self.outbox.pending == 0,
            f"all acknowledged: {self.outbox.pending} left, {self.link.status()}, {self.diary.entries}",
        )


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as broker:
        yield broker


@pytest.fixture
def chaos(broker: Mosquitto) -> Iterator[Chaos]:
    with Chaos(broker.port) as chaos:
        yield chaos


@pytest.fixture
def controller(broker: Mosquitto) -> Iterator[TrivialController]:
    controller = TrivialController(broker.port)
    yield controller
    controller.close()


@pytest.fixture
def bench(chaos: Chaos) -> Iterator[Bench]:
    bench = Bench(chaos.port).start()
    yield bench
    bench.link.stop()
    counters = bench.link.status().counters
    assert not [name for name in counters if name.endswith("_errors")], bench.diary.entries


def test_records_arrive_and_are_deleted_on_the_acknowledgement(
    bench: Bench, controller: TrivialController
) -> None:
    bench.outbox.produce(1_234)
    bench.delivered()
    assert sorted(controller.stored) == list(range(1, 1_235))
    eventually(lambda: bench.link.status().unacknowledged_records == 0, "an empty window")
    status = bench.link.status()
    assert status.sent == 1_234 and status.acknowledged == 1_234 and status.last_ack_ns
    assert controller.retained[TOPICS.status] == b'{"state":"online"}'
    assert bench.diary.events()[0] == "connected"


def test_a_single_record_does_not_wait_for_company(bench: Bench, controller: TrivialController) -> None:
    bench.connected()
    for _ in range(5):
        bench.outbox.produce(1)
        bench.delivered()
    assert controller.events >= 5


def test_the_broker_alone_deletes_nothing(bench: Bench, controller: TrivialController) -> None:
    controller.quiet = True
    bench.outbox.produce(10)
    eventually(lambda: len(controller.stored) == 10, "arrived")
    eventually(lambda: bench.link.status().resent >= 10, "sent again for want of an acknowledgement")
    assert bench.outbox.pending == 10
    assert bench.diary.events().count("unacknowledged") == 1  # and not each time that it is sent again
    controller.quiet = False
    bench.delivered()


def test_nobody_listens(bench: Bench, broker: Mosquitto) -> None:
    bench.outbox.produce(3_000)
    eventually(lambda: bench.link.status().publish_refusals.get(0x10, 0) > 0, "0x10")
    eventually(lambda: bench.link.status().window == 1, "no more than a probe goes out")
    assert bench.outbox.pending == 3_000
    assert bench.diary.events().count("nobody-listens") == 1
    controller = TrivialController(broker.port)
    bench.delivered()
    assert bench.diary.says("somebody-listens")
    controller.close()


def test_tombstones_are_sent_and_acknowledged(bench: Bench, controller: TrivialController) -> None:
    controller.quiet = True
    bench.outbox.produce(50)
    eventually(lambda: len(controller.stored) == 50, "arrived")
    bench.outbox.evict(1, 20)  # behind the link's back, while they are under way
    controller.quiet = False
    bench.delivered()


@pytest.mark.parametrize("what", ["lose", "repeat", "swap"])
def test_acknowledgements_go_astray(
    bench: Bench, chaos: Chaos, controller: TrivialController, what: str
) -> None:
    bench.connected()
    getattr(chaos, f"{what}_publishes")("/acks", count=5)
    for _ in range(10):
        bench.outbox.produce(100)
    bench.delivered()
    assert chaos.done[what] >= 1
    assert set(controller.stored) == set(range(1, 1_001))


def test_strange_acknowledgements_do_nothing(bench: Bench, controller: TrivialController) -> None:
    controller.quiet = True
    bench.outbox.produce(5)
    eventually(lambda: len(controller.stored) == 5, "arrived")
    stranger = "00000000-0000-4000-8000-000000000000"
    controller.acknowledge(stranger, [[1, 5]])
    controller.acknowledge(bench.outbox.stream, [[6, 2**62]])
    for payload in (b"", b"\xff\xfe", b"[" * 50_000, b"{}", b'{"stream":1,"ranges":[[1]]}', b"x" * 300_000):
        controller.publish(TOPICS.acks, payload)
    eventually(lambda: bench.link.status().counters.get("acks_malformed", 0) >= 4, "malformed ones")
    eventually(lambda: bench.link.status().counters.get("messages_too_large", 0) == 1, "a large one")
    assert bench.link.status().counters["acks_of_another_stream"] == 1
    assert bench.outbox.pending == 5
    controller.quiet = False
    bench.delivered()
    assert bench.link.status().connects == 1


def test_what_was_never_sent_cannot_be_acknowledged(broker: Mosquitto, controller: TrivialController) -> None:
    """Somebody who may write to the ack topic, and says that he has it all."""
    controller.quiet = True
    bench = Bench(broker.port, window=1, ack_timeout_s=30.0)
    bench.outbox.produce(1_000)
    bench.start()
    eventually(lambda: len(controller.stored) == 100, "the first batch")
    controller.acknowledge(bench.outbox.stream, [[1, 2**62]])
    eventually(lambda: bench.link.status().counters.get("acks_of_the_unsent", 0) == 1, "it is counted")
    eventually(lambda: len(controller.stored) > 100, "the next batch")
    assert bench.outbox.pending == 900
    bench.link.stop()


@pytest.mark.parametrize("kill", [False, True], ids=["restart", "kill"])
def test_the_broker_restarts(
    bench: Bench, broker: Mosquitto, controller: TrivialController, kill: bool
) -> None:
    bench.outbox.produce(500)
    bench.delivered()
    for _ in range(3):
        bench.outbox.produce(2_000)
        broker.restart(kill=kill)
    bench.delivered()
    assert set(controller.stored) == set(range(1, 6_501))
    assert bench.link.status().connects >= 2


@pytest.mark.parametrize("way", ["blackhole", "half_open"])
def test_a_dead_connection_is_noticed_by_its_silence(
    bench: Bench, chaos: Chaos, controller: TrivialController, way: str
) -> None:
    bench.connected()
    interval = bench.link.status().keepalive_s
    getattr(chaos, way)()  # idle: nothing but the keepalive can notice
    bench.failed("silence")
    assert bench.link.status().keepalive_s < interval
    bench.outbox.produce(1_000)
    bench.delivered()
    getattr(chaos, way)()  # busy
    bench.outbox.produce(1_000)
    bench.delivered()
    assert bench.link.status().failures["silence"] >= 2
    eventually(lambda: controller.retained[TOPICS.status] == b'{"state":"online"}', "online in the end")


def test_reset_in_the_middle_of_a_puback(bench: Bench, chaos: Chaos, controller: TrivialController) -> None:
    chaos.reset_in_puback(count=5, topic="/records")
    for _ in range(20):
        bench.outbox.produce(100)
    bench.delivered()
    eventually(lambda: chaos.done["reset_in_puback"] >= 1, "a reset")
    assert set(controller.stored) == set(range(1, 2_001))


@pytest.mark.parametrize("code", [0x97, 0x80, 0x10])
def test_a_puback_with_a_reason_code(
    bench: Bench, chaos: Chaos, controller: TrivialController, code: int
) -> None:
    controller.quiet = True
    chaos.rewrite_puback(code, count=7, topic="/records")
    bench.outbox.produce(2_000)
    eventually(lambda: bench.link.status().publish_refusals.get(code, 0) >= 3, "reason codes")
    assert bench.outbox.pending == 2_000
    controller.quiet = False
    bench.delivered()
    assert bench.diary.events().count("nobody-listens" if code == 0x10 else "publish-refused") >= 1
    assert bench.link.status().connects == 1
    assert set(controller.stored) == set(range(1, 2_001))


def test_documents(bench: Bench, broker: Mosquitto, controller: TrivialController) -> None:
    topic = TOPICS.summary
    for number in range(100):
        assert bench.link.set_document(topic, b"%d" % number)
    eventually(lambda: controller.retained.get(topic) == b"99", "the latest")
    bench.link.set_document(TOPICS.meta, b"{}")
    eventually(lambda: controller.retained.get(TOPICS.meta) == b"{}", "the other")
    bench.link.remove_document(TOPICS.meta)
    controller.retained.clear()
    broker.restart(kill=True)  # without persistence: it has forgotten all
    eventually(lambda: controller.retained.get(topic) == b"99", "again")
    assert TOPICS.meta not in controller.retained
    assert not bench.link.set_document(topic, bytes(300_000))


def test_a_birth_that_was_refused_is_said_again(broker: Mosquitto, controller: TrivialController) -> None:
    with Chaos(broker.port) as chaos:
        chaos.rewrite_puback(0x97, count=2, topic="/status")
        bench = Bench(chaos.port).start()
        eventually(lambda: len(controller.statuses()) >= 3, "said three times")
        assert bench.link.status().connects == 1
        assert bench.diary.events().count("document-refused") == 1
        bench.link.stop()


def test_goodbye(bench: Bench, controller: TrivialController) -> None:
    bench.outbox.produce(10)
    bench.delivered()
    bench.link.drain(monotonic_deadline_ns(5))
    assert bench.link.say_goodbye(b'{"state":"stopped"}', 10)
    assert bench.state is LinkState.OFF
    bench.link.stop()
    bench.link.stop()
    eventually(lambda: controller.retained[TOPICS.status] == b'{"state":"stopped"}', "stopped")
    controller.publish(f"{TOPICS.base}/x", b"end")
    eventually(lambda: f"{TOPICS.base}/x" in controller.retained, "all that came before")
    assert b'{"state":"lost"}' not in controller.statuses()


def test_goodbye_while_acknowledgements_pour_in(bench: Bench, controller: TrivialController) -> None:
    bench.outbox.produce(5_000)
    eventually(lambda: len(controller.stored) > 500, "busy")
    assert bench.link.say_goodbye(b'{"state":"stopped"}', 10)
    bench.link.stop()
    eventually(lambda: controller.retained[TOPICS.status] == b'{"state":"stopped"}', "stopped")
    assert b'{"state":"lost"}' not in controller.statuses()


def test_an_end_without_goodbye_is_told_by_the_last_will(bench: Bench, controller: TrivialController) -> None:
    bench.connected()
    bench.link.stop()
    eventually(lambda: controller.retained.get(TOPICS.status) == b'{"state":"lost"}', "lost")


@pytest.mark.parametrize("way", ["blackhole", "refuse"])
def test_stops_whatever_the_broker_does(bench: Bench, chaos: Chaos, way: str) -> None:
    bench.connected()
    if way == "blackhole":
        chaos.blackhole(new_too=True)
    else:
        chaos.refuse()
        chaos.reset()
        bench.failed("tcp")
    bench.outbox.produce(3_000)
    assert not bench.link.say_goodbye(b'{"state":"stopped"}', 0.3)
    bench.link.stop()
    assert bench.state is LinkState.OFF
    assert bench.outbox.listeners == 0  # links come and go with their configurations


def test_draining_takes_nothing_in(bench: Bench, controller: TrivialController) -> None:
    controller.publish(TOPICS.desired, b"1", retain=True)
    eventually(lambda: Inbound(TOPICS.desired, b"1", False) in bench.inbox or bool(bench.inbox), "inbound")
    bench.link.drain(monotonic_deadline_ns(60))
    eventually(lambda: bench.link.status().draining, "draining")
    before = len(bench.inbox)
    controller.publish(TOPICS.command("selftest", "x"), b"2")
    eventually(lambda: bench.link.status().counters.get("inbound_while_draining", 0) == 1, "counted")
    assert len(bench.inbox) == before
    bench.outbox.produce(100)
    bench.delivered()


def test_inbound(broker: Mosquitto, controller: TrivialController) -> None:
    bench = Bench(broker.port, discovery_prefix="homeassistant").start()
    bench.connected()
    controller.publish(TOPICS.desired, b"d", retain=True)
    controller.publish(TOPICS.command("restart", "1"), b"c")
    controller.publish("homeassistant/status", b"online")
    eventually(lambda: len(bench.inbox) >= 3, "all three")
    assert {each.topic for each in bench.inbox} == {
        TOPICS.desired,
        TOPICS.command("restart", "1"),
        "homeassistant/status",
    }
    bench.link.stop()


def test_callbacks_that_raise(broker: Mosquitto, controller: TrivialController) -> None:
    bench = Bench(broker.port)
    spoilt = Link(
        LinkSettings(host="127.0.0.1", port=broker.port, device="bench", ack_timeout_s=0.5),
        bench.outbox,
        TOPICS,
        client_id="x",
        inbox=_raises,
        diary=_raises,
        encode=encode,
        decode_ack=decode_ack,
        birth=_raises,
        will=lambda: b"lost",
        timing=QUICK,
    )
    spoilt.start()
    controller.publish(TOPICS.desired, b"d", retain=True)
    eventually(lambda: spoilt.status().counters.get("inbox_errors", 0) == 1, "the inbox has raised")
    bench.outbox.produce(100)
    bench.delivered()
    bench.outbox.fail = OSError(5, "Input/output error")
    bench.outbox.produce(100)
    eventually(lambda: spoilt.status().counters.get("outbox_errors", 0) >= 1, "the outbox cannot be read")
    bench.outbox.fail = None
    bench.delivered()
    counters = spoilt.status().counters
    assert counters["diary_errors"] >= 1 and counters["birth_errors"] == 1
    assert spoilt.status().connects == 1
    spoilt.stop()


def _raises(*_: object) -> Any:
    raise RuntimeError("a defect")


def test_kick(bench: Bench, controller: TrivialController) -> None:
    bench.connected()
    bench.link.kick("half open, says the kernel")
    eventually(lambda: bench.link.status().connects == 2, "connected anew")
    assert bench.diary.says("half open, says the kernel")
    assert b'{"state":"lost"}' not in controller.statuses()


def test_goodbye_right_after_a_kick(broker: Mosquitto, controller: TrivialController) -> None:
    """While its connection parts, or the next one is made: what the broker retains is "stopped" at last."""
    for number in range(10):
        bench = Bench(broker.port).start()
        bench.connected()
        link, word = bench.link, b"stopped %d" % number
        link.kick("for a test")
        while not link.status().left_online and not _has_connected(bench, 2):
            pass  # as soon as it is
        assert link.say_goodbye(word, 30.0)
        link.stop()
        eventually(partial(_is_retained, controller, word), "its last word")


def test_kicks_while_acknowledgements_pour_in(broker: Mosquitto, controller: TrivialController) -> None:
    bench = Bench(broker.port).start()  # without the proxy, which resets what mosquitto would close
    for connects in range(2, 8):
        bench.outbox.produce(2_000)
        eventually(lambda: bench.link.status().in_flight > 0, "busy")
        bench.link.kick("for a test")
        eventually(partial(_has_connected, bench, connects), "connected anew")
    bench.delivered()
    assert b'{"state":"lost"}' not in controller.statuses()
    bench.link.stop()


def _is_retained(controller: TrivialController, status: bytes) -> bool:
    return controller.retained.get(TOPICS.status) == status


def _has_connected(bench: Bench, times: int) -> bool:
    return bench.link.status().connects >= times


def test_a_kick_that_comes_too_late(bench: Bench) -> None:
    bench.connected()
    gone_ns = bench.link.status().since_ns
    bench.link.kick("for a test")
    eventually(lambda: bench.link.status().connects == 2, "connected anew")
    bench.link.kick("too late", silent=True, since_ns=gone_ns)
    eventually(lambda: bench.link.status().counters.get("kicks_too_late", 0) == 1, "counted")
    assert bench.link.status().connects == 2


def test_a_document_larger_than_the_broker_takes(tmp_path: Path) -> None:
    with Mosquitto(tmp_path, extra="max_packet_size 2000") as broker:
        controller = TrivialController(broker.port)
        bench = Bench(broker.port)
        bench.link.set_document(TOPICS.summary, bytes(3_000))
        bench.link.set_document(TOPICS.meta, b"{}")
        bench.outbox.produce(200)
        bench.start()
        bench.delivered()
        eventually(lambda: controller.retained.get(TOPICS.meta) == b"{}", "the small one")
        assert bench.diary.details("document-too-large")[0]["topic"] == TOPICS.summary
        bench.link.set_document(TOPICS.summary, b"small")
        eventually(lambda: controller.retained.get(TOPICS.summary) == b"small", "it has changed")
        status = bench.link.status()
        assert status.counters["documents_too_large"] == 1 and status.connects == 1
        bench.link.stop()
        controller.close()


def test_two_devices_of_one_name(broker: Mosquitto) -> None:
    """mosquitto ends the older connection, each time, and does not say why."""
    timing = Timing(retry_s=0.05, longest_retry_s=0.1, breaker_s=300.0)
    twins = [Bench(broker.port, timing=timing).start() for _ in range(2)]
    eventually(lambda: any("twin" in each.link.status().failures for each in twins), "one suspects it")
    told = [details["cause"] for each in twins for details in each.diary.details("disconnected")]
    assert "twin" in told and set(told) <= {"closed", "taken-over", "reset", "twin"}
    for each in twins:
        each.link.stop()


def test_idle_it_wakes_up_now_and_then_and_finds_nothing(broker: Mosquitto) -> None:
    bench = Bench(broker.port, keepalive_s=60, timing=Timing()).start()
    bench.connected()
    progress = bench.link.progress
    eventually(lambda: progress.wakeups > progress.work, "an idle turn")
    wakeups, work = progress.wakeups, progress.work
    eventually(lambda: progress.wakeups >= wakeups + 2, "progress")
    assert progress.wakeups < wakeups + 50, "it spins"
    assert progress.work == work
    bench.link.stop()


def test_no_broker_configured(broker: Mosquitto) -> None:
    bench = Bench(0, host="").start()
    bench.outbox.produce(3)
    eventually(lambda: bench.link.progress.wakeups >= 2, "progress")
    assert bench.state is LinkState.OFF
    assert not bench.link.say_goodbye(b"x", 1)
    bench.link.stop()


def test_nobody_at_the_port_and_no_such_name(chaos: Chaos) -> None:
    chaos.refuse()
    bench = Bench(chaos.port).start()
    bench.failed("tcp")
    chaos.accept()
    bench.connected()
    bench.link.stop()
    nowhere = Bench(chaos.port, host="no-such-host.invalid").start()
    nowhere.failed("dns")
    assert nowhere.link.status().breaker == "closed"
    nowhere.link.stop()


def test_ipv6(tmp_path: Path) -> None:
    if not socket.has_ipv6:
        pytest.skip("needs IPv6")
    with Mosquitto(tmp_path, host="::1") as broker:
        controller = TrivialController(broker.port, host="::1")
        bench = Bench(broker.port, host="::1").start()
        bench.outbox.produce(10)
        bench.delivered()
        bench.link.stop()
        controller.close()


def test_a_name_is_looked_up(broker: Mosquitto) -> None:
    bench = Bench(broker.port, host="localhost").start()
    bench.connected()
    assert bench.link.status().address in ("127.0.0.1", "::1")
    bench.link.stop()


# --- who may and who may not ---------------------------------------------------------------------------


def test_a_wrong_password_opens_the_breaker(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("wrong\n")
    secret.chmod(0o600)
    with Mosquitto(tmp_path, users={"plugmeter": "right"}) as broker:
        timing = Timing(retry_s=0.05, breaker_s=1.0, longest_breaker_s=2.0)
        bench = Bench(broker.port, username="plugmeter", password_file=secret, timing=timing).start()
        eventually(lambda: bench.state is LinkState.BROKEN, "the breaker is open")
        status = bench.link.status()
        assert status.breaker == "open" and status.failures == {"refused": 1}
        assert "not authorized" in (status.last_failure or "")
        secret.write_text("right\n")  # read again at the probe
        bench.connected()
        assert bench.diary.says("breaker-closed")
        bench.link.stop()


def test_an_acl_that_denies_publishing(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("right")
    rules = (
        "user plugmeter\ntopic write plugmeter/v1/bench/status\ntopic read plugmeter/v1/bench/#\n"
        "user all\ntopic readwrite #\n"
    )
    with Mosquitto(tmp_path, users={"plugmeter": "right", "all": "x"}, acl=rules) as broker:
        controller = TrivialController(broker.port, username="all", password="x")
        bench = Bench(broker.port, username="plugmeter", password_file=secret).start()
        bench.outbox.produce(1_000)
        eventually(lambda: bench.link.status().breaker == "open", "the breaker is open")
        assert bench.state is LinkState.CONNECTED
        assert bench.link.status().publish_refusals[0x87] >= 1
        assert bench.diary.events().count("publishing-denied") == 1
        assert bench.outbox.pending == 1_000 and not controller.stored
        assert bench.diary.says("warning") == bool(secret.stat().st_mode & 0o004)
        bench.link.stop()
        controller.close()


# --- TLS -----------------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_tls(tmp_path: Path, authority: Authority) -> None:
    with Mosquitto(tmp_path, authority=authority) as broker:
        controller = TrivialController(broker.tls_port, ca_file=authority.ca_file)
        bench = Bench(broker.tls_port, tls=True, ca_file=authority.ca_file).start()
        bench.outbox.produce(3_000)
        bench.delivered()
        assert bench.link.say_goodbye(b'{"state":"stopped"}', 10)
        bench.link.stop()
        eventually(lambda: controller.retained[TOPICS.status] == b'{"state":"stopped"}', "stopped")
        controller.close()


def test_mtls(tmp_path: Path, authority: Authority) -> None:
    own = authority.issue("bench")
    with Mosquitto(tmp_path, authority=authority) as broker:
        controller = TrivialController(broker.port)
        bench = Bench(
            broker.mtls_port,
            tls=True,
            ca_file=authority.ca_file,
            certificate_file=own.certificate_file,
            key_file=own.key_file,
        ).start()
        bench.outbox.produce(300)
        bench.delivered()
        bench.link.stop()
        controller.close()


def _refusal(bench: Bench, words: str) -> None:
    bench.start()
    eventually(lambda: bench.state is LinkState.BROKEN, f"the breaker is open: {bench.diary.entries}")
    status = bench.link.status()
    assert words in (status.last_failure or "")
    # In TLS 1.3 a client learns only after its handshake that the broker does not want it, and if the
    # broker's alert is overtaken by its reset, only at the next attempt.
    assert status.tls_failures >= 1 and status.breaker == "open"
    bench.link.stop()


@pytest.mark.parametrize(
    ("server", "words"),
    [
        (lambda authority: authority.issue("broker", valid="past"), "expired"),
        (lambda authority: authority.issue("broker", hosts=("elsewhere.example",)), "for another"),
        (lambda authority: authority.issue("broker", hosts=("127.0.0.2",)), "for another address"),
    ],
    ids=["expired", "host name", "address"],
)
def test_a_broker_with_a_bad_certificate(
    tmp_path: Path, authority: Authority, server: Callable[[Authority], Pair], words: str
) -> None:
    with Mosquitto(tmp_path, authority=authority, server=server(authority)) as broker:
        _refusal(Bench(broker.tls_port, tls=True, ca_file=authority.ca_file), words)


def test_a_certificate_that_is_not_valid_yet_may_be_our_clock(tmp_path: Path, authority: Authority) -> None:
    with Mosquitto(tmp_path, authority=authority, server=authority.issue("broker", valid="future")) as broker:
        bench = Bench(broker.tls_port, tls=True, ca_file=authority.ca_file).start()
        eventually(lambda: bench.link.status().tls_failures >= 2, "tried again soon")
        assert "clock" in (bench.link.status().last_failure or "")
        bench.link.stop()


def test_an_unknown_authority(tmp_path: Path, authority: Authority) -> None:
    other = Authority(tmp_path, "another CA")
    with Mosquitto(tmp_path, authority=authority) as broker:
        _refusal(Bench(broker.tls_port, tls=True, ca_file=other.ca_file), "authority that is not in ca_file")


def test_no_client_certificate(tmp_path: Path, authority: Authority) -> None:
    with Mosquitto(tmp_path, authority=authority) as broker:
        _refusal(Bench(broker.mtls_port, tls=True, ca_file=authority.ca_file), "wants a client certificate")


def test_a_client_certificate_of_a_stranger(tmp_path: Path, authority: Authority) -> None:
    own = Authority(tmp_path, "another CA").issue("bench")
    with Mosquitto(tmp_path, authority=authority) as broker:
        bench = Bench(
            broker.mtls_port,
            tls=True,
            ca_file=authority.ca_file,
            certificate_file=own.certificate_file,
            key_file=own.key_file,
        )
        _refusal(bench, "does not")


def test_tls_to_a_port_without_it(broker: Mosquitto, tmp_path: Path, authority: Authority) -> None:
    timing = Timing(connect_s=0.5, retry_s=0.05)
    bench = Bench(broker.port, tls=True, ca_file=authority.ca_file, timing=timing).start()
    bench.failed("tls")
    assert bench.link.status().breaker == "closed"  # it might have been the network
    bench.link.stop()


def test_plain_to_a_port_with_tls(tmp_path: Path, authority: Authority) -> None:
    with Mosquitto(tmp_path, authority=authority) as broker:
        bench = Bench(broker.tls_port).start()
        eventually(lambda: sum(bench.link.status().failures.values()) >= 1, "a failure")
        bench.link.stop()


# --- brokers that say what they must not -----------------------------------------------------------------


class Liar:
    """Accepts a connection, reads CONNECT and says something else than a broker would."""

    def __init__(self, words: bytes) -> None:
        self._words = words
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._held: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                end, _ = self._listener.accept()
                end.recv(4096)
                end.sendall(self._words)
                self._held.append(end)
            except OSError:
                return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        for end in self._held:
            end.close()


CONNACK = b"\x20\x03\x00\x00\x00"


@pytest.mark.parametrize(
    "words",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x20\x03\x00\x00",
        b"\x20\x00",
        b"\x20\x03\x00\xff\x00",
        CONNACK + b"\x30\xff\xff\xff\x7f" + b"x" * 1000,
        CONNACK + b"\x34\x05\x00\x01a\x00\x01\x00",
        CONNACK + b"\x30\xff\xff\xff\xff\x01",
        CONNACK + b"\x40\x00",
        CONNACK + b"\x90\x00",
        CONNACK + b"\x90\x01\x00",
        CONNACK + b"\x30\x02\xff\xff",
        CONNACK + b"\xf0\x00",
        CONNACK + b"\x00\x00",
        CONNACK + b"\x30\x06\x00\x02\xff\xfe\x00x",
        CONNACK + b"\xe0\x01\x00",
        CONNACK + b"\xe0\x02\x8b\x00",
        CONNACK + CONNACK,
        bytes(random.Random(1).randbytes(5_000)),
    ],
)
def test_lies_do_not_end_the_thread(words: bytes) -> None:
    liar = Liar(words)
    bench = Bench(liar.port).start()
    eventually(
        lambda: sum(bench.link.status().failures.values()) >= 2,
        "given up and tried again",
    )
    before = bench.link.progress.wakeups
    eventually(lambda: bench.link.progress.wakeups > before, "alive")
    bench.link.stop()
    liar.close()
