"""One descriptor at a time, and anybody may wake the thread that waits."""

from __future__ import annotations

import selectors
import socket
import threading

import pytest

from plugmeter.telemetry.watch import Watch


def test_it_is_woken_by_others_and_by_its_descriptor() -> None:
    watch = Watch()
    ours, theirs = socket.socketpair()
    watch.wake()
    assert watch.wait(60) == (False, False)
    assert watch.wait(0) == (False, False)
    threading.Timer(0.01, watch.wake).start()
    assert watch.wait(60) == (False, False)
    watch.look_at((ours.fileno(), selectors.EVENT_READ))
    theirs.send(b"x")
    assert watch.wait(60) == (True, False)
    watch.look_at((ours.fileno(), selectors.EVENT_READ | selectors.EVENT_WRITE))
    assert watch.wait(60) == (True, True)
    watch.look_at(None)
    assert watch.wait(0) == (False, False)
    for each in (ours, theirs):
        each.close()
    watch.close()
    watch.close()
    watch.wake()


def test_a_number_that_is_another_socket_by_now() -> None:
    watch = Watch()
    first, other = socket.socketpair()
    number = first.fileno()
    watch.look_at((number, selectors.EVENT_WRITE), anew=True)
    first.close()
    second, another = socket.socketpair()
    if second.fileno() != number:  # the kernel gives the lowest number that is free
        second = socket.socket(fileno=_moved(second, number))
    watch.look_at((number, selectors.EVENT_WRITE), anew=True)
    assert watch.wait(60) == (False, True)
    for each in (other, second, another):
        each.close()
    watch.close()


def test_what_cannot_be_watched_is_not_taken_for_watched() -> None:
    watch = Watch()
    with pytest.raises(ValueError, match="-1"):
        watch.look_at((-1, selectors.EVENT_READ))
    watch.look_at(None)
    watch.wake()
    assert watch.wait(60) == (False, False)
    watch.close()


def _moved(sock: socket.socket, number: int) -> int:
    import os

    old = sock.detach()
    os.dup2(old, number)
    os.close(old)
    return number
