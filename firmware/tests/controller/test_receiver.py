"""The receiver against a real broker: acknowledged is what is committed, whatever breaks when."""

from __future__ import annotations

import random
import resource
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from plugmeter.controller.broker import settings_from
from plugmeter.controller.receiver import Receiver
from plugmeter.controller.retention import DAY_MS
from plugmeter.controller.store import Store, open_store
from plugmeter.telemetry.record import StoredRecord, Tombstone
from tests.controller.bookings import STREAM, audit, away, document, message, receive
from tests.controller.devices import Device, account, stored, summary, verdict
from tests.controller.processes import Controller, run_controller
from tests.controller.refusing import Refusing
from tests.telemetry.broker import Authority, Mosquitto, eventually


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as running:
        yield running


@contextmanager
def receiving(
    store: Store,
    port: int,
    *,
    client_id: str = "controller",
    share: str | None = None,
    keep_days: int | None = None,
    wait: bool = True,
) -> Iterator[tuple[Receiver, list[str]]]:
    """A receiver, and the lines that it tells."""
    told: list[str] = []
    receiver = Receiver(
        settings_from(f"127.0.0.1:{port}"),
        store,
        client_id=client_id,
        share=share,
        tell=told.append,
        keep_days=keep_days,
    )
    receiver.start()
    try:
        if wait:
            eventually(lambda: receiver.status().state == "connected", "the receiver connects")
            eventually(lambda: receiver.progress.wakeups > 3, "it goes on")
        yield receiver, told
    finally:
        assert receiver.stop()
    assert receiver.failure is None


def batch(first: int, last: int) -> list[StoredRecord]:
    return [stored(n, "verdict", verdict(n), 1_795_300_000_000_000_000) for n in range(first, last + 1)]


def stored_numbers(store: Store) -> set[int]:
    with store.reading() as session:
        return {row[0] for row in session.rows("SELECT seq FROM record")}


def test_what_is_acknowledged_is_stored(database: str, broker: Mosquitto) -> None:
    store = open_store(database)
    with receiving(store, broker.port) as (receiver, _), Device(broker.port) as device:
        for first in range(1, 2_000, 100):
            device.send(batch(first, first + 99), wait=False)
        device.send([], [Tombstone(2_001, 2_050, 0, "full", 1)])
        assert device.await_acknowledged(set(range(1, 2_051)))
        assert stored_numbers(store) == set(range(1, 2_001))
        device.tell("summary", summary(account(device.stream, 2_050, 2_000, 50, 2_051)))
        eventually(lambda: audit(store, device.stream).books.told is not None, "the account is booked")
        assert audit(store, device.stream).ok
        assert receiver.status().counters["records"] == 2_000
    store.close()


def test_what_had_come_is_acknowledged_again(store: Store, broker: Mosquitto) -> None:
    with receiving(store, broker.port) as (receiver, _), Device(broker.port) as device:
        device.send(batch(1, 50))
        assert device.await_acknowledged(set(range(1, 51)))
        device.acknowledged.clear()
        device.send(batch(20, 30))
        assert device.await_acknowledged(set(range(20, 31)))
        assert receiver.status().counters["duplicates"] == 11
        assert len(stored_numbers(store)) == 50


def test_what_is_old_is_deleted_while_it_receives(store: Store, broker: Mosquitto) -> None:
    long_ago = time.time_ns() // 1_000_000 - 10 * DAY_MS
    with Device(broker.port) as device:
        for first in range(1, 3_001, 500):
            old = message(batch(first, first + 499), stream=device.stream)
            receive(store, old, now_ms=long_ago)
        with receiving(store, broker.port, keep_days=7) as (receiver, _):
            device.send(batch(3_001, 3_100))
            assert device.await_acknowledged(set(range(3_001, 3_101)))
            eventually(lambda: receiver.status().counters["deleted"] == 3_000, "the old ones are deleted")
            device.send(batch(2_990, 3_010))
            assert device.await_acknowledged(set(range(2_990, 3_011))), "also what is deleted"
            assert receiver.status().counters["duplicates"] == 21
            assert receiver.status().counters["conflicts"] == 0
            device.tell("summary", summary(account(device.stream, 3_100, 3_100, 0, 3_101)))
            eventually(lambda: audit(store, device.stream).books.told is not None, "the account is booked")
    assert stored_numbers(store) == set(range(3_001, 3_101))
    finding = audit(store, device.stream)
    assert (finding.stored, finding.ok) == (3_100, True)


