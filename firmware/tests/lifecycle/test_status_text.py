from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.lifecycle.diagnosis.finding import Finding
from plugmeter.lifecycle.figures import Figures, LinkFigures, OutboxFigures, RunFigures
from plugmeter.lifecycle.health import Drain, HealthSnapshot, LogLine
from plugmeter.lifecycle.samples import ProcessSample
from plugmeter.lifecycle.status_text import ago, running, size, stopped

S = 1_000_000_000


def test_a_running_daemon_on_one_screen() -> None:
    figures = Figures(
        now_ns=10_000 * S,
        version="1.2.3",
        device="pi-7",
        pid=4711,
        stage="running",
        outbox=OutboxFigures(
            produced=12_345,
            acknowledged=12_000,
            tombstoned=300,
            pending=45,
            bytes=5 << 20,
            trouble="disk full",
        ),
        link=LinkFigures(
            state="connected",
            broker="broker:8883",
            since_ns=2_800 * S,
            in_flight=3,
            unacknowledged=45,
            oldest_unacknowledged_ns=9_988 * S,
            connects=4,
            failures={"network": 3, "auth": 0},
            breaker="closed",
        ),
        run=RunFigures(
            state="running",
            rig="relay",
            expected=1200,
            matched=1198,
            late=1,
            lost=1,
            certificate="valid",
            verdict="VALID: all is well",
            lost_total={"udevd": 1},
        ),
        process=ProcessSample(41 << 20, 44 << 20, 12 * S, 90_061 * S, 31, 1024, 9),
        findings=(Finding("spinning", "link", 9_000 * S, "link wakes up too often", "reconnect"),),
        signals={"SIGHUP": 2},
        last_errors=(LogLine(1_790_000_000 * S, "WARNING", "plugmeter.link", "the broker went away"),),
    )
    assert running(figures, ["the outbox cannot write: disk full"]) == [
        "plugmeter 1.2.3 on pi-7 (pid 4711) is NOT ready, up 1 d 1 h",
        "not ready  the outbox cannot write: disk full",
        "stage      running",
        "run        running, rig relay: 1,200 expected, 1,198 matched, 1 late, 1 lost",
        "           last run: certificate valid; VALID: all is well",
        "           lost since the daemon's start: 1 udevd",
        "outbox     45 pending of 12,345 produced (12,000 acknowledged, 300 tombstoned), 5.0 MiB on disk",
        "           CANNOT WRITE: disk full",
        "link       connected (broker:8883) for 2 h 0 min; 3 in flight, 45 await the controller, the oldest",
        "             for 12.0 s",
        "           4 connects; failures: 3 network",
        "process    41.0 MiB (peak 44.0 MiB), 9 threads, 31 of 1,024 descriptors, 12.0 s of processor time",
        "signals    2 SIGHUP",
        "findings   spinning, for 16 min 40 s: link wakes up too often (remedy: reconnect)",
        "warnings   2026-09-21 14:13:20Z WARNING the broker went away",
    ]


def test_a_run_that_failed_is_said_first_and_has_no_certificate() -> None:
    run = RunFigures(
        state="failed", rig="relay", certificate="valid", verdict="VALID: all", failure="no\x1b line 4"
    )
    lines = running(Figures(version="1.2.3", pid=5, run=run), [])
    assert lines[0].startswith("plugmeter 1.2.3 (pid 5) is ready; run failed: no")
    assert "\x1b" not in lines[0]
    at = next(number for number, line in enumerate(lines) if line.startswith("run "))
    assert lines[at] == "run        failed, rig relay: 0 expected, 0 matched, 0 late, 0 lost"
    assert lines[at + 1] == "           last run: certificate valid; VALID: all"


def test_books_that_do_not_add_up_are_said_loudly() -> None:
    lines = running(Figures(outbox=OutboxFigures(produced=5, pending=4)), [])
    assert any("DO NOT ADD UP" in line for line in lines)


def test_a_stopped_daemon_is_told_of_by_its_last_snapshot() -> None:
    health = HealthSnapshot(
        time_ns=1_790_000_000 * S,
        version="1.2.3",
        stage="stopped",
        reason="SIGTERM from systemd",
        uptime_s=7261,
        backlog=3,
        account={"produced": 9, "acknowledged": 6, "stream": "s"},
        rss_bytes=40 << 20,
        peak_rss_bytes=50 << 20,
        threads=8,
        descriptors=30,
        drains=(Drain(1_790_000_000 * S, "ran_out", 10.01, 10, 3),),
    )
    now_ns = 1_790_000_090 * S
    assert stopped("nobody serves at unix:/x", None, health, "", now_ns) == [
        "plugmeter does not run: nobody serves at unix:/x",
        "last seen  2026-09-21 14:13:20Z, 1 min 30 s ago: stopped (SIGTERM from systemd)",
        "version    1.2.3, up 2 h 1 min then",
        "outbox     3 pending (9 produced, 6 acknowledged)",
        "process    40.0 MiB (peak 50.0 MiB), 8 threads, 30 descriptors",
        "drains     2026-09-21 14:13:20Z: ran_out after 10.01 s of 10.0 s, 3 left",
        "findings   none",
    ]
    assert stopped("busy", 12, None, "there is none", now_ns) == [
        "plugmeter runs (pid 12), but cannot be asked: busy",
        "last       unknown: there is none",
    ]
    assert "in the future" in stopped("x", None, health, "", 0)[1]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 0 s"), (3600, "1 h 0 min"), (10**9, "11,574 d 1 h")],
)
def test_durations(seconds: float, words: str) -> None:
    assert ago(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (1024, "1.0 KiB"), (3 << 30, "3.0 GiB"), (5 << 50, "5,120.0 TiB")]
)
def test_sizes(count: int, words: str) -> None:
    assert size(count) == words


HOSTILE = st.text(max_size=60)
NUMBER = st.integers(-(2**62), 2**62)


@given(
    st.builds(
        Figures,
        now_ns=NUMBER,
        version=HOSTILE,
        device=HOSTILE,
        stage=HOSTILE,
        link=st.builds(
            LinkFigures,
            state=HOSTILE,
            broker=HOSTILE,
            since_ns=NUMBER,
            next_attempt_ns=NUMBER,
            failures=st.dictionaries(HOSTILE, NUMBER, max_size=3),
        ),
        outbox=st.builds(OutboxFigures, trouble=HOSTILE, produced=NUMBER, bytes=NUMBER),
        findings=st.tuples(st.builds(Finding, st.just("stuck"), HOSTILE, NUMBER, HOSTILE, st.just("none"))),
        last_errors=st.tuples(st.builds(LogLine, NUMBER, HOSTILE, HOSTILE, HOSTILE)),
    ),
    st.lists(HOSTILE, max_size=2),
)
def test_whatever_is_told_each_line_is_printable_and_fits(figures: Figures, reasons: list[str]) -> None:
    for line in running(figures, reasons)[1:]:
        assert line.isprintable()
        assert len(line) <= 100


@given(
    st.builds(HealthSnapshot, time_ns=NUMBER, version=HOSTILE, reason=HOSTILE, uptime_s=st.floats(0, 1e18))
)
def test_whatever_was_left_each_line_is_printable_and_fits(health: HealthSnapshot) -> None:
    for line in stopped("why", None, health, "", 0)[1:]:
        assert line.isprintable()
        assert len(line) <= 100
