"""The controller's connection, a step at a time, to a broker that goes at the worst moment."""

from __future__ import annotations

import time

from plugmeter.controller.broker import settings_from
from plugmeter.controller.connection import Connection
from tests.controller.refusing import Fleeting

MESSAGES = 8


def test_a_broker_that_goes_while_its_messages_are_acknowledged_is_lost_and_no_more() -> None:
    taken: list[str] = []
    with Fleeting("plugmeter/v1/bench-1/records", MESSAGES) as broker:
        settings = settings_from(f"127.0.0.1:{broker.port}")
        connection = Connection(settings, client_id="c", share=None, tell=lambda _: None)
        until = time.monotonic() + 30
        while connection.unconfirmed < MESSAGES and time.monotonic() < until:
            connection.attempt(time.monotonic())
            connection.wait(0.05, None)
            connection.serve(lambda: True, lambda topic, payload, retained: taken.append(topic))
        assert len(taken) == connection.unconfirmed == MESSAGES
        broker.go.set()
        assert broker.gone.wait(30)
        assert connection.wait(30, None), "its reset is here"
        connection.confirm()
        assert connection.state == "waiting" and connection.unconfirmed == 0
        connection.acknowledge("bench-1", "s", ((1, 2),))
        assert connection.counters["acks"] == 0, "it waits for the next connection"
        connection.end()