def test_a_broker_that_comes_later_and_goes_is_waited_for(store: Store, broker: Mosquitto) -> None:
    broker.stop()
    with receiving(store, broker.port, wait=False) as (receiver, told):
        eventually(lambda: receiver.status().state == "waiting", "it waits")
        assert told == [f"no connection to mqtt://127.0.0.1:{broker.port}: connection refused; trying again"]
        for number in range(1, 4):
            broker.start()
            eventually(lambda: receiver.status().state == "connected", "it connects")
            with Device(broker.port, stream="6e0f8a52-3f0e-4a0b-9d0c-2b8f5f3a7c11") as device:

                def arrived(device: Device = device, number: int = number) -> bool:
                    device.send(batch(number, number))  # nobody may have subscribed yet
                    return device.await_acknowledged({number}, 0.2)

                eventually(arrived, "the record is acknowledged")
            broker.kill()
            eventually(lambda: receiver.status().reason == "connection refused", "it notices")
    assert stored_numbers(store) == {1, 2, 3}


def test_two_of_one_name_are_told(store: Store, broker: Mosquitto) -> None:
    with (
        receiving(store, broker.port) as (_, first),
        receiving(store, broker.port, wait=False) as (_, second),
    ):
        words = "another client uses the client id controller: give each controller a --client-id"
        eventually(lambda: any(words in line for line in [*first, *second]), "one of them says why")


@pytest.mark.parametrize("users", [{"lab": "secret"}])
def test_a_refusal_is_one_line_and_it_goes_on(store: Store, tmp_path: Path, users: dict[str, str]) -> None:
    with (
        Mosquitto(tmp_path, users=users) as broker,
        receiving(store, broker.port, wait=False) as (receiver, told),
    ):
        eventually(lambda: receiver.status().state == "waiting", "it is refused")
        assert len(told) == 1
        assert "the broker refuses: not authorized" in told[0]


def test_acknowledgements_that_the_broker_refuses_are_told(store: Store, tmp_path: Path) -> None:
    acl = "topic read plugmeter/v1/#\ntopic write plugmeter/v1/+/records\n"
    with (
        Mosquitto(tmp_path, acl=acl) as broker,
        receiving(store, broker.port) as (receiver, told),
        Device(broker.port) as device,
    ):
        device.send(batch(1, 3))
        eventually(lambda: receiver.status().counters["ack_refusals"] > 0, "the refusal is seen")
        assert "acknowledgements are refused" in told[-1]
        assert stored_numbers(store) == {1, 2, 3}


def test_a_refused_subscription_is_no_connection(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "controller.db"))
    with (
        Refusing(b"records") as broker,
        receiving(store, broker.port, wait=False) as (receiver, told),
    ):
        eventually(lambda: receiver.status().state == "waiting", "it does not stay")
        assert "the broker does not let us subscribe to plugmeter/v1/+/records" in told[0]
        assert "not authorized" in receiver.status().reason
        assert not any(line.startswith("connected") for line in told)
        eventually(lambda: broker.connections > 1, "and it tries again")
        assert len(told) == 1, "told once"
    store.close()


def test_a_large_fleet_is_known_as_a_whole(database: str, broker: Mosquitto) -> None:
    """mosquitto queues 1,000 messages, and this is more than its socket takes."""
    fleet = 1_500
    texts = {f"k{n}": "x" * 900 for n in range(10)}
    reported = {"id": "c", "state": "in_effect", "reason": None, "config": {"section": texts}}
    status = {"state": "online", "stream": STREAM, "time": "2026-11-21T10:00:00Z", "reason": None}
    with Device(broker.port) as device:
        for n in range(fleet):
            name = f"d{n}"
            for kind, value in (("status", status), ("reported", reported)):
                topic, payload = document(kind, value, device=name)
                device.publish(topic, payload, retain=True)
    store = open_store(database)
    with receiving(store, broker.port):
        pass
    with store.reading() as session:
        counts = session.rows("SELECT kind, count(*) FROM document GROUP BY kind ORDER BY kind")
    assert counts == [("reported", fleet), ("status", fleet)]
    store.close()


