from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from plugmeter.lifecycle.diagnosis.finding import NAMES, Finding
from plugmeter.lifecycle.exchange import Request
from plugmeter.lifecycle.figures import (
    Figures,
    LinkFigures,
    OutboxFigures,
    RunFigures,
    liveness,
    readiness,
    status_document,
)
from plugmeter.lifecycle.metrics import LABELS_LIMIT, Exposition, wants_open_metrics
from plugmeter.lifecycle.pages import StatusPages
from plugmeter.lifecycle.samples import ProcessSample, WorkerSample

OPEN_METRICS = "application/openmetrics-text"
S = 1_000_000_000

FULL = Figures(
    now_ns=100 * S,
    version="1.2.3",
    device="pi-7",
    pid=4711,
    stage="running",
    outbox=OutboxFigures(
        stream="s",
        produced=1000,
        acknowledged=900,
        tombstoned=60,
        pending=40,
        unannounced=2,
        bytes=123_456,
        counters={"commits": 17},
    ),
    link=LinkFigures(
        state="connected",
        since_ns=60 * S,
        broker="broker:8883",
        connects=3,
        failures={"network": 2, "auth": 1},
        in_flight=4,
        unacknowledged=40,
        oldest_unacknowledged_ns=99 * S,
        keepalive_s=15,
    ),
    run=RunFigures(
        state="running",
        rig="injected",
        expected=120,
        matched=118,
        late=1,
        lost=1,
        certificate="valid",
        episodes_total={"matched": 118, "late": 1, "lost": 1},
        lost_total={"socket_queue": 1},
        witnesses={"netlink": {"offered": 10, "delivered": 9, "lost": 1, "pending": 0}},
    ),
    process=ProcessSample(
        rss_bytes=41 << 20,
        peak_rss_bytes=44 << 20,
        cpu_ns=12_500_000_000,
        uptime_ns=3600 * S,
        descriptors=31,
        descriptor_limit=1024,
        thread_count=9,
    ),
    workers=(WorkerSample("outbox", 50, 20), WorkerSample("link", 70, 30)),
    findings=(Finding("spinning", "link", 90 * S, "link wakes up too often", "reconnect"),),
    looked_ns=99 * S,
    signals={"SIGHUP": 2},
    drains={"drained": 5, "ran_out": 1},
    discards={"inbox": 3},
    http={"answered": 8},
)


def scraped(
    figures: Figures, accept: str = OPEN_METRICS
) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample, by name and labels, through the library's own strict parser."""
    content_type, text = Exposition(lambda: figures).scrape(accept)
    assert content_type.startswith(OPEN_METRICS if accept == OPEN_METRICS else "text/plain; version=0.0.4")
    parse = parse_open_metrics if accept == OPEN_METRICS else parse_plain
    found = {}
    for family in parse(text.decode()):
        assert family.documentation
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, "each sample once"
            found[key] = sample.value
    return found


def labels(**given: str) -> frozenset[tuple[str, str]]:
    return frozenset(given.items())


@pytest.mark.parametrize("accept", [OPEN_METRICS, ""])
def test_a_scrape_is_read_back_by_the_librarys_own_parser(accept: str) -> None:
    found = scraped(FULL, accept)
    for name, given_labels, value in (
        ("plugmeter_stage", labels(stage="running"), 1),
        ("plugmeter_stage", labels(stage="draining"), 0),
        ("plugmeter_outbox_records_total", labels(state="produced"), 1000),
        ("plugmeter_outbox_records_total", labels(state="acknowledged"), 900),
        ("plugmeter_outbox_records_total", labels(state="tombstoned"), 60),
        ("plugmeter_outbox_pending_records", labels(), 40),
        ("plugmeter_outbox_bytes", labels(), 123_456),
        ("plugmeter_outbox_trouble", labels(), 0),
        ("plugmeter_link_state", labels(state="connected"), 1),
        ("plugmeter_link_connects_total", labels(), 3),
        ("plugmeter_link_failures_total", labels(cause="network"), 2),
        ("plugmeter_link_in_flight", labels(), 4),
        ("plugmeter_link_unacknowledged_seconds", labels(), 1),
        ("plugmeter_episodes_total", labels(outcome="matched"), 118),
        ("plugmeter_lost_total", labels(stage="socket_queue"), 1),
        ("plugmeter_witness_records_total", labels(witness="netlink", state="lost"), 1),
        ("plugmeter_discards_total", labels(where="inbox"), 3),
        ("plugmeter_worker_wakeups_total", labels(worker="link"), 70),
        ("plugmeter_worker_work_total", labels(worker="outbox"), 20),
        ("plugmeter_finding", labels(finding="spinning", worker="link"), 1),
        ("plugmeter_finding", labels(finding="stuck", worker=""), 0),
        ("plugmeter_signals_total", labels(signal="SIGHUP"), 2),
        ("plugmeter_drains_total", labels(result="ran_out"), 1),
        ("plugmeter_http_requests_total", labels(result="answered"), 8),
        ("process_open_fds", labels(), 31),
        ("process_max_fds", labels(), 1024),
        ("process_resident_memory_bytes", labels(), 41 << 20),
        ("process_cpu_seconds_total", labels(), 12.5),
    ):
        assert found[name, given_labels] == value, (name, given_labels)
    assert found["process_start_time_seconds", labels()] > 1_600_000_000
    assert [dict(key)["version"] for name, key in found if name == "plugmeter_build_info"] == ["1.2.3"]


