"""SIGHUP, as the controller sees it: who may command what changes at once, and a bad file changes nothing."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.daemon.process import Daemon, Onlooker, configuration
from tests.telemetry.broker import Mosquitto, eventually


def test_what_may_be_commanded_changes_with_the_file(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker, Onlooker(broker.port, acknowledges=True) as onlooker:
        config = configuration(tmp_path, broker.port)
        with Daemon(tmp_path, config) as daemon:
            onlooker.command("log-level", "l1", {"level": "info"})
            assert onlooker.await_state("log-level", "l1")["state"] == "successful"
            configuration(tmp_path, broker.port, '[commands]\naccept = ["resync"]\n')
            daemon.send(signal.SIGHUP)
            daemon.await_notified("READY=1", times=2)
            eventually(lambda: onlooker.document("meta").get("capabilities") == ["resync"], "meta says so")
            onlooker.command("log-level", "l2", {"level": "debug"})
            refused = onlooker.await_state("log-level", "l2")
            assert refused["state"] == "refused" and refused["reason"].startswith("not_accepted"), refused
            assert daemon.stop() == 0


def test_a_file_that_cannot_take_effect_leaves_all_as_it_was(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker, Onlooker(broker.port, acknowledges=True) as onlooker:
        config = configuration(tmp_path, broker.port)
        with Daemon(tmp_path, config) as daemon:
            bad = configuration(tmp_path, broker.port, "[run]\ndebounce_ms = 150\n")
            bad.write_text(bad.read_text().replace('device = "bench-1"', 'device = "bench-2"'))
            daemon.send(signal.SIGHUP)
            daemon.await_notified("READY=1", times=2)
            assert "daemon.device changes with a restart only" in daemon.log()
            onlooker.command("log-level", "l1", {"level": "info"})
            assert onlooker.await_state("log-level", "l1")["state"] == "successful"
            reported = onlooker.document("reported")["config"]
            assert reported["run"]["debounce_ms"] == 100 and reported["daemon"]["device"] == "bench-1"
            assert daemon.stop() == 0


def test_a_password_that_was_mended_is_tried_at_once(tmp_path: Path) -> None:
    """The breaker would wait for minutes; who reloads has done what it waits for."""
    secret = tmp_path / "secret"
    secret.write_text("wrong\n")
    secret.chmod(0o600)
    with Mosquitto(tmp_path, users={"device": "right"}) as broker:
        config = configuration(tmp_path, broker.port)
        broker_lines = f'username = "device"\npassword_file = "{secret}"\n'
        config.write_text(config.read_text().replace("[mqtt]\n", f"[mqtt]\n{broker_lines}"))
        with Daemon(tmp_path, config) as daemon:
            eventually(lambda: daemon.figures()["link"]["state"] == "broken", "it is refused", 30)
            secret.write_text("right\n")
            daemon.send(signal.SIGHUP)
            eventually(
                lambda: (daemon.figures()["link"] or {}).get("state") == "connected", "it is let in", 60
            )
            assert daemon.stop() == 0
