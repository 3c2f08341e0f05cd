"""What every witness does, whatever it hears: one suite over all of them.

To put another witness under it, write a ``Case``: ``open`` is a context manager that gives the
witness and a function that makes exactly one record reach it.
"""

import select
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias, get_args

import pytest

from plugmeter.records import Gap, Record, Tally, WitnessName
from plugmeter.rigs.lines import mock_lines
from plugmeter.witnesses.gpio import GpioWitness
from plugmeter.witnesses.inotify import InotifyWitness
from plugmeter.witnesses.netlink import NetlinkWitness
from plugmeter.witnesses.udev import UdevWitness
from plugmeter.witnesses.udev_message import encode_udev_message
from plugmeter.witnesses.witness import Witness
from tests.gpio_driver import eventually
from tests.namespace import (
    in_child,
    in_namespace,
    inject_uevent,
    send_as_udevd,
    uevent_socket,
    usb_device,
)

Provoke: TypeAlias = Callable[[], None]
Opened: TypeAlias = AbstractContextManager[tuple[Witness, Provoke]]


@dataclass(frozen=True)
class Case:
    """A witness under test. ``namespace``: it needs a network namespace of its own."""

    name: WitnessName
    open: Callable[[], Opened]
    namespace: bool


@contextmanager
def udev(receive_buffer_bytes: int = 1 << 20) -> Iterator[tuple[Witness, Provoke]]:
    witness = UdevWitness(receive_buffer_bytes)
    with uevent_socket() as sender:
        message = encode_udev_message(usb_device(1))
        yield witness, lambda: send_as_udevd(sender, message)
    witness.close()


@contextmanager
def udev_overrun() -> Iterator[tuple[Witness, Provoke]]:
    with udev(2048) as opened:
        yield opened


@contextmanager
def inotify() -> Iterator[tuple[Witness, Provoke]]:
    with TemporaryDirectory() as name:
        node = Path(name, "sda")

        def provoke() -> None:
            if node.exists():
                node.unlink()
            else:
                node.touch()

        witness = InotifyWitness((Path(name),))
        yield witness, provoke
        witness.close()


@contextmanager
def netlink(receive_buffer_bytes: int = 1 << 20, ring_slots: int = 256) -> Iterator[tuple[Witness, Provoke]]:
    witness = NetlinkWitness(receive_buffer_bytes=receive_buffer_bytes, ring_slots=ring_slots)
    with uevent_socket() as sender:

        def provoke() -> None:
            before = witness.tally().offered
            inject_uevent(sender, "add", "/devices/usb1/1-1", SUBSYSTEM="usb", DEVTYPE="usb_device")
            # Its own thread receives: wait until that has seen it, and said so.
            assert eventually(lambda: witness.tally().offered > before or len(witness._ring) == ring_slots)
            assert select.select([witness], [], [], 5)[0]

        yield witness, provoke
    witness.close()


@contextmanager
def netlink_overrun() -> Iterator[tuple[Witness, Provoke]]:
    with netlink(4096, 16) as opened:
        yield opened


@contextmanager
def gpio() -> Iterator[tuple[Witness, Provoke]]:
    lines = mock_lines(["1-1"])
    level = cycle((True, False))
    witness = GpioWitness(lines.pins, lines.factory)
    yield witness, lambda: lines.drive("1-1", next(level))
    witness.close()


CASES = (
    Case("netlink", netlink, namespace=True),
    Case("udev", udev, namespace=True),
    Case("inotify", inotify, namespace=False),
    Case("gpio", gpio, namespace=False),
)

OVERRUN_CASES = (
    Case("netlink", netlink_overrun, namespace=True),
    Case("udev", udev_overrun, namespace=True),
)


