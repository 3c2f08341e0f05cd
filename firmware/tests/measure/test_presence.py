from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.measure.enumerations import Enumeration
from plugmeter.measure.presence import (
    MOST_PORTS,
    UNDER_WAY_NS,
    Change,
    PresenceBook,
    differences,
    port_order,
)
from plugmeter.records import Device, Presence

ids = st.sampled_from(["", "0781", "abcd"])
devices = st.builds(
    Device,
    port=st.sampled_from(["1-1", "1-1.4", "1-2", "1-10", "2-1", "odd", ""]),
    busnum=st.integers(1, 2),
    devnum=st.integers(1, 3),
    vendor_id=ids,
    product_id=ids,
    serial=ids,
)
presences = st.lists(devices, max_size=6, unique_by=lambda device: device.port).map(
    lambda found: Presence(t_ns=0, reason="start", devices=tuple(found))
)

STICK = Device(port="1-1", busnum=1, devnum=4, vendor_id="0781", product_id="5567", serial="A1")


def kinds(before: Device | None, after: Device | None, *, same_boot: bool = True) -> list[str]:
    old = Presence(t_ns=1, reason="end", devices=() if before is None else (before,))
    new = Presence(t_ns=2, reason="start", devices=() if after is None else (after,))
    return [change.kind for change in differences(old, new, same_boot=same_boot)]


@pytest.mark.parametrize(
    ("before", "after", "within_boot", "across_boots"),
    [
        (None, None, [], []),
        (None, STICK, ["appeared"], ["appeared"]),
        (STICK, None, ["vanished"], ["vanished"]),
        (STICK, STICK, [], []),
        (STICK, replace(STICK, devnum=5), ["replaced"], []),
        (STICK, replace(STICK, busnum=2), ["replaced"], []),
        (STICK, replace(STICK, serial="B2"), ["replaced"], ["replaced"]),
        (STICK, replace(STICK, vendor_id="abcd", devnum=5), ["replaced"], ["replaced"]),
        (STICK, replace(STICK, product_id="0001"), ["replaced"], ["replaced"]),
        (STICK, replace(STICK, serial=""), [], ["replaced"]),
        (STICK, replace(STICK, port="1-2"), ["vanished", "appeared"], ["vanished", "appeared"]),
    ],
)
def test_what_changed_on_a_port(
    before: Device | None, after: Device | None, within_boot: list[str], across_boots: list[str]
) -> None:
    assert kinds(before, after) == within_boot
    assert kinds(before, after, same_boot=False) == across_boots


@given(presences, st.booleans())
def test_nothing_differs_from_itself(presence: Presence, same_boot: bool) -> None:
    assert differences(presence, presence, same_boot=same_boot) == []


@given(presences, presences, st.booleans())
def test_backwards_is_the_mirror_image(before: Presence, after: Presence, same_boot: bool) -> None:
    mirrored = {"appeared": "vanished", "vanished": "appeared", "replaced": "replaced"}
    forwards = differences(before, after, same_boot=same_boot)
    backwards = differences(after, before, same_boot=same_boot)
    assert [(c.port, mirrored[c.kind], c.after, c.before) for c in forwards] == [
        (c.port, c.kind, c.before, c.after) for c in backwards
    ]


@given(presences, presences, st.booleans())
def test_applying_the_changes_gives_the_new_ports(before: Presence, after: Presence, same_boot: bool) -> None:
    changes = differences(before, after, same_boot=same_boot)
    there = {device.port for device in before.devices}
    for change in changes:
        assert isinstance(change, Change)
        assert (change.before is None) == (change.kind == "appeared") == (change.port not in there)
        assert (change.after is None) == (change.kind == "vanished")
        there = there - {change.port} if change.after is None else there | {change.port}
    assert there == {device.port for device in after.devices}
    assert [c.port for c in changes] == sorted((c.port for c in changes), key=port_order)


