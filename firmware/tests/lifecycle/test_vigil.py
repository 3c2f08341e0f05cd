"""Who moves and who does not."""

from __future__ import annotations

from plugmeter.lifecycle.vigil import LEAST_PATIENCE_NS, Vigil
from plugmeter.progress import Progress

S = 1_000_000_000


def test_whoever_moves_is_never_named() -> None:
    vigil, worker = Vigil(10 * S), Progress("outbox")
    for second in range(100):
        worker.woke(second % 2 == 0)
        assert vigil.look(second * S, [worker]) == []


def test_whoever_rests_longer_than_patience_is_named_until_it_moves() -> None:
    vigil, still, moving = Vigil(10 * S), Progress("still"), Progress("moving")
    named = {}
    for second in range(30):
        moving.woke(False)
        if second == 20:
            still.woke(False)
        named[second] = vigil.look(second * S, [moving, still])
    assert [second for second, names in named.items() if names == ["still"]] == list(range(11, 20))
    assert all(names in ([], ["still"]) for names in named.values())


def test_patience_is_never_shorter_than_a_worker_may_sleep() -> None:
    vigil, worker = Vigil(1), Progress("link")
    assert vigil.look(0, [worker]) == []
    assert vigil.look(LEAST_PATIENCE_NS, [worker]) == []
    assert vigil.look(LEAST_PATIENCE_NS + 1, [worker]) == ["link"]


def test_a_restarted_worker_begins_anew() -> None:
    vigil, old = Vigil(10 * S), Progress("link")
    vigil.look(0, [old])
    assert vigil.look(11 * S, [old]) == ["link"]
    new = Progress("link")
    assert vigil.look(12 * S, [new]) == []
    assert vigil.look(22 * S, [new]) == []
    assert vigil.look(23 * S, [new]) == ["link"]
