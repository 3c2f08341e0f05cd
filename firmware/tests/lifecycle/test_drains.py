"""The memory of drains: the rule, and a file that may be anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.lifecycle.drains import LONGEST_S, MOST_REMEMBERED, DrainMemory, after, deadline_s, parse


@pytest.mark.parametrize(
    ("base_s", "ran_out", "expected_s"),
    [
        (10, 0, 10),
        (10, 1, 15),
        (10, 2, 22.5),
        (10, 3, 30),
        (2, 3, 6.75),
        (2, 5, 15.1875),
        (2, 99, 15.1875),
        (30, 1, 30),
    ],
)
def test_the_rule(base_s: float, ran_out: int, expected_s: float) -> None:
    assert deadline_s(base_s, ran_out) == expected_s


@given(st.floats(0.1, 30), st.lists(st.booleans(), max_size=50))
def test_never_below_the_base_nor_above_the_longest(base_s: float, drains: list[bool]) -> None:
    ran_out = 0
    for suffices in drains:
        before_s = deadline_s(base_s, ran_out)
        ran_out = after(ran_out, suffices)
        now_s = deadline_s(base_s, ran_out)
        assert base_s <= now_s <= LONGEST_S
        assert now_s <= before_s if suffices else now_s >= before_s
    for _ in range(MOST_REMEMBERED):  # so many good ones forgive everything
        ran_out = after(ran_out, suffices=True)
    assert deadline_s(base_s, ran_out) == base_s


def test_it_is_remembered_across_restarts(tmp_path: Path) -> None:
    told: list[str] = []
    path = tmp_path / "drains.json"
    DrainMemory(path, told.append).remember(suffices=True)
    assert not path.exists()  # nothing to remember
    for expected in (1, 2):
        memory = DrainMemory(path, told.append)
        memory.remember(suffices=False)
        assert DrainMemory(path, told.append).ran_out == expected
    assert DrainMemory(path, told.append).deadline_s(2) == 4.5
    DrainMemory(path, told.append).remember(suffices=True)
    assert DrainMemory(path, told.append).ran_out == 1
    assert told == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"ran_out": -1}',
        b'{"ran_out": 6}',
        b'{"ran_out": true}',
        b'{"ran_out": 1.0}',
        b"\xff",
        b"[" * 4000,
    ],
)
def test_nonsense_costs_the_memory_and_is_told(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "drains.json"
    path.write_bytes(data)
    told: list[str] = []
    memory = DrainMemory(path, told.append)
    assert memory.ran_out == 0
    assert told == [f"{path} makes no sense; drains have their usual time"]
    memory.remember(suffices=False)
    assert parse(path.read_bytes()) == 1


@given(st.binary(max_size=200))
def test_parse_never_raises(data: bytes) -> None:
    found = parse(data)
    assert found is None or 0 <= found <= MOST_REMEMBERED


def test_what_cannot_be_read_or_written_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    memory = DrainMemory(tmp_path, told.append)  # a directory
    memory.remember(suffices=False)
    assert memory.ran_out == 1  # for as long as the process lives
    assert [line.partition(":")[0] for line in told] == [
        f"cannot read {tmp_path}",
        f"cannot write {tmp_path}",
    ]
    big = tmp_path / "big"
    big.write_bytes(b" " * 5000)
    DrainMemory(big, told.append)
    assert told[-1].startswith(f"cannot read {big}: it is too large")


def test_without_a_file(tmp_path: Path) -> None:
    memory = DrainMemory(None, lambda line: pytest.fail(line))
    memory.remember(suffices=False)
    assert memory.deadline_s(10) == 15