def test_documents_that_were_let_go_are_asked_for_again(tmp_path: Path, broker: Mosquitto) -> None:
    path = tmp_path / "controller.db"
    store = open_store(str(path))
    status = {"state": "online", "stream": STREAM, "time": "2026-11-21T10:00:00Z", "reason": None}
    with (
        Device(broker.port) as device,
        away(store, path),
        receiving(store, broker.port) as (receiver, told),
    ):
        for _ in range(10):
            device.publish(f"{device.topics.base}/meta", b"x" * 1_000_000)
        eventually(lambda: receiver.status().trouble != "", "it notices")
        eventually(lambda: receiver.status().counters["messages"] >= 10, "it has read them")
        device.tell("status", status)
        eventually(lambda: receiver.status().counters["dropped"] > 0, "there is no room")
        path.rmdir()
        path.with_suffix(".moved").rename(path)

        def known() -> bool:
            with store.reading() as session:
                return session.rows("SELECT kind FROM document") == [("status",)]

        eventually(known, "the status is told again")
        assert any("documents were dropped while the database could not be written" in line for line in told)
        path.rename(path.with_suffix(".moved"))
        path.mkdir()  # as away() left it
    store.close()


def test_an_empty_client_id_is_refused() -> None:
    ended = run_controller("serve", "--client-id", "")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "plugmeter: --client-id '': give a name, or leave it out for the default\n"


def test_tls_with_the_wrong_authority_is_one_line(store: Store, tmp_path: Path) -> None:
    with Mosquitto(tmp_path, authority=Authority(tmp_path)) as broker:
        other = Authority(tmp_path, "another CA")
        told: list[str] = []
        settings = settings_from(f"mqtts://127.0.0.1:{broker.tls_port}", ca_file=other.ca_file)
        receiver = Receiver(settings, store, client_id="c", share=None, tell=told.append)
        receiver.start()
        eventually(lambda: bool(told), "it says why")
        assert receiver.stop()
        assert "its certificate is not good: " in told[0]


