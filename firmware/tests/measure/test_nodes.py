"""Nodes: one sighting from several channels, whatever is missing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.measure.nodes import NodeMerger, NodeSighting, node_key, port_of
from plugmeter.records import NodeEvent, Uevent, WitnessName

DISK = "/devices/pci0000:00/0000:00:14.0/usb1/1-1/1-1.4/1-1.4:1.0/host2/target2:0:0/2:0:0:0/block/sdb"
WINDOW = 1_000


def uevent(t_ns: int, witness: WitnessName, action: str, seqnum: int, name: str = "sdb") -> Uevent:
    return Uevent(t_ns, witness, seqnum, action, DISK, "block", "disk", name)


def merged(*records: NodeEvent | Uevent) -> list[NodeSighting]:
    merger = NodeMerger(WINDOW)
    for record in records:
        merger.feed(record)
    return merger.finish()


@pytest.mark.parametrize(
    ("action", "name", "key"),
    [
        ("add", "sdb", ("sdb", True)),
        ("create", "sdb", ("sdb", True)),
        ("remove", "bus/usb/001/004", ("bus/usb/001/004", False)),
        ("delete", "/dev/sdb", ("sdb", False)),
        ("attrib", "sdb", None),
        ("change", "sdb", None),
        ("add", "", None),
    ],
)
def test_the_key(action: str, name: str, key: tuple[str, bool] | None) -> None:
    assert node_key(action, name) == key


@pytest.mark.parametrize(
    ("devpath", "port"),
    [
        (DISK, "1-1.4"),
        ("/devices/pci0000:00/0000:00:14.0/usb1/1-1/1-1.4", "1-1.4"),
        ("/devices/pci0000:00/0000:00:14.0/usb1/1-1", "1-1"),
        ("/devices/pci0000:00/0000:00:14.0/usb1", None),
        # below the interface, an I2C client's name looks like a port's
        ("/devices/pci0000:00/usb1/1-2/1-2:1.0/i2c-7/7-1050", "1-2"),
        ("/devices/virtual/mem/null", None),
        ("", None),
    ],
)
def test_the_port_above_a_node(devpath: str, port: str | None) -> None:
    assert port_of(devpath) == port


@given(st.text() | st.lists(st.sampled_from(["usb1", "1-1", "1-1.4", "1-1:1.0", "x"])).map("/".join))
def test_port_of_is_total(devpath: str) -> None:
    port = port_of(devpath)
    assert port is None or port in devpath.split("/")


def test_three_channels_are_one_sighting() -> None:
    assert merged(
        NodeEvent(10, "create", "sdb"),
        uevent(11, "netlink", "add", 5),
        uevent(30, "udev", "add", 5),
        NodeEvent(31, "attrib", "sdb"),
    ) == [NodeSighting("sdb", True, 1, 11, 30, 10, "1-1.4")]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (NodeEvent(10, "create", "sdb"), NodeSighting("sdb", True, 1, None, None, 10, None)),
        (uevent(10, "netlink", "add", 5), NodeSighting("sdb", True, 1, 10, None, None, "1-1.4")),
        (uevent(10, "udev", "remove", 5), NodeSighting("sdb", False, 0, None, 10, None, "1-1.4")),
    ],
)
def test_a_silent_channel_is_normal(record: NodeEvent | Uevent, expected: NodeSighting) -> None:
    assert merged(record) == [expected]


def test_the_generation_counts_the_adds_of_a_name() -> None:
    sightings = merged(
        uevent(10, "netlink", "add", 1),
        uevent(20, "netlink", "remove", 2),
        uevent(30, "netlink", "add", 3),
        uevent(40, "netlink", "add", 4, "sdc"),
        uevent(50, "netlink", "remove", 5),
    )
    assert [(s.name, s.added, s.generation) for s in sightings] == [
        ("sdb", True, 1),
        ("sdb", False, 1),
        ("sdb", True, 2),
        ("sdc", True, 1),
        ("sdb", False, 2),
    ]


def test_within_the_window_uevents_go_by_their_seqnum() -> None:
    """udevd lost the first add: its second must not be taken for it."""
    assert merged(
        uevent(10, "netlink", "add", 1),
        uevent(20, "netlink", "remove", 2),
        uevent(30, "netlink", "add", 3),
        uevent(40, "udev", "add", 3),
    ) == [
        NodeSighting("sdb", True, 1, 10, None, None, "1-1.4"),
        NodeSighting("sdb", False, 1, 20, None, None, "1-1.4"),
        NodeSighting("sdb", True, 2, 30, 40, None, "1-1.4"),
    ]


def test_within_the_window_inotify_goes_by_time() -> None:
    sightings = merged(
        uevent(10, "netlink", "add", 1),
        uevent(600, "netlink", "add", 3),
        NodeEvent(601, "create", "sdb"),
    )
    assert [(s.t_netlink_ns, s.t_inotify_ns) for s in sightings] == [(10, None), (600, 601)]


def test_beyond_the_window_it_is_another_sighting() -> None:
    at_the_end = merged(uevent(10, "netlink", "add", 1), NodeEvent(10 + WINDOW, "create", "sdb"))
    beyond = merged(uevent(10, "netlink", "add", 1), NodeEvent(11 + WINDOW, "create", "sdb"))
    assert (len(at_the_end), len(beyond)) == (1, 2)


def test_what_a_stalled_witness_tells_too_late_takes_nothing_from_a_later_sighting() -> None:
    """It stamps on reading: SEQNUM 1 comes out of its queue when the same name is going again."""
    merger = NodeMerger(WINDOW)
    late_ns = 10 + 3 * WINDOW
    for record in (
        uevent(10, "udev", "remove", 1),
        NodeEvent(10, "delete", "sdb"),
        NodeEvent(late_ns, "delete", "sdb"),
        uevent(late_ns + 1, "netlink", "remove", 1),
        uevent(late_ns + 2, "netlink", "remove", 2),
        uevent(late_ns + 3, "udev", "remove", 2),
    ):
        merger.feed(record)
    first, second = merger.finish()
    assert (first.t_netlink_ns, first.t_udev_ns, first.t_inotify_ns) == (None, 10, 10)
    assert (second.t_netlink_ns, second.t_udev_ns, second.t_inotify_ns) == (late_ns + 2, late_ns + 3, late_ns)
    assert merger.overtaken == 1


def test_a_sighting_comes_when_its_window_is_over() -> None:
    merger = NodeMerger(WINDOW)
    merger.feed(uevent(10, "netlink", "add", 1))
    assert merger.advance(10 + WINDOW) == []
    assert merger.pending == 1
    assert len(merger.advance(11 + WINDOW)) == 1
    assert merger.pending == 0


def test_what_is_no_coming_or_going_is_counted() -> None:
    merger = NodeMerger(WINDOW)
    merger.feed(NodeEvent(1, "attrib", "sdb"))
    merger.feed(uevent(2, "netlink", "change", 1))
    merger.feed(uevent(3, "netlink", "add", 2, name=""))
    assert merger.finish() == []
    assert merger.passed_over == 3


def test_late_records_are_counted_and_kept() -> None:
    merger = NodeMerger(WINDOW)
    merger.advance(100)
    merger.feed(uevent(50, "netlink", "add", 1))
    assert merger.late_records == 1
    assert len(merger.finish()) == 1


def test_names_are_bounded_and_what_is_forgotten_is_counted() -> None:
    merger = NodeMerger(WINDOW, max_names=2)
    for number, name in enumerate(["a", "b", "c", "a"]):
        merger.feed(uevent(number, "netlink", "add", number + 1, name))
    assert [sighting.generation for sighting in merger.finish()] == [1, 1, 1, 1]
    assert merger.forgotten_names == 2


def test_a_flood_of_one_name_is_sealed_and_counted() -> None:
    merger = NodeMerger(WINDOW)
    for number in range(100):
        merger.feed(uevent(number, "netlink", "add", number + 1))
    sightings = merger.finish()
    assert [sighting.generation for sighting in sightings] == list(range(1, 101))
    assert merger.sealed_early == 36


def test_wrong_use_is_refused() -> None:
    with pytest.raises(ValueError, match="coldplug"):
        NodeMerger(WINDOW).feed(uevent(1, "coldplug", "add", 1))
    with pytest.raises(ValueError, match="window_ns"):
        NodeMerger(-1)
    with pytest.raises(ValueError, match="max_names"):
        NodeMerger(1, max_names=0)


NAMES = ["sdb", "sdc", "bus/usb/001/004"]
node_events = st.builds(
    NodeEvent, st.integers(0, 5_000), st.sampled_from(["create", "delete", "attrib"]), st.sampled_from(NAMES)
)
uevents = st.builds(
    uevent,
    st.integers(0, 5_000),
    st.sampled_from(["netlink", "udev"]),
    st.sampled_from(["add", "remove", "change"]),
    st.integers(0, 9),
    st.sampled_from(NAMES),
)


@given(st.lists(node_events | uevents, max_size=30))
def test_every_record_is_in_one_sighting_or_counted(records: list[NodeEvent | Uevent]) -> None:
    merger = NodeMerger(WINDOW)
    for record in records:
        merger.feed(record)
    sightings = merger.finish()
    times = [(s.t_netlink_ns, s.t_udev_ns, s.t_inotify_ns) for s in sightings]
    seen = [[t_ns for t_ns in channels if t_ns is not None] for channels in times]
    assert sum(map(len, seen)) + merger.passed_over + merger.overtaken == len(records)
    assert all(channels and max(channels) - min(channels) <= WINDOW for channels in seen)
    assert [min(channels) for channels in seen] == sorted(min(channels) for channels in seen)
    for name in NAMES:
        adds = [s.generation for s in sightings if s.name == name and s.added]
        assert adds == list(range(1, len(adds) + 1))
    assert merger.pending == 0


@given(st.lists(node_events | uevents, max_size=30), st.data())
def test_chunking_changes_nothing(records: list[NodeEvent | Uevent], data: st.DataObject) -> None:
    """Fed by channel and all at once, or in time with advances between: the same sightings and order."""
    records = sorted(records, key=lambda record: record.t_ns)
    by_channel = sorted(records, key=lambda record: record.witness if isinstance(record, Uevent) else "")
    expected = merged(*by_channel)
    merger = NodeMerger(WINDOW)
    sightings: list[NodeSighting] = []
    now_ns = 0
    for record in records:
        if record.t_ns > now_ns:
            sightings += merger.advance(data.draw(st.integers(now_ns, record.t_ns - 1)))
        now_ns = record.t_ns
        merger.feed(record)
    assert sightings + merger.finish() == expected
    assert merger.late_records == 0
