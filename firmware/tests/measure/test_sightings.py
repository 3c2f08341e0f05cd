"""Sightings: one enumeration, however many witnesses saw it."""

from __future__ import annotations

from plugmeter.measure.enumerations import Enumeration
from plugmeter.measure.sightings import Sightings
from plugmeter.records import WitnessName


def seen(t_ns: int, seqnum: int, witness: WitnessName = "netlink") -> Enumeration:
    return Enumeration("1-1", True, t_ns, seqnum, witness)


def test_the_first_witness_brings_it_in_and_the_others_are_evidence() -> None:
    sightings = Sightings(1000)
    assert sightings.see(seen(10, 7, "udev"))
    assert not sightings.see(seen(11, 7, "netlink"))
    assert sightings.times_ns(7) == {"udev": 10, "netlink": 11}
    assert sightings.times_ns(8) == {}


def test_a_witness_that_sees_it_twice_has_a_duplicate() -> None:
    sightings = Sightings(1000)
    assert sightings.see(seen(10, 7))
    assert sightings.see(seen(12, 7))
    assert not sightings.see(seen(13, 7, "udev"))
    assert sightings.see(seen(14, 7, "udev"))
    assert sightings.times_ns(7) == {"netlink": 10, "udev": 13}


def test_it_forgets() -> None:
    sightings = Sightings(100)
    for number in range(1000):
        sightings.see(seen(10 * number, number))
        sightings.see(seen(10 * number, number, "udev"))
    assert sightings.times_ns(1) == {}
    assert sightings.times_ns(999) == {"netlink": 9990, "udev": 9990}
    assert len(sightings._first) == len(sightings._later) == len(sightings._ages) <= 12
