"""The event thread, on pipes: it knows nothing of GPIO."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugmeter.witnesses.gpiod_thread import EventThread

PATIENCE_S = 20


class Source:
    """A pipe whose reader counts."""

    def __init__(self) -> None:
        self.fd, self._write = os.pipe2(os.O_NONBLOCK)
        self.got = threading.Event()
        self.threads: set[int] = set()

    def put(self) -> None:
        self.got.clear()
        os.write(self._write, b"x")

    def read(self) -> None:
        os.read(self.fd, 100)
        self.threads.add(threading.get_ident())
        self.got.set()

    def hang_up(self) -> None:
        os.close(self._write)


@pytest.fixture
def events() -> Iterator[EventThread]:
    thread = EventThread("events under test")
    yield thread
    thread.close()


def test_every_reader_is_called_in_one_thread(events: EventThread) -> None:
    one, other = Source(), Source()
    for source in (one, other):
        events.watch(source.fd, source.read)
    for source in (one, other, one):
        source.put()
        assert source.got.wait(PATIENCE_S)
    assert one.threads == other.threads
    assert threading.get_ident() not in one.threads


def test_a_forgotten_reader_is_not_called(events: EventThread) -> None:
    one, other = Source(), Source()
    events.watch(one.fd, one.read)
    events.watch(other.fd, other.read)
    events.forget(one.fd)
    events.forget(one.fd)
    one.put()
    other.put()
    assert other.got.wait(PATIENCE_S)
    assert not one.got.is_set()
    events.watch(one.fd, one.read)
    assert one.got.wait(PATIENCE_S)


def test_a_reader_that_raises_is_reported_and_called_again(events: EventThread) -> None:
    reported: list[type[BaseException]] = []
    source, twice = Source(), threading.Event()

    def read() -> None:
        source.read()
        if len(reported) == 1:
            twice.set()
        raise RuntimeError("a defect")

    before = threading.excepthook
    threading.excepthook = lambda args: reported.append(args.exc_type)
    try:
        events.watch(source.fd, read)
        source.put()
        assert source.got.wait(PATIENCE_S)
        while not reported:
            pass
        source.put()
        assert twice.wait(PATIENCE_S)
    finally:
        events.close()
        threading.excepthook = before
    assert reported == [RuntimeError, RuntimeError]


def test_a_line_that_is_gone_is_forgotten(events: EventThread) -> None:
    source, other, calls = Source(), Source(), []
    events.watch(source.fd, lambda: calls.append(1))
    events.watch(other.fd, other.read)
    source.hang_up()
    for _ in range(3):
        other.put()
        assert other.got.wait(PATIENCE_S)
    assert len(calls) == 1


def test_close_ends_the_thread_and_a_later_watch_begins_anew(events: EventThread) -> None:
    source = Source()
    events.watch(source.fd, source.read)
    assert "events under test" in {thread.name for thread in threading.enumerate()}
    events.close()
    events.close()
    assert "events under test" not in {thread.name for thread in threading.enumerate()}
    events.watch(source.fd, source.read)
    source.put()
    assert source.got.wait(PATIENCE_S)


def test_close_from_within_a_reader(events: EventThread) -> None:
    source, done = Source(), threading.Event()

    def read() -> None:
        events.close()
        done.set()

    events.watch(source.fd, read)
    source.put()
    assert done.wait(PATIENCE_S)


def test_a_callback_that_hangs_does_not_keep_the_interpreter() -> None:
    script = (
        "import os, threading; from plugmeter.witnesses.gpiod_thread import EventThread\n"
        "r, w = os.pipe(); inside = threading.Event(); events = EventThread('hangs')\n"
        "events.watch(r, lambda: (inside.set(), threading.Event().wait()))\n"
        "os.write(w, b'x'); inside.wait(); events.close(); print('closed')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert done.stdout == "closed\n"
