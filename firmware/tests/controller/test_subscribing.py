"""The order of subscriptions: what floods comes alone, and what may be missing is asked for by name."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plugmeter.controller.subscribing import AT_ONCE, DOCUMENTS, MANY, Plan, Step
from plugmeter.telemetry.topics import every_device, parse

RECORDS = "$share/lab/plugmeter/v1/+/records"


def test_a_small_fleet_is_asked_nothing_twice() -> None:
    plan = Plan(RECORDS, ["bench-1", "bench-2"])
    steps = plan.steps()
    found = []
    for step in steps:
        found.append(step)
        if step.floods:
            plan.heard("bench-1", "status")
    every = tuple(every_device(kind) for kind in DOCUMENTS)
    assert found == [
        *(Step((each,), qos=0, floods=True) for each in every),
        Step(every, retained=False),
        Step((every_device("cmd"),)),
        Step((RECORDS,)),
    ]


@given(
    heard=st.fixed_dictionaries({kind: st.integers(0, 3 * MANY) for kind in DOCUMENTS}),
    known=st.integers(0, 3 * MANY),
)
def test_what_may_have_been_dropped_is_asked_for_by_name(heard: dict[str, int], known: int) -> None:
    """Of kind k the broker sends the first ``heard[k]`` devices'; ``known`` are those of before."""
    names = [f"d{n}" for n in range(3 * MANY)]
    plan = Plan(RECORDS, names[:known])
    asked: list[str] = []
    subscribed: set[str] = set()
    for number, step in enumerate(plan.steps()):
        if step.floods:
            kind = DOCUMENTS[number]
            for name in names[: heard[kind]]:
                plan.heard(name, kind)
        elif step.away:
            subscribed -= set(step.filters)
        elif not step.needed:
            assert len(step.filters) <= AT_ONCE
            assert not subscribed, "a few at a time"
            subscribed |= set(step.filters)
            asked += step.filters
    assert not subscribed
    most = max(known, *heard.values())
    places = [parse(topic) for topic in asked]
    expected = {(name, kind) for kind, n in heard.items() if n >= MANY for name in names[n:most]}
    assert {(place.device, place.kind) for place in places if place} == expected
    assert len(asked) == len(expected)
