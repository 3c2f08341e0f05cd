from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.measure.presence import Change, differences, port_order
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
