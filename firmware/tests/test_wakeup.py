"""Waking: heard once, by whoever waits; and harmless when there is nobody any more."""

from __future__ import annotations

import os
import select
import threading

from plugmeter.wakeup import Wakeup


def is_raised(wakeup: Wakeup) -> bool:
    poller = select.poll()
    poller.register(wakeup, select.POLLIN)
    return bool(poller.poll(0))


def test_it_is_raised_from_wake_to_lower() -> None:
    wakeup = Wakeup()
    assert not is_raised(wakeup)
    wakeup.wake()
    wakeup.wake()
    assert is_raised(wakeup)
    wakeup.lower()
    assert not is_raised(wakeup)
    wakeup.lower()
    wakeup.close()


def test_after_the_end_nothing_is_touched() -> None:
    wakeup = Wakeup()
    number = wakeup.fileno()
    wakeup.close()
    other = os.eventfd(0, os.EFD_NONBLOCK)  # as a rule it gets the same number
    try:
        wakeup.wake()
        wakeup.lower()
        wakeup.close()
        assert wakeup.fileno() == number
        os.eventfd_write(other, 2)
        assert os.eventfd_read(other) == 2
    finally:
        os.close(other)


def test_those_that_wake_race_with_the_one_that_ends() -> None:
    for _ in range(200):
        wakeup = Wakeup()
        ready = threading.Barrier(3)

        def wake(target: Wakeup = wakeup, ready: threading.Barrier = ready) -> None:
            ready.wait()
            for _ in range(20):
                target.wake()

        threads = [threading.Thread(target=wake) for _ in range(2)]
        for thread in threads:
            thread.start()
        ready.wait()
        wakeup.close()
        for thread in threads:
            thread.join()
