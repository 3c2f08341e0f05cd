"""Thousands of hostile messages at a real daemon, through a real broker: it lives and loses nothing."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.daemon.hostile import Hostile
from tests.daemon.process import BASE, Daemon, Onlooker, configuration
from tests.daemon.test_service import account
from tests.telemetry.broker import Mosquitto, eventually

SHOTS = 4_000
SMALL_BYTES = 1_000_000


class Attacker:
    """Publishes as fast as the broker takes it, and clears up behind itself."""

    def __init__(self, port: int) -> None:
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def fire(self, hostile: Hostile, count: int) -> int:
        """How many of them the broker may hand on to the daemon, who told it how large a message may be."""
        last = None
        small = 0
        for shot in hostile.shots(count):
            last = self._client.publish(shot.topic, shot.payload, qos=shot.qos, retain=shot.retain)
            small += len(shot.payload) < SMALL_BYTES
        assert last is not None
        last.wait_for_publish(60)
        return small

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_flood_of_hostile_messages_is_counted_and_harms_nothing(tmp_path: Path, seed: int) -> None:
    config = configuration(tmp_path, None, rig="injected")
    # the broker must not drop what the daemon is slow to take: else nobody could count
    with (
        Mosquitto(tmp_path, extra="max_queued_messages 0\nmax_inflight_messages 0") as broker,
        Onlooker(broker.port, acknowledges=True) as onlooker,
    ):
        configuration(tmp_path, broker.port, rig="injected")
        with Daemon(tmp_path, config) as daemon:
            eventually(lambda: "verdict" in onlooker.kinds(), f"verdicts: {daemon.log()}", 60)
            attacker = Attacker(broker.port)
            sent = attacker.fire(Hostile(seed, daemon.figures()["outbox"]["stream"]), SHOTS)
            assert sent < SHOTS

            def all_is_counted() -> bool:
                """Each message that the broker sent to both of us: no more, no less."""
                seen = heard(onlooker)
                link = daemon.figures()["link"]["counters"]
                return seen >= sent and link["messages_received"] == seen == heard(onlooker)

            eventually(all_is_counted, "all that came in is counted", 90)
            figures = daemon.figures()
            assert figures["live"] == [] and figures["stage"] == "running"
            assert figures["link"]["connects"] == 1, figures["link"]
            each_has_its_place(figures)
            assert figures["process"]["rss_bytes"] < 200_000_000
            # and a good command is still obeyed
            eventually(lambda: obeyed(onlooker), f"a good command: {daemon.log()[-2000:]}", 90)
            attacker.close()
            assert daemon.stop() == 0
            # what is retained comes in again
            daemon.start()
            eventually(lambda: obeyed(onlooker), f"a good command: {daemon.log()[-2000:]}", 90)
            assert daemon.stop() == 0
            books = account(daemon)
            assert books["pending"] == 0 and books["tombstoned"] == 0
            assert books["produced"] == books["acknowledged"]
            numbers = {int(event["id"].partition("/")[2]) for event in onlooker.events}
            assert numbers == set(range(1, books["produced"] + 1))
            assert "Traceback" not in daemon.log(), daemon.log()
            assert books["produced"] < 4_000, "hostile messages must not fill the outbox"


def heard(onlooker: Onlooker) -> int:
    """Messages that the device gets as well as the onlooker."""
    return sum(
        len(payload) < SMALL_BYTES
        for topic, payloads in list(onlooker.all.items())
        if topic in (f"{BASE}/acks", f"{BASE}/desired", "homeassistant/status") or "/cmd/" in topic
        for payload in list(payloads)
    )


def each_has_its_place(figures: dict[str, dict[str, dict[str, int]]]) -> None:
    """What came in is what became of it."""
    link, commands = Counter(figures["link"]["counters"]), Counter(figures["commands"])
    acks = link["acks"] + link["acks_malformed"] + link["acks_of_another_stream"]
    births = link["inbound_births"] + link["inbound_other_births"]
    inbound = link["inbound_command"] + link["inbound_desired"] + births
    thrown_away = link["messages_too_large"] + link["topics_not_utf8"] + link["inbound_strange"]
    assert link["messages_received"] == acks + inbound + thrown_away
    assert link["inbound_command"] == commands["received"] + commands["turned_away"]
    refused = sum(count for name, count in commands.items() if name.startswith("refused_"))
    places = commands["accepted"] + commands["repeated"] + commands["echoes"] + commands["cleared"]
    # those that found the intake full are refused later, one for each topic: busy
    assert commands["received"] <= places + refused <= commands["received"] + commands["turned_away"]
    assert link["inbox_errors"] == link["turn_errors"] == link["acknowledge_errors"] == 0
    assert min(link["acks_of_the_unsent"], acks, births, refused, link["messages_too_large"]) > 0


def obeyed(onlooker: Onlooker) -> bool:
    command_id = f"good-{time.monotonic_ns()}"
    onlooker.command("log-level", command_id, {"level": "info"})
    return bool(onlooker.await_state("log-level", command_id)["state"] == "successful")
