"""Each detector by tables, and by properties: healthy traces are never accused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.lifecycle.diagnosis.doctor import Doctor, Limits, headline
from plugmeter.lifecycle.diagnosis.fd_leak import FdLeak
from plugmeter.lifecycle.diagnosis.finding import Change, Finding
from plugmeter.lifecycle.diagnosis.half_open import HalfOpen
from plugmeter.lifecycle.diagnosis.run_failures import RunFailures
from plugmeter.lifecycle.diagnosis.spinning import Spinning
from plugmeter.lifecycle.diagnosis.stuck import Stuck
from plugmeter.lifecycle.diagnosis.tls_handshakes import TlsHandshakes
from plugmeter.lifecycle.diagnosis.twin import Twin
from plugmeter.lifecycle.samples import (
    LinkSample,
    Observation,
    ProcessSample,
    RunSample,
    TcpSample,
    ThreadSample,
    WorkerSample,
)

S = 1_000_000_000

PROCESS = ProcessSample(
    rss_bytes=1,
    peak_rss_bytes=1,
    cpu_ns=0,
    uptime_ns=S,
    descriptors=20,
    descriptor_limit=1024,
    thread_count=2,
)
LINK = LinkSample("connected", 0, None, None, 0)
TCP = TcpSample(1, 0, 0, 0, 0, 0, 60_000, 60_000, 1000)


def workers(**wakeups_and_work: tuple[int, int]) -> tuple[WorkerSample, ...]:
    return tuple(WorkerSample(name, *each) for name, each in wakeups_and_work.items())


# stuck


def look_at_wakeups(stuck: Stuck, wakeups: Iterable[int], step_ns: int = S) -> list[list[Finding]]:
    return [stuck.look(Observation(at * step_ns, workers(link=(each, 0)))) for at, each in enumerate(wakeups)]


def test_a_worker_that_rests_is_stuck_since_its_last_move_and_moving_ends_it() -> None:
    stuck = Stuck(10 * S, lambda name: f"{name}.py:1 wait")
    seen = look_at_wakeups(stuck, [1, 2, 3, *[4] * 14, *range(5, 12)])
    assert not any(seen[:13])
    accused = seen[13]
    assert [(each.name, each.worker, each.since_ns, each.remedy) for each in accused] == [
        ("stuck", "link", 3 * S, "restart_worker")
    ]
    assert accused[0].evidence == "link has not moved for 10 s: in link.py:1 wait"
    assert seen[14] == seen[16] == accused, "told once, not anew"
    assert seen[17] == accused, "one move is no recovery yet"
    assert seen[-1] == []


@pytest.mark.parametrize(
    ("worker", "remedy"),
    [
        ("link", "restart_worker"),
        ("metrics", "restart_worker"),
        ("runner", "restart_worker"),
        ("outbox", "none"),
        ("operator", "none"),
    ],
)
def test_what_may_be_done_to_a_stuck_worker(worker: str, remedy: str) -> None:
    stuck = Stuck(4 * S, lambda name: "")
    thread = ThreadSample(worker, 4711, "D", 0)
    for at in range(6):
        process = replace(PROCESS, threads=(thread,))
        found = stuck.look(Observation(at * S, (WorkerSample(worker, 7, 0),), process))
    assert [each.remedy for each in found] == [remedy]
    assert "(thread 4711, state D): no thread of this process has that name" in found[0].evidence


def test_a_worker_that_is_gone_or_was_started_anew_is_not_stuck() -> None:
    stuck = Stuck(4 * S, lambda name: "")
    assert look_at_wakeups(stuck, [5] * 6)[-1]
    assert stuck.look(Observation(7 * S)) == []
    assert stuck.look(Observation(8 * S, workers(link=(0, 0)))) == []


@given(st.lists(st.tuples(st.integers(1, 100), st.integers(0, 9 * S)), max_size=60))
def test_a_slow_worker_that_moves_is_never_stuck(moves: list[tuple[int, int]]) -> None:
    """It moves between any two looks that are not 10 s apart, however slowly, in whatever rhythm."""
    stuck = Stuck(10 * S, lambda name: "")
    now_ns, wakeups = 0, 0
    for more, pause_ns in moves:
        wakeups += more
        for part in range(3):  # several looks between two moves
            assert stuck.look(Observation(now_ns + part * pause_ns // 3, workers(a=(wakeups, 0)))) == []
        now_ns += pause_ns


@given(st.lists(st.integers(0, 10**6 * S), min_size=1, max_size=4))
def test_who_was_stopped_as_a_whole_finds_nobody_stuck(pauses_ns: list[int]) -> None:
    """SIGSTOP, a suspended machine: time passes, the workers could not move, and nobody looked."""
    stuck = Stuck(30 * S, lambda name: "")
    now_ns = 0
    for pause_ns in pauses_ns:
        assert stuck.look(Observation(now_ns, workers(a=(1, 0)))) == []
        now_ns += pause_ns


@given(st.integers(4 * S, 100 * S), st.integers(S // 10, S))
def test_whoever_rests_is_found_within_the_time_and_one_look(stuck_ns: int, step_ns: int) -> None:
    stuck = Stuck(stuck_ns, lambda name: "")
    looks = stuck_ns // step_ns + 2
    assert look_at_wakeups(stuck, [1] * (looks + 1), step_ns)[-1]


# spinning


def look_at_rates(
    spinning: Spinning, rates: Sequence[tuple[int, int]], cpu_ns: int = 0
) -> list[list[Finding]]:
    """Wake-ups and work of each second."""
    wakeups = work = 0
    found = []
    for at, (more, worked) in enumerate([(0, 0), *rates]):
        wakeups += more
        work += worked
        threads = (ThreadSample("link", 9, "R", at * cpu_ns),)
        process = replace(PROCESS, threads=threads)
        found.append(spinning.look(Observation(at * S, workers(link=(wakeups, work)), process)))
    return found[1:]


def test_a_loop_without_work_spins_and_calm_ends_it() -> None:
    spinning = Spinning(2_000)
    hot, calm = [(50_000, 3)] * 5, [(2, 0)] * 4
    seen = look_at_rates(spinning, [*hot, *calm], cpu_ns=970_000_000)
    assert [bool(each) for each in seen] == [False, False, True, True, True, True, True, False, False]
    finding = seen[2][0]
    assert (finding.worker, finding.since_ns, finding.remedy) == ("link", 0, "reconnect")
    assert finding.evidence == (
        "link wakes up 50,000 times a second and finds work in 0.0% of them, for 3 s (limit 2,000);"
        " its thread takes 97% of a processor"
    )


@pytest.mark.parametrize(
    "rates",
    [
        [(50_000, 50_000)] * 9,  # busy
        [(50_000, 6_000)] * 9,  # busy, with some in vain
        [(2_000, 0)] * 9,  # at the limit
        [(50_000, 0), (50_000, 0), (10, 0)] * 4,  # short
        [(1, 0)] * 9,
        [(0, 0)] * 9,
    ],
)
def test_what_is_no_spinning(rates: list[tuple[int, int]]) -> None:
    assert not any(look_at_rates(Spinning(2_000), rates))


RATES = st.one_of(
    st.tuples(st.integers(0, 2_000), st.integers(0, 2_000)),  # few wake-ups
    st.integers(0, 10**6).flatmap(lambda n: st.tuples(st.just(n), st.integers(n // 10 + 1, n + 1))),
)


@given(st.lists(RATES, max_size=30))
def test_a_busy_worker_with_work_never_spins(rates: list[tuple[int, int]]) -> None:
    assert not any(look_at_rates(Spinning(2_000), rates))


@given(st.lists(st.tuples(st.integers(2_100, 10**6), st.just(0)), min_size=5, max_size=9))
def test_whoever_spins_on_is_found(rates: list[tuple[int, int]]) -> None:
    assert look_at_rates(Spinning(2_000), rates)[-1]


def test_a_restarted_worker_counts_from_nothing() -> None:
    spinning = Spinning(2_000)
    assert look_at_rates(spinning, [(90_000, 0)] * 4)[-1]
    assert spinning.look(Observation(5 * S, workers(link=(1, 0)))) == []


# fd_leak


def look_at_counts(leak: FdLeak, counts: Iterable[int], limit: int = 10**6) -> list[list[Finding]]:
    return [
        leak.look(Observation(at * S, (), replace(PROCESS, descriptors=each, descriptor_limit=limit)))
        for at, each in enumerate(counts)
    ]


def test_what_grows_and_grows_is_a_leak_and_coming_back_ends_it() -> None:
    leak = FdLeak(64, 10 * S)
    seen = look_at_counts(leak, [*range(20, 320), *[25] * 12])
    first = next(at for at, each in enumerate(seen) if each)
    assert 64 <= first <= 64 + 25
    finding = seen[first][0]
    assert (finding.name, finding.worker, finding.remedy) == ("fd_leak", "process", "none")
    assert finding.since_ns <= 20 * S
    assert all(each == [finding] for each in seen[first:300])
    assert seen[-1] == []


def test_the_evidence_names_what_grew() -> None:
    leak = FdLeak(8, 2 * S)
    found: list[Finding] = []
    for at in range(40):
        kinds = (("socket", 3 + at), ("/dev/null", 5), ("eventpoll", 1 + at // 8))
        total = sum(each for _, each in kinds)
        process = replace(PROCESS, descriptors=total + 10, kinds=kinds, kinds_of=total)
        found = leak.look(Observation(at * S, (), process)) or found
    assert "descriptors of 1024 are open" in found[0].evidence
    assert ": socket +" in found[0].evidence
    assert ", eventpoll +" in found[0].evidence
    assert "/dev/null" not in found[0].evidence
    assert "(of the newest " in found[0].evidence


def test_what_grew_and_stands_still_is_still_lost() -> None:
    seen = look_at_counts(FdLeak(64, 10 * S), [*range(20, 120), *[120] * 100])
    assert seen[-1]


def test_a_leak_that_is_at_the_limit_before_it_could_rise_four_times() -> None:
    seen = look_at_counts(FdLeak(64, 10 * S), [*[20] * 12, 500, *[1024] * 21], limit=1024)
    assert seen[-1]
    assert "1024 descriptors of 1024" in seen[-1][0].evidence


@given(st.integers(1, 200), st.integers(4, 100), st.integers(10, 60))
def test_every_leak_is_found_however_slow(step_s: int, growth: int, base: int) -> None:
    """One descriptor every ``step_s`` seconds."""
    counts = (base + at // step_s for at in range(step_s * (growth + 6) + 60))
    assert any(look_at_counts(FdLeak(growth, 10 * S), counts))


@given(
    st.lists(st.lists(st.integers(0, 5_000), min_size=9, max_size=9), min_size=1, max_size=25),
    st.lists(st.tuples(st.integers(0, 25), st.integers(0, 500)), max_size=3),
)
def test_bursts_and_a_few_lasting_steps_are_no_leak(
    bursts: list[list[int]], steps: list[tuple[int, int]]
) -> None:
    """In each window one moment without a burst is enough; the level itself may rise for good three times."""
    counts: list[int] = []
    for window, burst in enumerate(bursts):
        level = 20 + sum(height for at, height in steps if at <= window)
        counts += [level + each for each in burst] + [level]
    assert not any(look_at_counts(FdLeak(64, 10 * S), counts))


@given(st.lists(st.integers(20, 20 + 63), max_size=400))
def test_less_than_the_growth_is_no_leak_whatever_it_does(counts: list[int]) -> None:
    assert not any(look_at_counts(FdLeak(64, 3 * S), counts))


# half_open


def wait(
    link: LinkSample, tcp: TcpSample | None, seconds: int, detector: HalfOpen | None = None, start: int = 0
) -> list[list[Finding]]:
    detector = detector or HalfOpen()
    return [detector.look(Observation((start + at) * S, link=link, tcp=tcp)) for at in range(seconds)]


WAITING = replace(LINK, connected_since_ns=-50 * S, oldest_unacknowledged_ns=-S, last_received_ns=-2 * S)
RESENT = replace(TCP, unacked=3, retransmits=5)


def test_retransmissions_without_an_answer_are_a_half_open_connection() -> None:
    seen = wait(WAITING, RESENT, 14)
    assert not any(seen[:10])
    finding = seen[-1][0]
    assert (finding.name, finding.worker, finding.remedy, finding.since_ns) == (
        "half_open",
        "link",
        "reconnect",
        0,
    )
    assert "3 segments unacknowledged, 5 retransmissions" in finding.evidence


def test_a_closed_window_that_nobody_opens_counts_too() -> None:
    assert wait(WAITING, replace(TCP, probes=4), 14)[-1]


@pytest.mark.parametrize(
    ("tcp", "words"),
    [(TCP, "its program does not answer"), (None, "nothing is known of TCP's state")],
)
def test_a_peer_whose_kernel_only_acknowledges_has_longer(tcp: TcpSample | None, words: str) -> None:
    seen = wait(WAITING, tcp, 33)
    assert not any(seen[:30])
    assert words in seen[-1][0].evidence


@pytest.mark.parametrize(
    ("link", "tcp"),
    [
        (replace(WAITING, state="connecting"), RESENT),
        (replace(WAITING, state="waiting"), RESENT),
        (replace(WAITING, oldest_unacknowledged_ns=None), RESENT),  # nothing was asked
        (replace(WAITING, last_received_ns=0), RESENT),  # something came after that
        (WAITING, replace(RESENT, last_data_received_ms=900)),  # our own link does not read
    ],
)
def test_what_is_not_half_open(link: LinkSample, tcp: TcpSample) -> None:
    assert not any(wait(link, tcp, 60))


@pytest.mark.parametrize(
    "after",
    [
        replace(WAITING, last_received_ns=20 * S),
        replace(WAITING, connected_since_ns=20 * S),
        replace(WAITING, state="connecting"),
        replace(WAITING, oldest_unacknowledged_ns=None),
        None,
    ],
)
def test_it_ends_with_an_answer_or_with_the_connection(after: LinkSample | None) -> None:
    detector = HalfOpen()
    assert wait(WAITING, RESENT, 14, detector)[-1]
    assert detector.look(Observation(20 * S, link=after, tcp=RESENT)) == []


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans(), st.integers(0, 9)), max_size=60))
def test_a_slow_link_that_moves_is_never_accused(answers: list[tuple[int, bool, int]]) -> None:
    """Each message is answered within 9 s; TCP may send it as often as it likes."""
    detector = HalfOpen()
    now, heard = 0, 0
    for idle, retransmits, delay in answers:
        now += idle
        sent = now * S
        link = replace(LINK, oldest_unacknowledged_ns=sent, last_received_ns=heard)
        tcp = replace(RESENT if retransmits else TCP, last_data_received_ms=(sent - heard) // 10**6 + 60_000)
        assert not any(wait(link, tcp, delay + 1, detector, now))
        now += delay + 1
        heard = now * S
        assert detector.look(Observation(heard, link=replace(LINK, last_received_ns=heard), tcp=TCP)) == []


# twin


def test_a_twin_is_found_once_and_ends_with_the_suspicion() -> None:
    detector = Twin()
    assert detector.look(Observation(1 * S, link=LINK)) == []
    suspected = replace(LINK, state="waiting", connected_since_ns=None, twin=True)
    (finding,) = detector.look(Observation(2 * S, link=suspected))
    assert (finding.name, finding.worker, finding.since_ns, finding.remedy) == (
        "twin",
        "link",
        2 * S,
        "none",
    )
    assert "another device" in finding.evidence
    assert detector.look(Observation(3 * S, link=replace(suspected, state="connecting"))) == [finding]
    assert detector.look(Observation(4 * S, link=LINK)) == []
    assert detector.look(Observation(5 * S, link=suspected))[0].since_ns == 5 * S
    assert detector.look(Observation(6 * S)) == []


# tls_handshakes


def look_at_failures(detector: TlsHandshakes, looks: Iterable[tuple[int, int]]) -> list[list[Finding]]:
    """(second, failures so far)"""
    return [
        detector.look(
            Observation(at * S, link=LinkSample("waiting", None, None, None, each, tls_cause="expired"))
        )
        for at, each in looks
    ]


def test_failing_handshakes_are_found_with_their_cause_and_end_with_a_connection() -> None:
    detector = TlsHandshakes(3, 600 * S)
    seen = look_at_failures(detector, [(0, 4), (10, 5), (50, 6), (100, 7), (110, 7)])
    assert not any(seen[:3])
    finding = seen[3][0]
    assert (finding.name, finding.worker, finding.since_ns, finding.remedy) == (
        "tls_handshakes",
        "link",
        10 * S,
        "breaker",
    )
    assert finding.evidence == "3 TLS handshakes failed within 90 s; the last: expired"
    assert seen[4] == [finding]
    before = LinkSample("connected", 99 * S, None, None, 7)
    assert detector.look(Observation(120 * S, link=before)) == [finding], "made before the last failure"
    assert detector.look(Observation(121 * S, link=replace(before, connected_since_ns=119 * S))) == []


def test_it_ends_when_they_are_long_ago() -> None:
    detector = TlsHandshakes(3, 600 * S)
    assert look_at_failures(detector, [(0, 0), (1, 3)])[-1]
    assert look_at_failures(detector, [(601, 3)])[-1], "within the window still"
    assert look_at_failures(detector, [(602, 3)]) == [[]]


@given(st.lists(st.integers(201, 10_000), max_size=50))
def test_rare_failures_are_never_accused(pauses_s: list[int]) -> None:
    """Never three within 400 s."""
    detector = TlsHandshakes(3, 400 * S)
    now = 0
    for failures, pause_s in enumerate(pauses_s):
        assert look_at_failures(detector, [(now, failures)]) == [[]]
        now += pause_s


def test_a_link_that_was_made_anew_counts_from_nothing() -> None:
    detector = TlsHandshakes(3, 600 * S)
    assert not any(look_at_failures(detector, [(0, 100), (1, 0), (2, 2)]))
    assert look_at_failures(detector, [(3, 3)])[-1]


# run_failures


def look_at_runs(detector: RunFailures, failures: Iterable[int]) -> list[list[Finding]]:
    return [
        detector.look(Observation(at * S, run=RunSample(each, 7 * S, f"reason {each}")))
        for at, each in enumerate(failures)
    ]


def test_runs_that_fail_in_a_row_are_found_once_and_until_the_row_ends() -> None:
    seen = look_at_runs(RunFailures(3), [0, 1, 2, 3, 4, 4, 0, 1, 2, 9, 1])
    assert [len(each) for each in seen] == [0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 0]
    (finding,) = seen[3]
    assert finding == Finding(
        "run_failures", "runner", 7 * S, "3 runs in a row failed; the last: reason 3", "none"
    )
    assert seen[5] == [finding], "the same one, told once"
    assert seen[9][0].evidence.startswith("9 runs")


def test_a_row_nobody_knows_of_is_none() -> None:
    detector = RunFailures(1)
    assert look_at_runs(detector, [1])[0]
    assert detector.look(Observation(2 * S)) == []
    (finding,) = detector.look(Observation(3 * S, run=RunSample(1, 0, "")))
    assert finding.evidence.endswith("the cause was not told")


# all together


def test_the_doctor_tells_each_beginning_and_each_end_once() -> None:
    doctor = Doctor(Limits(stuck_s=5), lambda name: "here")
    told: list[Change] = []
    for at in range(30):
        runner = 1 if at < 15 else at
        told += doctor.look(
            Observation(at * S, workers(runner=(runner, 0), link=(at, 0)), PROCESS, LINK, TCP)
        )
        if at == 10:
            assert headline(doctor.findings) == "runner is stuck"
    assert [(change.finding.worker, change.ended_ns is None) for change in told] == [
        ("runner", True),
        ("runner", False),
    ]
    assert (doctor.findings, doctor.looked_ns, headline(doctor.findings)) == ((), 29 * S, "")


def test_headlines_are_ascii_for_systemd() -> None:
    found = [
        Finding("stuck", "Größe", 0, "", "none"),
        Finding("fd_leak", "process", 0, "", "none"),
        Finding("half_open", "link", 0, "", "reconnect"),
        Finding("tls_handshakes", "link", 0, "", "breaker"),
        Finding("run_failures", "runner", 0, "", "none"),
        Finding("spinning", "link", 0, "", "reconnect"),
        Finding("twin", "link", 0, "", "none"),
    ]
    line = headline(found)
    assert line.isascii()
    assert line == (
        "Gr??e is stuck; descriptors leak; broker connection half-open; TLS handshakes fail; runs fail;"
        " link spins; perhaps another device of this name"
    )


SAMPLES = st.builds(
    Observation,
    st.integers(-(2**62), 2**62),
    st.lists(
        st.builds(WorkerSample, st.text(max_size=3), st.integers(0, 2**40), st.integers(0, 2**40)), max_size=4
    ).map(tuple),
    st.none()
    | st.builds(
        replace,
        st.just(PROCESS),
        descriptors=st.integers(0, 2**20),
        kinds=st.lists(st.tuples(st.text(max_size=3), st.integers(0, 9)), max_size=3).map(tuple),
    ),
    st.none()
    | st.builds(
        LinkSample,
        st.sampled_from(["connected", "waiting", "?"]),
        st.none() | st.integers(),
        st.none() | st.integers(),
        st.none() | st.integers(),
        st.integers(0, 99),
    ),
    st.none() | st.builds(TcpSample, *[st.integers(0, 2**32 - 1)] * 9),
)


@given(st.lists(SAMPLES, max_size=20))
def test_whatever_is_seen_nothing_raises_and_the_changes_add_up(seen: list[Observation]) -> None:
    doctor = Doctor(Limits(fd_growth=4, fd_window_s=1, stuck_s=1))
    active: set[Finding] = set()
    for each in seen:
        for change in doctor.look(each):
            if change.ended_ns is None:
                assert change.finding not in active
                active.add(change.finding)
            else:
                active.remove(change.finding)
        assert active == set(doctor.findings)
