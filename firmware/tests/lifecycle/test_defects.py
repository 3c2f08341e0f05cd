"""What raises what it must not is told, becomes an event, and is not called again."""

from __future__ import annotations

import pytest

from plugmeter.lifecycle.defects import Defects
from plugmeter.lifecycle.stages import Event


class Part:
    def __init__(self, *good: int) -> None:
        self.good = list(good)
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        return self.good.pop(0)


@pytest.mark.parametrize(
    ("name", "event"),
    [
        ("start", Event.DEFECT),
        ("ready", Event.DEFECT),
        ("end_intake", Event.DEFECT),
        ("intake", Event.DEFECT),
        ("flush_and_publish", Event.DEFECT),
        ("backlog", Event.DEFECT),
        ("tick", Event.FATAL),
        ("the callback of descriptor 7", Event.FATAL),
    ],
)
def test_a_defect_happens_once_with_its_traceback(
    name: str, event: Event, caplog: pytest.LogCaptureFixture
) -> None:
    happened: list[tuple[Event, str]] = []
    defects = Defects(lambda *what: happened.append(what))
    part = Part(3)
    assert [defects.ask(name, part, -1) for _ in range(4)] == [3, -1, -1, -1]
    assert part.calls == 2
    assert happened == [(event, f"{name} failed: IndexError")]
    (record,) = caplog.records
    assert record.exc_info is not None and record.message == f"{name} failed: a defect"


def test_others_go_on_and_a_name_that_is_forgotten_may_be_another_ones() -> None:
    happened: list[tuple[Event, str]] = []
    defects = Defects(lambda *what: happened.append(what))
    defects.ask("one", Part(), 0)
    assert defects.ask("other", Part(5), 0) == 5
    assert not defects.forget("other")
    assert defects.forget("one")
    assert not defects.forget("one")
    assert defects.ask("one", Part(6), 0) == 6
    assert len(happened) == 1


def test_what_ends_the_process_is_no_defect() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    happened: list[tuple[Event, str]] = []
    with pytest.raises(KeyboardInterrupt):
        Defects(lambda *what: happened.append(what)).ask("tick", interrupted, None)
    assert happened == []
