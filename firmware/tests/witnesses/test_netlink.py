"""The netlink witness against the real kernel, in a network namespace of the test's own."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import pytest

from plugmeter.records import Gap, Tally, Uevent
from plugmeter.witnesses.netlink import MOST_PER_READ, NetlinkWitness
from plugmeter.witnesses.socket_queue import SocketQueue
from tests.namespace import in_namespace, in_user_namespace, inject_uevent, uevent_socket

GUARD_S = 20

Records: TypeAlias = list[Uevent | Gap]
Overrun: TypeAlias = tuple[Records, int, Tally]


def read_until(witness: NetlinkWitness, done: Callable[[Records], bool]) -> Records:
    """Read until ``done(records)``, or until nothing has come for a long time."""
    records: Records = []
    poller = select.poll()
    poller.register(witness.fileno(), select.POLLIN)
    while not done(records) and poller.poll(GUARD_S * 1000):
        records += witness.read()
    return records


def inject(count: int, subsystem: str = "usb", first: int = 0) -> None:
    with uevent_socket() as sender:
        for number in range(first, first + count):
            inject_uevent(
                sender, "add", f"/devices/usb1/1-{number}", SUBSYSTEM=subsystem, DEVTYPE="usb_device"
            )


def delivered(records: Records) -> int:
    return sum(isinstance(record, Uevent) for record in records)


def lost(records: Records) -> int:
    return sum(r.count or 0 for r in records if isinstance(r, Gap))


def test_every_uevent_arrives_in_order_with_its_seqnum() -> None:
    def body() -> tuple[Records, Tally]:
        witness = NetlinkWitness()
        inject(2000)
        records = read_until(witness, lambda records: len(records) >= 2000)
        tally = witness.tally()
        witness.close()
        return records, tally

    records, tally = in_namespace(body)
    delivered = [r for r in records if isinstance(r, Uevent)]
    assert delivered == records
    assert [r.devpath for r in delivered] == [f"/devices/usb1/1-{n}" for n in range(2000)]
    numbers = [r.seqnum for r in delivered]
    assert numbers == sorted(set(numbers))
    assert all(a.t_ns <= b.t_ns for a, b in pairwise(records))
    assert (tally.offered, tally.pending) == (2000, 0)


@pytest.mark.parametrize("run", [in_namespace, in_user_namespace])
def test_an_overrun_is_accounted_to_the_event(run: Callable[..., Overrun]) -> None:
    """A small buffer and a stalled reader: a second socket with room for all proves how many are missing."""

    def body() -> Overrun:
        with uevent_socket(groups=1) as unbounded:
            SocketQueue(unbounded).grow(1 << 20)
            witness = NetlinkWitness(receive_buffer_bytes=4096, ring_slots=16)
            inject(400)
            records = read_until(witness, lambda rs: sum(isinstance(r, Uevent) for r in rs) + lost(rs) >= 400)
            seen_by_other = 0
            while True:
                try:
                    unbounded.recv(65536)
                except BlockingIOError:
                    break
                seen_by_other += 1
            tally = witness.tally()
            witness.close()
            return records, seen_by_other, tally

    records, seen_by_other, tally = run(body)
    assert seen_by_other == 400
    delivered = [r for r in records if isinstance(r, Uevent)]
    gaps = [r for r in records if isinstance(r, Gap)]
    assert gaps, "the buffer was small and nobody read: something must have been lost"
    assert {gap.cause for gap in gaps} == {"socket_queue"}
    assert all(gap.since_ns <= gap.t_ns for gap in gaps)
    assert len(delivered) + lost(records) == 400
    assert tally.offered == 400
    assert tally.pending == 0


def test_a_full_ring_loses_nothing() -> None:
    """More than the ring holds, read late: the rest waits in the socket."""

    def body() -> tuple[Records, Tally]:
        witness = NetlinkWitness(ring_slots=16)
        inject(500)
        time.sleep(0.05)
        records = read_until(witness, lambda rs: len(rs) >= 500)
        tally = witness.tally()
        witness.close()
        return records, tally

    records, tally = in_namespace(body)
    assert len(records) == 500
    assert lost(records) == 0
    assert tally.offered == 500


def test_messages_that_are_no_uevents_are_counted() -> None:
    def body() -> tuple[Records, Tally]:
        witness = NetlinkWitness()
        with uevent_socket() as sender:
            port = witness._socket.getsockname()[0]
            sender.sendto(
                b"add@/devices/x\0ACTION=add\0DEVPATH=/devices/x\0SUBSYSTEM=usb\0SEQNUM=1\0", (port, 0)
            )
            inject_uevent(sender, "add", "/devices/x", SUBSYSTEM="usb", SEQNUM="1")
            inject_uevent(sender, "add", "/devices/y")
            inject_uevent(sender, "add", "/devices/z", SUBSYSTEM="usb")
        records = read_until(witness, lambda rs: len(rs) >= 4)
        tally = witness.tally()
        witness.close()
        return records, tally

    records, tally = in_namespace(body)
    assert [r.cause if isinstance(r, Gap) else r.devpath for r in records] == [
        "not_from_kernel",
        "malformed_duplicate_key",
        "malformed_missing_key",
        "/devices/z",
    ]
    assert tally.offered == 4


def test_a_message_longer_than_a_slot_is_counted() -> None:
    def body() -> Records:
        witness = NetlinkWitness()
        with uevent_socket() as sender:
            port = witness._socket.getsockname()[0]
            sender.sendto(b"x" * 65536, (port, 0))
        records = read_until(witness, lambda rs: len(rs) >= 1)
        witness.close()
        return records

    # It is not from the kernel either, which is told first: nobody else can send one that long.
    assert [r.cause for r in in_namespace(body) if isinstance(r, Gap)] == ["not_from_kernel"]


def test_one_read_is_bounded_and_the_rest_is_announced() -> None:
    def body() -> tuple[int, bool, int]:
        witness = NetlinkWitness(ring_slots=8192)
        for so_far in range(0, 6000, 200):  # as much at a time as any user's buffer holds
            inject(200)
            while len(witness._ring) < so_far + 200:
                time.sleep(0.001)
        first = witness.read()
        again = bool(select.select([witness], [], [], 0)[0])
        rest = 0
        while more := witness.read():
            rest += len(more)
        witness.close()
        return len(first), again, rest

    assert in_namespace(body) == (MOST_PER_READ, True, 6000 - MOST_PER_READ)


def test_closing_keeps_the_account_and_ends_the_thread() -> None:
    def body() -> tuple[int, int, int, int]:
        before = len(list(Path("/proc/self/task").iterdir()))
        witness = NetlinkWitness()
        inject(5)
        while len(witness._ring) < 5:
            time.sleep(0.01)
        witness.close()
        witness.close()
        given_up = time.monotonic() + 10  # a thread that has ended stays in /proc for a moment
        while len(list(Path("/proc/self/task").iterdir())) > before and time.monotonic() < given_up:
            time.sleep(0.01)
        return (
            before,
            len(list(Path("/proc/self/task").iterdir())),
            len(witness.read()),
            witness.tally().offered,
        )

    before, after, read, offered = in_namespace(body)
    assert (after, read, offered) == (before, 5, 5)


def test_the_descriptor_never_goes_silent_while_something_waits() -> None:
    """Readers and announcements cross in every possible way; a lost wake-up would end in the guard."""

    def body() -> tuple[int, int]:
        witness = NetlinkWitness()
        pid = os.fork()
        if pid == 0:
            inject(30_000)
            os._exit(0)
        # An ordinary user's buffer may overrun: what was lost then is told as well.
        records = read_until(witness, lambda rs: delivered(rs) + lost(rs) >= 30_000)
        os.waitpid(pid, 0)
        witness.close()
        return delivered(records), lost(records)

    assert sum(in_namespace(body)) == 30_000


def test_a_paused_witness_takes_nothing_until_it_is_resumed() -> None:
    def body() -> tuple[int, Records, Tally]:
        witness = NetlinkWitness()
        witness.pause()
        inject(1)  # it may take one batch more: the one for which it was woken already
        inject(200)
        taken = len(witness.read())
        witness.resume()
        records = read_until(witness, lambda records: taken + len(records) >= 201)
        tally = witness.tally()
        witness.close()
        return taken, records, tally

    taken, records, tally = in_namespace(body)
    assert taken <= 1
    assert taken + len(records) == 201 == tally.offered


def test_what_comes_while_a_witness_is_paused_overruns_a_small_buffer() -> None:
    def body() -> tuple[Records, Tally]:
        witness = NetlinkWitness(receive_buffer_bytes=1)
        witness.pause()
        inject(500)
        witness.resume()
        records = read_until(witness, lambda records: len(records) - 1 + lost(records) >= 500)
        tally = witness.tally()
        witness.close()
        return records, tally

    records, tally = in_namespace(body)
    assert lost(records) > 400
    assert tally.offered == 500


def test_a_paused_witness_can_be_closed() -> None:
    def body() -> int:
        witness = NetlinkWitness()
        witness.pause()
        inject(1)
        witness.close()
        return witness.tally().offered

    assert in_namespace(body) <= 1
