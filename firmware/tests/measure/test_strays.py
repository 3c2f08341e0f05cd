"""Strays: what inotify saw long before its uevent was read is not missing."""

from __future__ import annotations

from plugmeter.measure.nodes import NodeSighting
from plugmeter.measure.strays import Strays

S = 1_000_000_000


def stray(t_ns: int, name: str = "sda", added: bool = True) -> NodeSighting:
    return NodeSighting(name, added, 1, None, None, t_ns, None)


def told(t_ns: int, name: str = "sda", added: bool = True) -> NodeSighting:
    return NodeSighting(name, added, 1, t_ns, t_ns + 1, None, "1-1")


def test_a_late_uevent_finds_its_node_in_the_order_of_the_queue() -> None:
    strays = Strays(30 * S)
    for t_ns in (1 * S, 2 * S):
        strays.keep(stray(t_ns))
    assert strays.join(told(6 * S)).t_inotify_ns == 1 * S
    assert strays.join(told(7 * S)).t_inotify_ns == 2 * S
    assert strays.join(told(8 * S)).t_inotify_ns is None
    assert strays.unclaimed == 0


def test_another_name_another_kind_and_a_later_node_are_none_of_its() -> None:
    strays = Strays(30 * S)
    for other in (stray(1 * S, "sdb"), stray(1 * S, added=False), stray(9 * S)):
        strays.keep(other)
    assert strays.join(told(6 * S)) == told(6 * S)
    assert len(strays) == 3


def test_what_nobody_claims_is_forgotten_and_counted() -> None:
    strays = Strays(30 * S)
    strays.keep(stray(1 * S))
    assert strays.join(told(32 * S)).t_inotify_ns is None
    assert (len(strays), strays.unclaimed) == (0, 1)
    for number in range(5000):
        strays.keep(stray(40 * S + number))
    assert len(strays) + strays.unclaimed == 5001
    assert len(strays) == 4096


def test_a_sighting_that_has_its_node_is_left_alone() -> None:
    strays = Strays(30 * S)
    strays.keep(stray(1 * S))
    whole = NodeSighting("sda", True, 1, 2 * S, 2 * S, 2 * S, "1-1")
    assert strays.join(whole) is whole
