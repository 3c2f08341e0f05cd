from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plugmeter.errors import RigError
from plugmeter.rigs.numbering import Numbering
from plugmeter.rigs.stick import Attachment, Stick

# A busy machine is no defect: nothing here is judged by the clock.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_device_numbers_go_round_and_pass_over_those_in_use() -> None:
    numbering = Numbering()
    stays = numbering.attach(Stick(0), "1-1")
    assert stays.devnum == 2
    seen = []
    for _ in range(130):
        attached = numbering.attach(Stick(1), "1-2")
        seen.append(attached.devnum)
        numbering.detach(attached)
    assert seen == [*range(3, 128), *range(3, 8)]


def test_hosts_and_disks_are_the_lowest_that_are_free() -> None:
    numbering = Numbering(first_host=4)
    first, second = numbering.attach(Stick(0), "1-1"), numbering.attach(Stick(1), "1-2")
    assert (first.disk_name, second.disk_name, second.host) == ("sda", "sdb", 5)
    numbering.detach(first)
    third = numbering.attach(Stick(2), "1-1")
    assert (third.disk_name, third.host, third.disk_sequence) == ("sda", 4, 3)


def test_a_bus_has_126_numbers_for_devices() -> None:
    numbering = Numbering()
    for number in range(126):
        numbering.attach(Stick(number), f"1-{number + 1}")
    with pytest.raises(RigError, match="bus 1 is full"):
        numbering.attach(Stick(126), "1-127")
    assert numbering.attach(Stick(126), "2-1").devnum == 2


@PATIENT
@given(st.lists(st.tuples(st.sampled_from(["1-1", "1-2", "2-1", "2-2.1"]), st.booleans()), max_size=300))
def test_no_two_sticks_share_a_number(actions: list[tuple[str, bool]]) -> None:
    numbering = Numbering()
    inside: dict[str, Attachment] = {}
    for port, plug in actions:
        if plug and port not in inside:
            inside[port] = numbering.attach(Stick(0), port)
        elif not plug and port in inside:
            numbering.detach(inside.pop(port))
        assert len({each.usb_node for each in inside.values()}) == len(inside)
        assert len({each.disk_name for each in inside.values()}) == len(inside)
        assert len({each.host for each in inside.values()}) == len(inside)
