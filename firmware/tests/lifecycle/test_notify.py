"""What is sent to the service manager: real datagrams, and a manager that does not read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.lifecycle.notify import STATUS_CHARACTERS, Notifier, ascii_line


@pytest.fixture
def notifier(monkeypatch: pytest.MonkeyPatch, listener: Any) -> Notifier:
    monkeypatch.setenv("NOTIFY_SOCKET", str(listener.path))
    return Notifier()


def test_each_message(notifier: Notifier, listener: Any) -> None:
    notifier.status("bébé: 5\nSTOPPING=1 records")
    notifier.ready()
    notifier.reloading(12_345_999)
    notifier.ready()
    notifier.watchdog()
    notifier.extend(7)
    notifier.stopping()
    assert listener.all() == [
        "STATUS=b?b?: 5 STOPPING=1 records",
        "READY=1",
        "RELOADING=1\nMONOTONIC_USEC=12345",
        "READY=1",
        "WATCHDOG=1",
        "EXTEND_TIMEOUT_USEC=7",
        "STOPPING=1",
    ]
    assert (notifier.sent, notifier.failures, notifier.waiting) == (7, 0, 0)


def test_a_status_is_sent_when_it_changes(notifier: Notifier, listener: Any) -> None:
    for text in ("a", "a", "b", "a"):
        notifier.status(text)
    assert listener.all() == ["STATUS=a", "STATUS=b", "STATUS=a"]


def test_a_full_queue_keeps_what_must_arrive_and_its_order(notifier: Notifier, listener: Any) -> None:
    full = listener.fill()
    notifier.ready()
    notifier.status("lost")
    notifier.watchdog()
    notifier.stopping()
    assert (notifier.sent, notifier.waiting) == (0, 2)
    assert notifier.failures > 0
    for _ in range(full):
        assert listener.receive() == "FILLER=1"
    notifier.status("found")
    assert listener.all() == ["READY=1", "STOPPING=1", "STATUS=found"]
    assert (notifier.waiting, notifier.dropped) == (0, 0)


def test_what_is_kept_is_bounded_and_the_newest_stays(notifier: Notifier, listener: Any) -> None:
    full = listener.fill()
    for _ in range(20):
        notifier.reloading(0)
        notifier.ready()
    notifier.stopping()
    assert (notifier.waiting, notifier.dropped) == (8, 33)
    for _ in range(full):
        listener.receive()
    notifier.retry()
    assert listener.all()[-2:] == ["READY=1", "STOPPING=1"]


def test_a_manager_that_comes_back_is_found_again(notifier: Notifier, listener: Any) -> None:
    notifier.status("before")
    assert listener.receive() == "STATUS=before"
    moved = listener.path.rename(listener.path.with_name("moved"))
    listener.socket.close()
    notifier.stopping()
    assert (notifier.waiting, notifier.failures) == (1, 1)
    moved.unlink()
    again = type(listener)(listener.path)
    notifier.retry()
    assert again.all() == ["STOPPING=1"]
    again.close()


def test_without_a_manager_nothing_is_sent_and_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "1000")
    notifier = Notifier()
    notifier.ready()
    notifier.status("x")
    assert (notifier.present, notifier.watchdog_s) == (False, None)
    assert (notifier.sent, notifier.failures, notifier.waiting) == (0, 0, 0)


def test_a_socket_that_is_not_there_costs_nothing_but_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nothing"))
    notifier = Notifier()
    notifier.ready()
    notifier.watchdog()
    assert notifier.sent == 0
    assert notifier.failures >= 2
    notifier.close()
    notifier.ready()
    assert notifier.waiting == 1


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [
        ("30000000", "", 30.0),
        ("500000", str(os.getpid()), 0.5),
        ("500000", "1", None),
        ("0", "", None),
        ("-1", "", None),
        ("soon", "", None),
        ("٣", "", None),
        ("", "", None),
    ],
)
def test_whether_the_watchdog_is_on(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str, expected: float | None
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "@nobody")
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert Notifier().watchdog_s == expected


@given(st.text())
def test_a_status_is_one_line_of_printable_ascii(text: str) -> None:
    line = ascii_line(text)
    assert len(line) <= STATUS_CHARACTERS
    assert all(" " <= character <= "~" for character in line)
