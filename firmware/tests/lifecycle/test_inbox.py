"""What other threads have for the conductor: bounded, awake, and nothing lost that counts."""

from __future__ import annotations

import functools
import select
import signal
import threading

import pytest

from plugmeter.errors import PlugmeterError
from plugmeter.lifecycle.inbox import MOST_CALLS, MOST_SIGNALS, Inbox
from plugmeter.lifecycle.signals import Caught
from plugmeter.lifecycle.stages import Event


def caught(number: int) -> Caught:
    return Caught(signal.SIGUSR1, number, 0, "", 0, 0)


def is_awake(inbox: Inbox) -> bool:
    return bool(select.select([inbox], [], [], 0)[0])


def test_everything_wakes_and_is_taken_once() -> None:
    inbox = Inbox()
    assert not is_awake(inbox)
    inbox.wake()
    assert is_awake(inbox)
    assert inbox.take().events == ()
    inbox.post(Event.FATAL, "first")
    inbox.post(Event.RESTART, "then")
    inbox.post(Event.FATAL, "second")
    assert is_awake(inbox)
    assert inbox.take().events == ((Event.FATAL, "first"), (Event.RESTART, "then"))
    assert inbox.coalesced == 1
    assert not is_awake(inbox)
    assert inbox.take().events == ()
    inbox.close()


def test_a_signal_that_finds_no_room_waits_for_it() -> None:
    inbox = Inbox()
    for number in range(MOST_SIGNALS):
        assert inbox.signal(caught(number))
    assert not inbox.signal(caught(99))  # after a second
    taken = []
    waiting = threading.Thread(target=lambda: taken.append(inbox.signal(caught(100))))
    waiting.start()
    assert [each.pid for each in inbox.take().signals] == list(range(MOST_SIGNALS))
    waiting.join()
    assert taken == [True]
    assert [each.pid for each in inbox.take().signals] == [100]
    inbox.close()


def test_calls_are_bounded_and_refused_in_one_line() -> None:
    inbox = Inbox()
    futures = [inbox.call(functools.partial(int, n)) for n in range(MOST_CALLS)]
    with pytest.raises(PlugmeterError, match="busy"):
        inbox.call(lambda: None)
    assert inbox.refused == 1
    for call in inbox.take().calls:
        call.run()
    assert [each.result(0) for each in futures] == list(range(MOST_CALLS))
    inbox.close()


def test_what_a_call_raises_and_what_nobody_waits_for() -> None:
    inbox = Inbox()
    bad = inbox.call(lambda: 1 // 0)
    ran: list[int] = []
    given_up = inbox.call(lambda: ran.append(1))
    assert given_up.cancel()
    for call in inbox.take().calls:
        call.run()
    assert isinstance(bad.exception(0), ZeroDivisionError)
    assert ran == []
    inbox.close()


def test_the_end_cancels_calls_and_refuses_new_ones() -> None:
    inbox = Inbox()
    future = inbox.call(lambda: None)
    inbox.close()
    assert future.cancelled()
    with pytest.raises(PlugmeterError):
        inbox.call(lambda: None)
    inbox.wake()
    inbox.post(Event.FATAL, "late")  # harmless
    inbox.close()
