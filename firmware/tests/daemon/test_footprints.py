"""Footprints: what was left at a broker is known until it is cleared, whatever happens in between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.daemon.footprints import FILE_NAME, MOST, Footprints
from plugmeter.files import replace_file


def footprints(path: Path, tell: Callable[[str], None], machine: str = "m1") -> Footprints:
    return Footprints(path, machine, tell, replace_file)


BROKERS = st.sampled_from(["one:1883", "two:8883"])
TOPICS = st.lists(st.sampled_from([f"t/{number}" for number in range(8)]), max_size=4)


@given(st.lists(st.tuples(st.booleans(), BROKERS, TOPICS), max_size=20))
def test_it_remembers_what_was_left_and_not_cleared(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bool, str, list[str]]]
) -> None:
    path = tmp_path_factory.mktemp("state") / FILE_NAME
    told: list[str] = []
    expected: dict[str, set[str]] = {"one:1883": set(), "two:8883": set()}
    for leaves, broker, topics in steps:
        now = footprints(path, told.append)  # as after a kill between any two steps
        if leaves:
            now.leave(broker, topics)
            expected[broker] |= set(topics)
        else:
            now.clear(broker, topics)
            expected[broker] -= set(topics)
        assert {at: set(now.at(at)) for at in expected} == expected
        assert {at: set(footprints(path, told.append).at(at)) for at in expected} == expected
    assert told == []


def test_the_oldest_go_where_there_are_too_many(tmp_path: Path) -> None:
    told: list[str] = []
    left = footprints(tmp_path / FILE_NAME, told.append)
    for number in range(MOST + 3):
        left.leave("one:1883", [f"t/{number}"])
    assert left.at("one:1883") == [f"t/{number}" for number in range(3, MOST + 3)]
    assert len(told) == 3 and "t/0 at one:1883 is not remembered" in told[0]


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "[" * 20_000, "\udcff", '{"left":[]}',
        *('{"machine":"","left":' + left + "}" for left in (
            "[{}]", "[1]", '{"broker":1}', '[{"broker":"a","topic":1}]', '[{"broker":"","topic":"t"}]',
            '[{"broker":"a","topic":"t/#"}]',
        )),
    ],
)  # fmt: skip
def test_a_damaged_file_is_told_and_costs_no_more_than_its_contents(tmp_path: Path, text: str) -> None:
    path = tmp_path / FILE_NAME
    path.write_text(text, errors="surrogateescape")
    told: list[str] = []
    left = footprints(path, told.append)
    assert left.at("one:1883") == []
    assert len(told) == 1 and str(path) in told[0]
    left.leave("one:1883", ["t"])
    assert footprints(path, pytest.fail).at("one:1883") == ["t"]


def test_a_copied_card_clears_nothing_of_the_original(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    footprints(path, pytest.fail).leave("one:1883", ["t/1"])
    assert footprints(path, pytest.fail, machine="m2").at("one:1883") == []
    assert footprints(path, pytest.fail, machine="").at("one:1883") == ["t/1"]  # nobody knows
    assert footprints(path, pytest.fail).at("one:1883") == ["t/1"]