def test_a_daemon_that_has_only_begun_has_metrics_too() -> None:
    found = scraped(Figures(stage="initializing"))
    assert found["plugmeter_stage", labels(stage="initializing")] == 1
    assert {dict(key)["finding"] for name, key in found if name == "plugmeter_finding"} == set(NAMES)


COUNTS = st.dictionaries(st.text(max_size=150), st.integers(0, 2**63), max_size=100)


@given(COUNTS, COUNTS, COUNTS, st.text(max_size=20))
def test_labels_are_capped_and_nothing_is_lost_of_the_sum(
    causes: dict[str, int], stages: dict[str, int], signals: dict[str, int], stage: str
) -> None:
    figures = Figures(
        stage=stage,
        link=LinkFigures(failures=causes, state=stage),
        run=RunFigures(lost_total=stages),
        signals=signals,
    )
    for accept in (OPEN_METRICS, "text/plain"):
        found = scraped(figures, accept)
        for name, counts in (
            ("plugmeter_link_failures_total", causes),
            ("plugmeter_lost_total", stages),
            ("plugmeter_signals_total", signals),
        ):
            values = [value for (each, _), value in found.items() if each == name]
            assert len(values) <= LABELS_LIMIT
            assert sum(values) == pytest.approx(sum(counts.values()))


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        (OPEN_METRICS, True),
        ("text/html, Application/OpenMetrics-Text; version=1.0.0;q=0.5,text/plain;q=0.3", True),
        (f"{OPEN_METRICS};version=9.x\r\n bad: header", True),
        (f"{OPEN_METRICS}; q=0", False),
        (",,;;=", False),
    ],
)
def test_which_form_is_wanted(accept: str, wanted: bool) -> None:
    assert wants_open_metrics(accept) is wanted


def test_alive_is_who_moves_and_ready_who_does_his_work() -> None:
    ready = Figures(stage="running", outbox=OutboxFigures(), now_ns=10 * S, looked_ns=9 * S)
    assert (liveness(ready), readiness(ready)) == ((), ())
    assert readiness(Figures(stage="draining", outbox=OutboxFigures())) == ("it is draining",)
    assert readiness(Figures(stage="running")) == ("the outbox is not open",)
    full = Figures(stage="running", outbox=OutboxFigures(trouble="disk full"))
    assert readiness(full) == ("the outbox cannot write: disk full",)
    stuck = Finding("stuck", "outbox", 0, "outbox has not moved for 31 s", "none")
    dead = Figures(stage="running", outbox=OutboxFigures(), findings=(stuck,))
    assert liveness(dead) == readiness(dead) == (stuck.evidence,)
    blind = Figures(now_ns=100 * S, looked_ns=1 * S, stuck_s=30)
    assert liveness(blind) == ("the daemon has not looked at its workers for 99.0 s",)


def pages(figures: Figures) -> Mapping[str, tuple[int, bytes]]:
    site = StatusPages(lambda: figures, Exposition(lambda: figures))
    found = {}
    for path in ("/", "/metrics", "/livez", "/readyz", "/status"):
        response = site(Request(path, ""))
        assert response is not None
        found[path] = (response.status, response.body)
    assert site(Request("/etc/passwd", "")) is None
    return found


def test_the_pages() -> None:
    good = pages(FULL)
    assert good["/livez"] == good["/readyz"] == (200, b"ok\n")
    assert b"plugmeter_build_info" in good["/metrics"][1]
    document = json.loads(good["/status"][1])
    assert document == json.loads(json.dumps(status_document(FULL)))
    assert (document["ready"], document["outbox"]["pending"]) == ([], 40)
    bad = pages(Figures(stage="terminating"))
    assert bad["/readyz"] == (503, b"it is terminating\nthe outbox is not open\n")
    assert bad["/livez"][0] == 200


def test_json_has_no_nan() -> None:
    document = status_document(Figures(stuck_s=float("nan"), link=LinkFigures(keepalive_s=float("inf"))))
    assert json.loads(json.dumps(document, allow_nan=False))["link"]["keepalive_s"] is None
