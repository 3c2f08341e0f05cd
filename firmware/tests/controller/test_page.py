"""The page over HTTP, as a browser without JavaScript and as a program see it."""

from __future__ import annotations

import base64
import http.client
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from plugmeter.controller.page import POLICY, Page
from plugmeter.controller.receiver import ReceiverStatus
from plugmeter.controller.store import Store, open_store
from plugmeter.errors import UsageError
from plugmeter.telemetry.record import Tombstone
from tests.controller.bookings import STREAM, document, message, receive, verdicts
from tests.controller.devices import account, stored, summary

HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}"


def status(state: str = "connected", reason: str = "", trouble: str = "") -> ReceiverStatus:
    counters = {"records": 0, "ack_refusals": 0, "dropped": 3, "strangers": 0, "refused": 1_234}
    return ReceiverStatus(state, "mqtt://127.0.0.1:1883", 0, reason, trouble, counters)


@contextmanager
def serving(store: Store, token: str | None = None, **changes: str) -> Iterator[Page]:
    page = Page(store, lambda: status(**changes), ("127.0.0.1", 0), token)
    page.start()
    try:
        yield page
    finally:
        page.stop()


def get(
    page: Page, path: str, headers: Mapping[str, str] | None = None, method: str = "GET"
) -> tuple[int, http.client.HTTPMessage, str]:
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=20)
    try:
        connection.request(method, path, headers=dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


def fill(store: Store) -> None:
    """A device with a bit of everything, all texts of which are hostile."""
    report = {
        "schema": "plugmeter-report/1",
        "expected": 5,
        "captured": 4,
        "matched": 4,
        "late": 0,
        "loss_rate": 0.2,
        "lost": {"socket_queue": 1},
        "certificate": {"valid": False, "reasons": [HOSTILE]},
        "listeners": [{"pid": 1, "comm": HOSTILE[:60], "groups": 3, "drops": 9}],
    }
    records = [
        *verdicts(1, 2, 3, 4),
        stored(
            5,
            "verdict",
            {"run": "r", "port": HOSTILE[:60], "outcome": "lost", "stage": HOSTILE, "action": HOSTILE},
        ),
        stored(6, "link", {"event": HOSTILE, "details": {HOSTILE: HOSTILE}}),
        stored(
            7, "signal", {"name": HOSTILE, "command": HOSTILE, "pid": HOSTILE, "uid": 0, "stage": HOSTILE}
        ),
        stored(
            8, "run-ended", {"run": HOSTILE[:64], "verdict": "INVALID", "interrupted": True, "report": report}
        ),
        stored(9, "health", {HOSTILE: HOSTILE}),
    ]
    receive(
        store,
        message(records, [Tombstone(10, 12, 0, HOSTILE, 1)]),
        document(
            "status", {"state": "lost", "stream": STREAM, "time": "2026-11-21T10:00:00Z", "reason": HOSTILE}
        ),
        document(
            "meta",
            {
                "version": HOSTILE[:60],
                "host": {"machine": HOSTILE, "kernel": HOSTILE},
                "ports": [HOSTILE[:60]],
                "rig": HOSTILE[:30],
                "capabilities": [],
                "schema": "v1",
            },
        ),
        document("summary", summary(account(STREAM, 20, 9, 3, 13))),
        document(
            "reported",
            {
                "id": "c",
                "state": "refused",
                "reason": HOSTILE,
                "config": {HOSTILE: {HOSTILE: HOSTILE, "list": [HOSTILE]}},
            },
        ),
        document("cmd/selftest/c-1", {"state": "refused", "reason": HOSTILE}),
        (f"plugmeter/v1/bench-1/cmd/{HOSTILE.replace('/', '')}/c-2", b'{"state":"<b>odd"}'),
    )


def test_an_empty_fleet_teaches(store: Store) -> None:
    with serving(store) as page:
        code, headers, text = get(page, "/")
    assert code == 200
    assert "No device has reported yet" in text
    assert "host = &#34;broker.example&#34;" in text or 'host = "broker.example"' in text
    assert headers["Content-Security-Policy"] == POLICY
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert "Server" not in headers


def test_the_views_show_what_is_there_and_escape_it(store: Store) -> None:
    fill(store)
    with serving(store) as page:
        _, _, fleet = get(page, "/")
        code, _, device = get(page, "/device/bench-1?hours=720")
    assert code == 200
    for text in (fleet, device):
        assert "<script>alert" not in text
        assert "<img" not in text
        assert "<b>odd" not in text
        assert "onerror=alert(2)&gt;" in text
        assert not re.search(r"\son\w+=", re.sub(r'"[^"]*"', '""', re.sub(r">[^<]*<", "><", text)))
        assert not re.search(r"(?:src|href)=\"(?!/|\?|#)", text), "nothing from elsewhere"
        assert " style=" not in text
        assert "<style" not in text
        assert re.findall(r"<script[^>]*>", text) == ['<script src="/static/page.js" defer>']
    assert "INVALID" in device
    assert "an INVALID run has none" in device
    assert "9 dropped" in fleet


def test_the_api_says_what_the_page_shows(store: Store) -> None:
    fill(store)
    with serving(store) as page:
        _, headers, text = get(page, "/api/fleet")
        _, _, device = get(page, "/api/device/bench-1?hours=168")
    assert headers["Content-Type"] == "application/json"
    fleet = json.loads(text)
    assert [row["name"] for row in fleet["devices"]] == ["bench-1"]
    row = fleet["devices"][0]
    assert (row["state"], row["backlog"], row["listener"]["drops"]) == ("lost", 8, 9)
    found = json.loads(device)
    (stream,) = found["device"]["streams"]
    assert (stream["produced"], stream["stored"], stream["tombstoned"], stream["pending"]) == (20, 9, 3, 8)
    assert stream["accounted"] is True
    assert found["runs"][0]["verdict"] == "INVALID"
    assert found["losses"][0]["seq"] == 5
    (listener,) = found["listeners"]
    assert (listener["drops"], listener["over_time"]["drops"]) == (9, 9)
    trend = listener["over_time"]["trend"]
    assert (len(trend), sum(trend)) == (len(found["device"]["over_time"]["columns"]), 9), "as the losses"
    assert found["device"]["certified"]["rate"] is None, "an INVALID run says nothing of losses"


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/device/nobody", 404),
        ("GET", "/device/bench-1?hours=25", 404),
        ("GET", "/device/%3Cscript%3E", 404),
        ("GET", "/api/device/nobody", 404),
        ("POST", "/", 405),
        ("DELETE", "/device/bench-1", 405),
        ("GET", "/static/../page.py", 404),
        ("GET", "/static/page.css", 200),
        ("HEAD", "/", 200),
    ],
)
def test_the_page_only_shows(store: Store, method: str, path: str, code: int) -> None:
    fill(store)
    with serving(store) as page:
        found, headers, text = get(page, path, method=method)
    assert found == code
    assert headers["Content-Security-Policy"] == POLICY
    assert "Traceback" not in text
    assert "<script>" not in text


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", ""])
def test_another_name_than_this_machines_is_refused(store: Store, host: str) -> None:
    with serving(store) as page:
        code, _, text = get(page, "/api/fleet", {"Host": host})
        assert get(page, "/", {"Host": f"localhost:{page.port}"})[0] == 200
        assert get(page, "/", {"Host": f"[::1]:{page.port}"})[0] == 200
    assert code in (400, 403)
    assert "devices" not in text


