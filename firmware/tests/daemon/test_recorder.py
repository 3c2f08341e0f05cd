"""What is told before the outbox is there, and while it comes: all of it is a record, or counted."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugmeter.daemon.recorder import EARLY_LIMIT, Recorder
from plugmeter.telemetry.limits import Limits
from plugmeter.telemetry.outbox import Outbox

LIMITS = Limits(64 << 20, 0, 0.05)
BEGINNING = 1
"""The outbox's own record: its stream began."""


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty")
def test_nothing_is_left_behind_while_the_outbox_comes(tmp_path: Path) -> None:
    for round_number in range(100):
        outbox = Outbox(tmp_path / f"{round_number}.sqlite", LIMITS, lambda line: None)
        outbox.start()
        recorder = Recorder()
        offered = [0] * 4
        stop = threading.Event()

        def tell(k: int, recorder: Recorder = recorder, stop: threading.Event = stop,
                 offered: list[int] = offered) -> None:  # fmt: skip
            while not stop.is_set() or offered[k] < 50:
                recorder.keep("signal", {"thread": k})
                offered[k] += 1
                if offered[k] >= 2_000:
                    return

        threads = [threading.Thread(target=tell, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        recorder.attach(outbox)
        stop.set()
        for thread in threads:
            thread.join()
        assert outbox.flush(60)
        produced = outbox.account().produced
        outbox.close()
        assert produced - BEGINNING + recorder.discards["before_outbox"] == sum(offered)


def test_what_is_too_much_before_it_comes_is_counted(tmp_path: Path) -> None:
    recorder = Recorder()
    for number in range(EARLY_LIMIT + 7):
        recorder.keep("signal", {"number": number})
    assert recorder.discards == {"before_outbox": 7}
    outbox = Outbox(tmp_path / "outbox.sqlite", LIMITS, lambda line: None)
    outbox.start()
    recorder.attach(outbox)
    recorder.keep("signal", {"number": -1})
    assert outbox.flush(60)
    assert outbox.account().produced == BEGINNING + EARLY_LIMIT + 1
    outbox.close()