def each(cases: tuple[Case, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def under(case: Case, check: Callable[[Witness, Provoke], None]) -> None:
    """Run ``check`` on an open witness, in a child of its own so that nothing outlives it."""

    def body() -> None:
        with case.open() as (witness, provoke):
            check(witness, provoke)

    (in_namespace if case.namespace else in_child)(body)


def ready(witness: Witness, within_ms: int = 0) -> bool:
    poller = select.poll()
    poller.register(witness.fileno(), select.POLLIN)
    return bool(poller.poll(within_ms))


def drain(witness: Witness) -> list[Record]:
    """All there is, also what a thread of the witness's own has still to take from the kernel."""
    records: list[Record] = []
    while ready(witness, within_ms=100):
        records += witness.read()
    return records


def conserves(tally: Tally, records: list[Record]) -> None:
    gaps = [record for record in records if isinstance(record, Gap)]
    lost = sum(gap.count or 0 for gap in gaps)
    assert tally.offered == len(records) - len(gaps) + lost + tally.pending


@each(CASES)
def test_its_name_is_known_and_on_all_it_says(case: Case) -> None:
    def check(witness: Witness, provoke: Provoke) -> None:
        assert witness.name == case.name
        assert witness.name in get_args(WitnessName)
        assert witness.tally().witness == case.name
        provoke()
        for record in drain(witness):
            assert getattr(record, "witness", case.name) == case.name

    under(case, check)


@each(CASES)
def test_nothing_is_there_until_something_happens(case: Case) -> None:
    def check(witness: Witness, provoke: Provoke) -> None:
        assert not ready(witness)
        assert list(witness.read()) == []  # returns, though there is nothing: it does not block
        provoke()
        assert ready(witness)
        assert len(witness.read()) == 1
        assert not ready(witness)
        assert list(witness.read()) == []

    under(case, check)


@each(CASES)
def test_everything_is_read_in_order_and_once(case: Case) -> None:
    def check(witness: Witness, provoke: Provoke) -> None:
        for _ in range(100):
            provoke()
        records = drain(witness)
        assert len(records) == 100
        times = [record.t_ns for record in records]
        assert times == sorted(times)
        assert times[-1] <= witness.tally().t_ns

    under(case, check)


@each(CASES)
def test_the_account_balances_at_every_step(case: Case) -> None:
    def check(witness: Witness, provoke: Provoke) -> None:
        records: list[Record] = []
        conserves(witness.tally(), records)
        for step in range(1, 8):
            for _ in range(step):
                provoke()
            conserves(witness.tally(), records)
            records += drain(witness)
            conserves(witness.tally(), records)
        assert witness.tally().offered == len(records) == 28
        assert witness.tally().pending == 0

    under(case, check)


@each(OVERRUN_CASES)
def test_the_account_balances_through_overruns(case: Case) -> None:
    """Each overrun is a gap with its exact count, and the witness goes on."""

    def check(witness: Witness, provoke: Provoke) -> None:
        records: list[Record] = []
        for burst in (300, 1, 300, 2):
            for _ in range(burst):
                provoke()
            if burst > 2:
                conserves(witness.tally(), records)
            records += drain(witness)
            conserves(witness.tally(), records)
        tally = witness.tally()
        assert (tally.offered, tally.pending) == (603, 0)
        assert [record for record in records if isinstance(record, Gap)]
        assert not isinstance(records[-1], Gap)

    under(case, check)


@each(CASES)
def test_closing_twice_is_closing_once(case: Case) -> None:
    def check(witness: Witness, provoke: Provoke) -> None:
        provoke()
        records = drain(witness)
        before = witness.tally()
        witness.close()
        witness.close()
        after = witness.tally()
        assert (after.offered, after.pending) == (before.offered, before.pending)
        assert after.t_ns >= before.t_ns
        assert list(witness.read()) == []
        conserves(witness.tally(), records)

    under(case, check)


@each(CASES)
def test_closing_gives_its_descriptors_back(case: Case) -> None:
    def body() -> None:
        before = _descriptors()
        with case.open() as (witness, _):
            assert _descriptors() > before
            witness.close()
        assert _descriptors() == before

    (in_namespace if case.namespace else in_child)(body)


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
