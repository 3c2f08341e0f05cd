"""The table of stages: all 125 combinations, written out as grids."""

from itertools import product

import pytest

from plugmeter.measure.stages import SIGHTS, TABLE, Evidence, Sight, Stage, rule_of, stage_of

LETTERS = {
    "b": Stage.BEFORE_UEVENT,
    "q": Stage.SOCKET_QUEUE,
    "u": Stage.UDEVD,
    "Q": Stage.UDEV_SOCKET_QUEUE,
    "d": Stage.DEVTMPFS,
    "i": Stage.INOTIFY_QUEUE,
    "?": Stage.UNKNOWN,
    ".": None,
}
COLUMNS: tuple[Sight, ...] = ("seen", "missed", "gap", "not_observed", "not_expected")

# One grid for each sight of netlink; rows are udev's, columns the node's, both in the order of COLUMNS.
GRIDS: dict[Sight, str] = {
    "seen": """
        . d i . .
        u u u u u
        Q Q Q Q Q
        . d i . .
        . d i . .""",
    "missed": """
        q q q q q
        q b b b b
        q b b b b
        q b b b b
        q b b b b""",
    "gap": """
        q q q q q
        q q q q q
        q q q q q
        q q q q q
        q q q q q""",
    "not_observed": """
        . d i . .
        u b ? ? ?
        Q Q Q Q Q
        . ? i ? ?
        . ? i ? ?""",
    "not_expected": """
        . d i . .
        u b ? ? ?
        Q Q Q Q Q
        . ? i ? ?
        . ? i ? .""",
}
COMBINATIONS = [
    (Evidence(netlink, udev, node), LETTERS[letter])
    for netlink, grid in GRIDS.items()
    for udev, row in zip(COLUMNS, grid.split("\n")[1:], strict=True)
    for node, letter in zip(COLUMNS, row.split(), strict=True)
]


def test_the_grids_hold_every_combination_once() -> None:
    assert len({evidence for evidence, _ in COMBINATIONS}) == len(COMBINATIONS) == len(SIGHTS) ** 3 == 125


@pytest.mark.parametrize(("evidence", "expected"), COMBINATIONS)
def test_stage(evidence: Evidence, expected: Stage | None) -> None:
    assert stage_of(evidence) is expected


def test_every_row_of_the_table_decides_something() -> None:
    deciding = {rule_of(evidence) for evidence, _ in COMBINATIONS}
    assert deciding == set(TABLE)


def test_a_witness_that_tells_nothing_new_changes_no_stage_to_an_earlier_gap() -> None:
    # A queue is only blamed where its witness had a gap there, or where others saw what it missed.
    for netlink, udev, node in product(SIGHTS, repeat=3):
        stage = stage_of(Evidence(netlink, udev, node))
        if stage is Stage.UDEV_SOCKET_QUEUE:
            assert udev == "gap"
        if stage is Stage.INOTIFY_QUEUE:
            assert node == "gap"
        if stage is Stage.SOCKET_QUEUE:
            assert netlink == "gap" or (netlink == "missed" and "seen" in (udev, node))
        if stage is Stage.BEFORE_UEVENT:
            assert "seen" not in (netlink, udev, node)
            assert netlink != "gap"


def test_the_stages_are_words_in_the_order_of_the_way() -> None:
    assert [str(stage) for stage in Stage] == [
        "before_uevent", "socket_queue", "udevd", "udev_socket_queue", "devtmpfs", "inotify_queue", "unknown",
    ]  # fmt: skip
