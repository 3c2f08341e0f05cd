"""Receiving both ways: all that waits is read, and a backlog is what surely waits."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from plugmeter.bench.receive import WAYS, compare, fill
from plugmeter.witnesses.socket_queue import KERNEL_GROUP, NETLINK_KOBJECT_UEVENT
from tests.namespace import in_namespace, in_user_namespace


def waiting(sock: socket.socket) -> int:
    """How many messages there are; afterwards there are none."""
    found = 0
    while True:
        try:
            sock.recv(4096, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return found
        found += 1


def bound() -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_KOBJECT_UEVENT)
    sock.bind((0, KERNEL_GROUP))
    return sock


# In a user namespace no uevent of the machine itself comes between: what waits is exactly what was put there.


@pytest.mark.parametrize("way", WAYS)
def test_each_way_reads_all_that_waits(way: Any) -> None:
    def play() -> tuple[int, int]:
        with bound() as sock:
            events = fill(sock, 100)
            WAYS[way](sock)(events)
            return events, waiting(sock)

    assert in_user_namespace(play) == (100, 0)


@pytest.mark.parametrize("way", WAYS)
def test_each_way_reads_no_more_than_it_must(way: Any) -> None:
    def play() -> int:
        with bound() as sock:
            fill(sock, 100)
            WAYS[way](sock)(1)
            return waiting(sock)

    assert in_user_namespace(play) == (0 if way == "recvmmsg" else 99)  # a batch, and a message


def test_a_backlog_ends_where_the_buffer_does() -> None:
    def play() -> tuple[int, int]:
        with bound() as sock:
            return fill(sock, 200_000), waiting(sock)

    events, found = in_user_namespace(play)  # where the buffer ends at rmem_max
    assert 0 < events == found < 200_000


def test_compare_has_a_result_for_each_way() -> None:
    results = in_namespace(lambda: compare(runs=1, events=100))
    assert [(each.way, each.events) for each in results] == [("recvmmsg", 100), ("recv_into", 100)]
    assert all(each.alone_us > 0 and each.beside_us > 0 and each.ratio_to_recv_into > 0 for each in results)
    assert results[1].ratio_to_recv_into == 1
