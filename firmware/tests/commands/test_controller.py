"""``plugmeter controller`` on the command line."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from plugmeter.controller.store import open_store
from tests.controller.bookings import STREAM, document, message, receive, verdicts
from tests.controller.devices import Device, account, summary
from tests.controller.processes import ENVIRONMENT, PROGRAM, Controller, run_controller
from tests.telemetry.broker import Mosquitto, eventually, free_port


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Three records of a device, all accounted for."""
    path = tmp_path / "controller.db"
    store = open_store(str(path))
    receive(store, message(verdicts(1, 2, 3)), document("summary", summary(account(STREAM, 4, 3, 0, 4))))
    store.close()
    return path


def test_an_audit_of_what_is_there_is_good(database: Path) -> None:
    done = run_controller("audit", "--database", str(database))
    assert (done.returncode, done.stderr) == (0, "")
    assert "4 produced = 3 stored + 0 tombstoned + 1 pending" in done.stdout
    assert done.stdout.endswith("1 device, 1 stream: every record is accounted for\n")


def test_an_audit_of_what_is_missing_is_not(database: Path) -> None:
    connection = sqlite3.connect(database)
    connection.execute("DELETE FROM record WHERE seq = 2")
    connection.execute("UPDATE coverage SET last = 1")
    connection.execute("INSERT INTO coverage VALUES (1, 'record', 3, 3)")
    connection.commit()
    connection.close()
    done = run_controller("audit", "--database", str(database), "--device", "bench-1", "--json")
    assert done.returncode == 1
    value = json.loads(done.stdout)
    assert value["accounted"] is False
    assert value["streams"][0]["lost_among"] == [[2, 2]]


def test_devices_are_listed(database: Path) -> None:
    done = run_controller("devices", "--database", str(database))
    assert done.returncode == 0
    assert done.stdout.startswith("bench-1 ")
    rows = json.loads(run_controller("devices", "--database", str(database), "--json").stdout)
    assert rows[0]["backlog"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("audit", "--database", "/nonexistent/x.db"), "there is no database /nonexistent/x.db"),
        (("audit", "--database", "mysql://x/y"), "postgresql://user@host/name"),
        (("serve", "--listen", "8080"), "--listen 8080: give ADDRESS:PORT"),
        (("serve", "--listen", "127.0.0.1:99999"), "give ADDRESS:PORT"),
        (("serve", "--broker", "http://x"), "--broker http://x: give mqtt://HOST:PORT"),
        (("serve", "--keep-days", "0"), "--keep-days 0: give 1 to 36500, or leave it out to keep all"),
        (("serve", "--keep-days", "a week"), "--keep-days"),
        (("serve", "--share", "a/b"), "--share 'a/b'"),
        (("serve", "--token-file", "/nonexistent"), "--token-file /nonexistent: no such file"),
        (("--database", "/nonexistent/x.db"), "there is no folder /nonexistent"),
        (("command", "bench-1", "dance"), "dance"),
        (("command", "bench-1", "start-run", "--argument", "rig"), "--argument rig: give NAME=VALUE"),
        (("config", "bench-1", "/nonexistent.toml"), "cannot read /nonexistent.toml: no such file"),
        (("nonsense",), "nonsense"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    done = subprocess.run(
        [sys.executable, PROGRAM, *arguments],
        env=ENVIRONMENT,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "plugmeter-controller.db").exists() or arguments[0] == "serve"


def test_an_unknown_device_is_one_line(database: Path) -> None:
    done = run_controller("audit", "--database", str(database), "--device", "bench-9")
    assert done.returncode == 2
    assert done.stderr == ("plugmeter: no device 'bench-9' has reported; see plugmeter controller devices\n")


def test_a_server_that_is_away_is_one_line() -> None:
    done = run_controller("audit", "--database", f"postgresql://me@127.0.0.1:{free_port()}/x")
    assert done.returncode == 1
    assert done.stderr.startswith("plugmeter: database postgresql://me@127.0.0.1:")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_told_to_end(tmp_path: Path, ending: signal.Signals) -> None:
    database = tmp_path / "controller.db"
    with (
        Mosquitto(tmp_path) as broker,
        Controller(
            "--database", str(database), "--broker", f"127.0.0.1:{broker.port}", "--listen", "127.0.0.1:0"
        ) as controller,
        Device(broker.port) as device,
    ):
        controller.await_said("connected to")
        url = controller.await_said("page: ").partition("page: ")[2]

        def arrived() -> bool:  # it may have connected and not subscribed yet: a device sends again, too
            device.send(verdicts(1, 2, 3))
            return device.await_acknowledged({1, 2, 3}, 1)

        eventually(arrived, "all are acknowledged")
        with urllib.request.urlopen(f"{url}api/fleet", timeout=20) as answer:
            fleet = json.load(answer)
        assert [row["name"] for row in fleet["devices"]] == ["bench-1"]
        controller.process.send_signal(ending)
        assert controller.process.wait(30) == 0
        # How many had come before depends on how often they had to be sent.
        assert controller.await_said("ended: ").startswith("plugmeter: ended: 3 records stored, ")


def test_the_page_is_there_while_the_broker_is_not(tmp_path: Path) -> None:
    port = free_port()
    with Controller(
        "--database", str(tmp_path / "c.db"), "--broker", f"127.0.0.1:{port}", "--listen", "127.0.0.1:0"
    ) as controller:
        line = controller.await_said("no connection")
        assert (
            line == f"plugmeter: no connection to mqtt://127.0.0.1:{port}: connection refused; trying again"
        )
        url = controller.await_said("page: ").partition("page: ")[2]
        with urllib.request.urlopen(url, timeout=20) as answer:
            assert b"connection refused" in answer.read()
        assert controller.end() == 0


def test_an_address_of_the_page_that_is_taken_is_one_line(tmp_path: Path) -> None:
    arguments = ("--broker", f"127.0.0.1:{free_port()}", "--database", str(tmp_path / "c.db"))
    with Controller(*arguments, "--listen", "127.0.0.1:0") as controller:
        url = controller.await_said("page: ").partition("page: http://")[2].rstrip("/")
        done = run_controller("serve", *arguments, "--listen", url)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"plugmeter: --listen {url}: address already in use; name another one"
    )


def test_options_may_stand_before_the_sub_command(database: Path) -> None:
    done = run_controller("--database", str(database), "audit")
    assert done.returncode == 0
    assert "3 stored" in done.stdout


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        (
            "flask",
            ("serve", "--listen", "127.0.0.1:0"),
            "the page needs flask: install Plugmeter with its extra",
        ),
        ("waitress", ("serve", "--listen", "127.0.0.1:0"), "the page needs waitress"),
        (
            "psycopg",
            ("audit", "--database", "postgresql://x/y"),
            "PostgreSQL needs psycopg: install Plugmeter",
        ),
    ],
)
def test_a_missing_extra_is_one_line(
    tmp_path: Path, module: str, arguments: tuple[str, ...], words: str
) -> None:
    """As Python itself does it: a module that is None in sys.modules cannot be imported."""
    code = (
        f"import sys, runpy; sys.modules[{module!r}] = None; "
        f"sys.argv = ['controller', *{arguments!r}]; runpy.run_path({str(PROGRAM)!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=ENVIRONMENT,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"plugmeter: {words}")
    assert "Traceback" not in done.stderr
