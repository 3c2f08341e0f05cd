"""The uplink by itself: a real link, and an outbox on disk."""

from __future__ import annotations

import time
from concurrent.futures import Future
from pathlib import Path

from plugmeter import config
from plugmeter.daemon.footprints import Footprints
from plugmeter.daemon.recorder import Recorder
from plugmeter.daemon.runs import Runs
from plugmeter.daemon.uplink import Uplink
from plugmeter.files import replace_file
from plugmeter.lifecycle.allowance import Allowance
from plugmeter.telemetry.link import LinkSettings
from plugmeter.telemetry.outbox import Outbox, limits_of
from tests.telemetry.broker import Mosquitto, eventually, free_port


class Selector:
    """What Runs wants of the conductor; there are no runs here."""

    def register(self, descriptor: int, callback: object) -> None:
        raise AssertionError("no run")

    def unregister(self, descriptor: int) -> None:
        raise AssertionError("no run")

    def wake(self) -> None:
        pass


def test_a_credential_that_vanishes_after_the_check_fails_no_reload(tmp_path: Path) -> None:
    """It is the link's trouble from then on, as with one that vanishes later."""
    secret = tmp_path / "secret"
    secret.write_text("x\n")
    secret.chmod(0o600)
    nobody = config.from_table({"daemon": {"device": "bench"}}, "f.toml")
    mqtt = {
        "host": "127.0.0.1",
        "port": free_port(),
        "username": "u",
        "password_file": str(secret),
    }
    somebody = config.from_table({"daemon": {"device": "bench"}, "mqtt": mqtt}, "f.toml")
    settings = LinkSettings.from_config(somebody, "bench", warn=print)
    outbox = Outbox(tmp_path / "outbox.db", limits_of(nobody.outbox), print)
    outbox.start()
    uplink = Uplink(
        "bench", nobody, outbox, Runs(Selector(), outbox, nobody), Recorder(),
        Footprints(tmp_path / "footprints.json", "", print, replace_file),
        reported=lambda: b"{}", command=print, desire=print, call=lambda _: Future(),
    )  # fmt: skip
    try:
        uplink.open()
        assert uplink.link is None
        secret.unlink()
        uplink.configure(somebody, settings, forgiving=True)
        link = uplink.link
        assert link is not None
        eventually(lambda: "secret" in (link.status().last_failure or ""), "it says what is missing")
        uplink.restart()
        assert uplink.link is not link, "and another may still take its place"
        uplink.configure(nobody, LinkSettings.from_config(nobody, "bench", warn=print), forgiving=True)
        assert uplink.link is None
    finally:
        outbox.close(1.0)


def test_none_that_stops_is_kicked(tmp_path: Path) -> None:
    """``tick`` is for all stages, ``look`` only for running."""
    with Mosquitto(tmp_path) as broker:
        mqtt = {"host": "127.0.0.1", "port": broker.port}
        settings = config.from_table({"daemon": {"device": "bench"}, "mqtt": mqtt}, "f.toml")
        outbox = Outbox(tmp_path / "outbox.db", limits_of(settings.outbox), print)
        outbox.start()
        uplink = Uplink(
            "bench", settings, outbox, Runs(Selector(), outbox, settings), Recorder(),
            Footprints(tmp_path / "footprints.json", "", print, replace_file),
            reported=lambda: b"{}", command=print, desire=print, call=lambda _: Future(),
        )  # fmt: skip
        try:
            uplink.open()
            link = uplink.link
            assert link is not None
            eventually(lambda: link.status().connects == 1, "connected")
            for number in range(100):
                uplink.answer(f"plugmeter/v1/bench/cmd/resync/{number}", b"", None)
            time.sleep(3.1)  # it is calm: what was behind so many answers is to be heard
            uplink.tick()
            uplink.look()
            eventually(lambda: link.status().connects == 2, "kicked by the look")
            assert link.status().failures == {"kicked": 1}, "and by nothing else"
        finally:
            uplink.say_goodbye("for a test", 1.0, Allowance(7.0))
            outbox.close(1.0)