def test_ports_are_in_the_order_of_their_numbers() -> None:
    ports = ["2-1", "1-10", "1-2", "1-1.10", "1-1.4", "1-1", "odd"]
    assert sorted(ports, key=port_order) == ["1-1", "1-1.4", "1-1.10", "1-2", "1-10", "2-1", "odd"]


@given(st.lists(st.text(max_size=8) | st.just("1-" + "9" * 5000)))
def test_any_text_is_put_somewhere(ports: list[str]) -> None:
    keys = [port_order(port) for port in sorted(ports, key=port_order)]
    assert all(one <= other for one, other in pairwise(keys))


# -- the book --------------------------------------------------------------------------------------------

S = 1_000_000_000


def scan(t_ns: int, reason: str, *ports: str, devnum: int = 2) -> Presence:
    return Presence(t_ns, reason, tuple(Device(port, 1, devnum) for port in ports))


def told(t_ns: int, port: str, added: bool) -> Enumeration:
    return Enumeration(port, added, t_ns, 1, "netlink")


def test_a_book_without_a_scan_knows_nothing() -> None:
    account = PresenceBook().account()
    assert (account.at_start, account.before_start, account.at_end) == (None, None, None)


@pytest.mark.parametrize(("reason", "replaced"), [("last", 1), ("last_other_boot", 0)])
def test_what_changed_before_the_start(reason: str, replaced: int) -> None:
    book = PresenceBook()
    book.look(scan(1, reason, "1-1", "1-2"))
    book.look(scan(2, "start", "1-2", "1-3", "1-4", devnum=9))
    book.look(scan(3, "end"))
    account = book.account()
    assert (account.at_start, account.at_end) == (3, 0)
    assert account.before_start == {"appeared": 2, "vanished": 1, "replaced": replaced}


def test_a_resync_finds_what_nobody_told_of() -> None:
    book = PresenceBook()
    book.look(scan(0, "start", "1-1", "1-2"))
    book.hear(told(1, "1-3", True))
    book.hear(told(2, "1-1", False))
    book.look(scan(3, "resync", "1-2", "1-3"))
    assert (book.account().appeared, book.account().vanished) == (0, 0)
    book.look(scan(4, "resync", "1-3", "1-4"))
    account = book.account()
    assert (account.resyncs, account.appeared, account.vanished) == (2, 1, 1)
    assert "1-4" in book
    assert "1-2" not in book


@pytest.mark.parametrize(("late_ns", "found"), [(1, 0), (UNDER_WAY_NS, 0), (UNDER_WAY_NS + 1, 1)])
def test_what_was_only_under_way_when_the_scan_was_made_is_taken_back(late_ns: int, found: int) -> None:
    book = PresenceBook()
    book.look(scan(0, "start", "1-1"))
    book.look(scan(S, "resync", "1-2"))
    assert (book.account().appeared, book.account().vanished) == (1, 1)
    book.hear(told(S + late_ns, "1-2", True))
    book.hear(told(S + late_ns, "1-1", False))
    book.hear(told(S + late_ns + 1, "1-2", True))
    assert (book.account().appeared, book.account().vanished) == (found, found)


def test_a_book_is_bounded() -> None:
    book = PresenceBook()
    for number in range(MOST_PORTS + 5):
        book.hear(told(number, f"1-{number + 1}", True))
    assert book.account().overlooked == 5


REASONS = st.sampled_from(["last", "last_other_boot", "start", "resync", "end", "?"])
SCANS = st.builds(lambda found, reason: replace(found, reason=reason), presences, REASONS)


@given(st.lists(st.one_of(SCANS, st.tuples(st.integers(0, 5 * S), st.sampled_from("abc"), st.booleans()))))
def test_a_book_is_total_and_never_counts_below_nothing(
    steps: list[Presence | tuple[int, str, bool]],
) -> None:
    book = PresenceBook()
    for step in steps:
        if isinstance(step, Presence):
            book.look(step)
        else:
            book.hear(told(*step))
        account = book.account()
        assert min(account.appeared, account.vanished, account.resyncs, account.overlooked) >= 0