def test_a_token_is_asked_for(store: Store) -> None:
    token = "correct horse"
    with serving(store, token) as page:
        code, headers, text = get(page, "/api/fleet")
        assert (code, headers["WWW-Authenticate"]) == (401, 'Basic realm="Plugmeter", charset="UTF-8"')
        assert "devices" not in text
        assert get(page, "/static/page.js")[0] == 401
        for given in (
            "Bearer wrong",
            "Bearer",
            "Basic !!",
            "Basic " + base64.b64encode(b"me:no").decode(),
            "Digest x",
        ):
            assert get(page, "/", {"Authorization": given})[0] == 401
        basic = base64.b64encode(f"anybody:{token}".encode()).decode()
        assert get(page, "/", {"Authorization": f"Basic {basic}"})[0] == 200
        assert get(page, "/api/fleet", {"Authorization": f"Bearer {token}"})[0] == 200


def test_troubles_are_told(store: Store) -> None:
    changes = {"trouble": "database x: full (make room)", "reason": "connection refused", "state": "waiting"}
    with serving(store, None, **changes) as page:
        _, _, text = get(page, "/")
    assert "Nothing is being stored." in text
    assert "No records come in:</strong> connection refused" in text


def test_what_was_let_go_and_refused_is_shown(store: Store) -> None:
    receive(store, message(verdicts(1)))
    receive(store, message(verdicts(2), device="renamed"))
    with serving(store) as page:
        _, _, text = get(page, "/")
        _, _, device = get(page, "/device/renamed")
        _, _, api = get(page, "/api/fleet")
    assert ">3 dropped</span>" in text
    assert ">1,234 refused</span>" in text
    assert "strangers" not in text
    assert "not accounted for" in text
    assert f"stream {STREAM} belongs to bench-1" in device
    rows = {row["name"]: row["faults"] for row in json.loads(api)["devices"]}
    assert rows == {"bench-1": 0, "renamed": 1}


def test_an_address_that_is_taken_is_one_line(store: Store) -> None:
    with serving(store) as page, pytest.raises(UsageError, match="address already in use; name another one"):
        Page(store, status, ("127.0.0.1", page.port))
    with pytest.raises(UsageError, match="--listen"):
        Page(store, status, ("192.0.2.1", 0))


def test_a_store_that_cannot_be_read_is_told_and_comes_back(tmp_path: Path) -> None:
    """Where the database was there is a folder for a while."""
    store = open_store(str(tmp_path / "controller.db"))
    store.close()
    moved = tmp_path / "moved.db"
    folder = tmp_path / "controller.db"
    with serving(store) as page:
        folder.rename(moved)
        folder.mkdir()
        code, _, text = get(page, "/")
        assert code == 503
        assert "unable to open database file" in text
        folder.rmdir()
        moved.rename(folder)
        assert get(page, "/")[0] == 200