def test_records_come_through_tls_with_a_client_certificate(store: Store, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with Mosquitto(tmp_path, authority=authority) as broker:
        ours = authority.issue("controller")
        settings = settings_from(
            f"mqtts://127.0.0.1:{broker.mtls_port}",
            ca_file=authority.ca_file,
            certificate_file=ours.certificate_file,
            key_file=ours.key_file,
        )
        receiver = Receiver(settings, store, client_id="c", share=None, tell=lambda line: None)
        receiver.start()
        eventually(lambda: receiver.status().state == "connected", "it connects")
        with Device(broker.port) as device:

            def arrived() -> bool:
                device.send(batch(1, 500))
                return device.await_acknowledged(set(range(1, 501)), 1)

            eventually(arrived, "all are acknowledged")
        assert receiver.stop()
    assert stored_numbers(store) == set(range(1, 501))


def test_two_that_share_split_the_work_on_one_database(database: str, broker: Mosquitto) -> None:
    stores = [open_store(database), open_store(database)]
    with (
        receiving(stores[0], broker.port, client_id="a", share="lab") as (first, _),
        receiving(stores[1], broker.port, client_id="b", share="lab") as (second, _),
        Device(broker.port) as device,
    ):

        def both() -> bool:
            return all(each.status().counters["records"] for each in (first, second))

        number = 1

        def send_more() -> bool:
            nonlocal number
            device.send(batch(number, number + 9))
            number += 10
            return both() or number > 3_000

        eventually(send_more, "both receive")
        assert both()
        assert device.await_acknowledged(set(range(1, number)))
        counted = sum(each.status().counters["records"] for each in (first, second))
        assert counted == number - 1, "each once"
        assert stored_numbers(stores[0]) == set(range(1, number))
    for store in stores:
        store.close()


def test_hostile_messages_do_no_harm(store: Store, broker: Mosquitto) -> None:
    topic, good = message(batch(1, 3))
    chance = random.Random(7)
    with receiving(store, broker.port) as (receiver, _), Device(broker.port) as device:
        base = device.topics.base
        device.publish(device.topics.records, b"\xff" * 1_000_000)
        device.publish(f"{base}/status", b"[" * 50_000, retain=True)
        device.publish(f"{base}/summary", b'{"outbox":{"produced":1e999}}')
        device.publish(f"{base}/cmd/" + "x" * 200 + "/y", b"{}")
        device.publish("plugmeter/v1/\u00fc\u202e/records", good)
        for _ in range(200):
            at = chance.randrange(len(good))
            damaged = good[:at] + bytes(chance.randrange(256) for _ in range(3)) + good[at + 3 :]
            device.publish(device.topics.records, damaged, qos=0)
        device.publish(topic, good, qos=0)
        device.send(batch(1, 5))
        assert device.await_acknowledged(set(range(1, 6)))
        assert receiver.status().counters["problems"] > 0


def serve(broker: Mosquitto, database: Path) -> Controller:
    return Controller("--database", str(database), "--broker", f"127.0.0.1:{broker.port}", "--no-page")


def test_kill_at_any_moment_loses_nothing_that_was_acknowledged(tmp_path: Path, broker: Mosquitto) -> None:
    """A sample; scripts/torture does it a thousand times."""
    database = tmp_path / "controller.db"
    chance = random.Random(20261121)
    number = 1
    with Device(broker.port) as device:
        for _ in range(6):
            with serve(broker, database) as controller:
                controller.await_said("connected to")
                kill_at = number + chance.randrange(50, 1_500)
                while number < kill_at:
                    device.send(batch(number, number + 24), wait=False)
                    number += 25
                    time.sleep(chance.random() * 0.004)
                controller.process.kill()
        acknowledged = set(device.acknowledged)
        store = open_store(str(database))
        there = stored_numbers(store)
        assert acknowledged, "or nothing was tested"
        assert acknowledged <= there
        assert audit(store, device.stream).books.covered == audit(store, device.stream).books.stored
        store.close()
        with serve(broker, database) as controller:
            controller.await_said("connected to")

            def all_there() -> bool:
                missing = sorted(set(range(1, number)) - device.acknowledged)
                for start in range(0, len(missing), 200):
                    device.send([each for n in missing[start : start + 200] for each in batch(n, n)])
                return device.await_acknowledged(set(range(1, number)), 1)

            eventually(all_there, "what was not acknowledged is sent again")
            assert controller.end() == 0
    connection = sqlite3.connect(database)
    assert connection.execute("SELECT count(*), count(DISTINCT seq) FROM record").fetchone() == (
        number - 1,
        number - 1,
    )
    connection.close()


def test_a_full_disk_acknowledges_nothing_says_so_and_recovers(tmp_path: Path, broker: Mosquitto) -> None:
    """A limit on the size of files (setrlimit(2)) stands for the disk: it can be lifted from outside."""
    database = tmp_path / "controller.db"
    with serve(broker, database) as controller, Device(broker.port) as device:
        controller.await_said("connected to")
        device.send(batch(1, 10))
        assert device.await_acknowledged(set(range(1, 11)))
        before = resource.prlimit(controller.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(controller.process.pid, resource.RLIMIT_FSIZE, (4_096, before[1]))
        device.send(batch(11, 400), wait=False)
        line = controller.await_said("nothing is acknowledged until it can be written again")
        assert line.startswith(f"plugmeter: database {database}: ")
        assert not device.acknowledged - set(range(1, 11))
        for first in range(401, 8_001, 200):  # more than is kept in memory meanwhile
            device.send(batch(first, first + 199), wait=False)
        resource.prlimit(controller.process.pid, resource.RLIMIT_FSIZE, before)
        controller.await_said("can be written again$")
        assert device.await_acknowledged(set(range(1, 401)))

        def all_there() -> bool:
            missing = sorted(set(range(1, 8_001)) - device.acknowledged)
            for start in range(0, len(missing), 200):
                device.send([each for n in missing[start : start + 200] for each in batch(n, n)])
            return device.await_acknowledged(set(range(1, 8_001)), 1)

        eventually(all_there, "what was not kept comes again")
        assert controller.end() == 0
    store = open_store(str(database))
    assert stored_numbers(store) == set(range(1, 8_001))
    store.close()


def test_sigterm_commits_and_acknowledges_what_was_read(tmp_path: Path, broker: Mosquitto) -> None:
    database = tmp_path / "controller.db"
    with serve(broker, database) as controller, Device(broker.port) as device:
        controller.await_said("connected to")
        for first in range(1, 1_000, 50):
            device.send(batch(first, first + 49), wait=False)
        assert controller.end() == 0
        assert controller.lines[-1].startswith("plugmeter: ended: ")
        store = open_store(str(database))
        there = stored_numbers(store)
        assert device.await_acknowledged(there), "all that it committed it acknowledged"
        store.close()


def test_the_receiver_ends_at_once_while_nobody_answers(store: Store, broker: Mosquitto) -> None:
    broker.pause()
    try:
        with receiving(store, broker.port, wait=False) as (receiver, _):
            eventually(lambda: receiver.progress.wakeups > 0, "it has begun")
    finally:
        broker.resume()


def test_a_receiver_that_has_ended_can_be_stopped_again(store: Store, broker: Mosquitto) -> None:
    with receiving(store, broker.port) as (receiver, _):
        assert receiver.stop()
        assert receiver.stop()
