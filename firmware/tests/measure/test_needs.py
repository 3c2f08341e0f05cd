"""The needs of a storm: the model of the buffer against the kernel itself, and what a report asks for."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.measure import needs
from tests.reporting import samples


@pytest.mark.parametrize(("message", "held"), [(114, 256), (314, 166), (714, 92)])
def test_the_default_buffer_holds_what_was_measured(message: int, held: int) -> None:
    """100, 300 and 700 B were injected; the kernel adds SEQNUM."""
    assert needs.capacity(212_992, message) == held


@given(st.integers(0, 8000), st.integers(0, 8000))
def test_longer_messages_are_charged_no_less(one: int, other: int) -> None:
    assert needs.truesize_bytes(min(one, other)) <= needs.truesize_bytes(max(one, other))
    assert needs.truesize_bytes(one) >= one + needs.SKB_BYTES + needs.SHARED_INFO_BYTES


@given(st.integers(1, 10_000), st.integers(1, 3776), st.floats(1, 4))
def test_what_is_advised_holds_the_storm(episodes: int, message: int, margin: float) -> None:
    backlog = needs.default_backlog(episodes)
    found = {
        n.key: n.value for n in needs.needs(backlog, needs.InotifyUse(), event_bytes=message, margin=margin)
    }
    buffer = found["net.core.rmem_default"]
    assert buffer == needs.LARGEST_BUFFER_BYTES or needs.capacity(buffer, message) >= backlog.uevents
    assert 2 * found["net.core.rmem_max"] == buffer
    assert found["fs.inotify.max_queued_events"] >= backlog.node_events


def test_what_others_use_is_added() -> None:
    use = needs.InotifyUse(instances=40, watches=900, device_directories=10)
    found = {n.key: n.value for n in needs.needs(needs.default_backlog(), use, margin=2)}
    assert found["fs.inotify.max_user_instances"] == 41
    assert found["fs.inotify.max_user_watches"] == 920


def _report(expected: list[int], bucket_ms: int, **more: Any) -> dict[str, Any]:
    report = samples.report(sum(expected))
    report["timeline"] = {"bucket_ms": bucket_ms, "expected": expected, "captured": expected}
    return {**report, **more}


@pytest.mark.parametrize(
    ("buckets", "bucket_ms", "stall_s", "episodes"),
    [
        ([10, 10, 10], 1000, 1.0, 20),
        ([0, 50, 0, 0, 3, 4], 1000, 1.0, 50),
        ([0, 50, 60, 0, 3, 4], 1000, 1.0, 110),
        ([1, 2, 3], 1000, 3600.0, 6),
        ([5], 1000, 0.001, 5),
    ],
)
def test_the_worst_moment(buckets: list[int], bucket_ms: int, stall_s: float, episodes: int) -> None:
    backlog = needs.backlog_of(_report(buckets, bucket_ms), stall_s)
    assert backlog.episodes == episodes
    assert backlog.uevents == episodes * 16


def test_without_the_rigs_count_the_witness_tells() -> None:
    report = _report([100], 1000, emitted=None)
    report["witnesses"]["netlink"]["offered"] = 900
    assert needs.backlog_of(report, 5).uevents == 900
    report["witnesses"] = {}
    assert needs.backlog_of(report, 5).uevents == 100 * needs.UEVENTS_PER_EPISODE


def test_without_a_timeline_the_largest_storm_tells() -> None:
    report = _report([], 1000)
    report.update(samples.report(1000), timeline={"bucket_ms": 1000, "expected": [], "captured": []})
    assert needs.backlog_of(report, 5).episodes == report["storms"]["largest"]


def test_a_run_that_expected_nothing_says_nothing() -> None:
    assert needs.backlog_of(samples.empty(), 5) == needs.default_backlog()


@pytest.mark.parametrize(("margin", "message"), [(0.5, 100), (float("nan"), 100), (2, -1), (2, 1_000_000)])
def test_what_cannot_be_is_refused(margin: float, message: int) -> None:
    with pytest.raises(ValueError, match=r"cannot be|would lose"):
        needs.needs(needs.default_backlog(), needs.InotifyUse(), event_bytes=message, margin=margin)


KERNEL = """
import socket, struct
PROTOCOL, MEMINFO, GROUP = 15, 55, 1
sender = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, PROTOCOL)
sender.bind((0, 0))
for length in (80, 150, 400, 600, 900, 1500, 1900):
    listener = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, PROTOCOL)
    listener.bind((0, GROUP))
    listener.settimeout(5)
    head = b"add@/devices/x\\0ACTION=add\\0DEVPATH=/devices/x\\0SUBSYSTEM=usb\\0FILL="
    payload = head + b"x" * (length - len(head) - 1) + b"\\0"
    sender.sendto(struct.pack("IHHII", 16 + length, 16, 1, 0, 0) + payload, (0, 0))
    charged = struct.unpack("9I", listener.getsockopt(socket.SOL_SOCKET, MEMINFO, 36))[0]
    print(len(listener.recv(65536)), charged)
    listener.close()
"""


def test_the_kernel_charges_what_the_model_says() -> None:
    """Injected into a namespace of its own, so that nobody else hears it."""
    done = subprocess.run(
        ["unshare", "-Urn", sys.executable, "-c", KERNEL], capture_output=True, text=True, timeout=60
    )
    if done.returncode:
        pytest.skip(f"needs user and network namespaces: {(done.stderr.splitlines() or ['?'])[-1]}")
    rows = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(rows) == 7
    for length, charged in rows:
        assert charged == needs.truesize_bytes(length)
