from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.moments import instant
from plugmeter.telemetry import desired
from plugmeter.telemetry.commands.message import Cleared, Refusal, Why
from plugmeter.telemetry.desired import STARTS_LIMIT, Outcome, Standing, Wish

LIMIT_NS = 600_000_000_000
A = Wish("a", {"run": {"debounce_ms": 110}})
B = Wish("b", {"run": {"debounce_ms": 120}})


def tried(wish: Wish, standing: Standing = Standing()) -> Standing:  # noqa: B008  frozen
    return desired.propose(standing, wish, LIMIT_NS, changes=True)


def test_a_wish_is_tried_and_kept_once_the_controller_is_reached() -> None:
    trial = tried(A)
    assert (trial.overlay, trial.kept_overlay, trial.outcome, trial.id) == (A.config, {}, Outcome.TRIAL, "a")
    kept = desired.reach(trial)
    assert (kept.overlay, kept.kept, kept.trial, kept.outcome) == (A.config, A, None, Outcome.IN_EFFECT)


def test_a_wish_that_changes_nothing_needs_no_trial() -> None:
    standing = desired.propose(Standing(), A, LIMIT_NS, changes=False)
    assert (standing.kept, standing.trial, standing.outcome) == (A, None, Outcome.IN_EFFECT)


def test_without_the_controller_it_goes_back_to_what_was_kept() -> None:
    trial = tried(B, desired.reach(tried(A)))
    almost = desired.pass_time(trial, LIMIT_NS - 1)
    assert almost.overlay == B.config
    back = desired.pass_time(almost, 1)
    assert (back.overlay, back.outcome, back.id) == (A.config, Outcome.ROLLED_BACK, "b")
    assert back.reason == "the controller was not reached with it in time"


def test_time_that_goes_back_takes_nothing_off() -> None:
    assert desired.pass_time(tried(A), -LIMIT_NS) == tried(A)


def test_three_starts_and_no_fourth() -> None:
    standing = tried(A)
    for _ in range(STARTS_LIMIT):
        standing = desired.start(standing)
        assert standing.overlay == A.config
    standing = desired.start(standing)
    assert (standing.overlay, standing.outcome) == ({}, Outcome.ROLLED_BACK)
    assert standing.reason == "the daemon was started 3 times with it, and the controller never reached"


def test_a_wish_during_a_trial_takes_its_place_and_what_was_kept_stays() -> None:
    standing = tried(B, tried(A))
    assert standing.overlay == B.config
    assert desired.roll_back(standing, "why").overlay == {}


def test_a_refused_wish_leaves_a_trial_of_another_alone() -> None:
    standing = desired.refuse(tried(A), B, "why")
    assert (standing.overlay, standing.id, standing.outcome) == (A.config, "b", Outcome.REFUSED)
    assert (desired.reach(standing).id, desired.reach(standing).outcome) == ("a", Outcome.IN_EFFECT)


def test_wishes_are_known_again() -> None:
    standing = desired.roll_back(tried(A), "why")
    assert standing.knows(A) is True
    assert standing.knows(Wish("a", {})) is None
    assert standing.knows(B) is False


STEPS: Any = st.one_of(
    st.tuples(st.just("propose"), st.integers(0, 9), st.booleans()),
    st.tuples(st.just("refuse"), st.integers(0, 9)),
    st.tuples(st.just("pass"), st.integers(-LIMIT_NS, LIMIT_NS)),
    st.tuples(st.just("start")),
    st.tuples(st.just("reach")),
    st.tuples(st.just("store")),
)


@given(st.lists(STEPS, max_size=60))
def test_whatever_happens(steps: list[tuple[Any, ...]]) -> None:
    """Only what the controller was reached with is kept; a trial ends; and the file says all of it."""
    standing, spent_ns, starts = Standing(), 0, 0
    good: list[dict[str, Any]] = [{}]
    for step, *rest in steps:
        before = standing
        if step == "propose":
            wish = Wish(f"w{rest[0]}", {"run": {"debounce_ms": 100 + rest[0]}}, rest[0])
            standing = desired.propose(standing, wish, LIMIT_NS, changes=rest[1])
            spent_ns = starts = 0
            if not rest[1]:
                good.append(dict(wish.config))
        elif step == "refuse":
            standing = desired.refuse(standing, Wish(f"w{rest[0]}", {}), "why")
        elif step == "pass":
            standing = desired.pass_time(standing, rest[0])
            spent_ns += max(0, rest[0])
        elif step == "start":
            standing = desired.start(standing)
            starts += 1
        elif step == "reach":
            if standing.trial:
                good.append(dict(standing.trial.wish.config))
            standing = desired.reach(standing)
        else:
            stored = desired.decode(desired.encode(standing))
            if standing.trial is None:
                assert stored == standing
            standing = stored
        assert standing.kept_overlay == good[-1]
        assert standing.overlay in (standing.kept_overlay, standing.trial and standing.trial.wish.config)
        if standing.trial:
            assert 0 <= standing.trial.left_ns <= LIMIT_NS
            assert spent_ns < LIMIT_NS
            assert starts <= STARTS_LIMIT
        elif before.trial and step in ("pass", "start"):
            assert standing.outcome is Outcome.ROLLED_BACK
        assert standing.newest_issued_ns >= before.newest_issued_ns
        assert len(standing.seen) <= desired.SEEN_LIMIT


@given(
    st.binary(max_size=200)
    | st.dictionaries(st.text(max_size=5), st.integers()).map(json.dumps).map(str.encode)
)
def test_any_file_is_what_we_wrote_or_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        desired.decode(data)


@pytest.mark.parametrize(
    "changed",
    [
        {"version": 2}, {"kept": 3}, {"kept": {"id": "a"}}, {"outcome": "?"}, {"seen": [["a"]]}, {"seen": 3},
        {"kept": {"id": 3, "config": {}, "issued_ns": None}},
        {"trial": {"wish": None, "left_ms": 1, "starts": 0}},
        {"trial": {"wish": {"id": "a", "config": {}, "issued_ns": None}, "left_ms": -1, "starts": 0}},
        {"trial": {"wish": {"id": "a", "config": {}, "issued_ns": None}, "left_ms": 1.5, "starts": 0}},
        {"newest_issued_ns": True},
    ],
)  # fmt: skip
def test_a_file_that_was_changed(changed: dict[str, Any]) -> None:
    good = json.loads(desired.encode(tried(A)))
    assert desired.decode(json.dumps(good).encode()) == tried(A)
    with pytest.raises(ValueError, match=r"^it(s version)? is "):
        desired.decode(json.dumps(good | changed).encode())


def test_a_file_of_before_there_were_signatures_is_of_an_unsigned_wish() -> None:
    old = json.loads(desired.encode(tried(Wish("a", {}, signed=True))))
    del old["trial"]["wish"]["signed"]
    assert desired.decode(json.dumps(old).encode()) == tried(Wish("a", {}))


def parsed(document: object, verify: Any = None) -> desired.Asked:
    return desired.parse(json.dumps(document).encode(), device="lab-3", verify=verify)


def test_documents() -> None:
    assert parsed({"id": "a", "config": {"run": {}}}) == Wish("a", {"run": {}})
    assert desired.parse(b"", device="lab-3") == Cleared()
    full = {"device": "lab-3", "id": "a", "issued": "2026-11-22T10:00:00Z", "config": {}}
    assert parsed(full) == Wish("a", {})
    sealed = {"signed": json.dumps(full), "signature": "AAAA"}
    assert parsed(sealed) == Wish("a", {})
    verified = parsed(sealed, lambda *_: True)
    assert verified == Wish("a", {}, instant("2026-11-22T10:00:00Z"), signed=True)
    assert isinstance(verified, Wish)
    assert desired.decode(desired.encode(tried(verified))) == tried(verified)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"id": "a"}, Why.MALFORMED),
        ({"config": {}}, Why.MALFORMED),
        ({"id": "a", "config": [], "device": "lab-3"}, Why.MALFORMED),
        ({"id": "a b", "config": {}}, Why.BAD_ID),
        ({"id": None, "config": {}}, Why.BAD_ID),
        ({"id": "a", "config": {}, "device": "lab-4"}, Why.OTHER_DEVICE),
        ({"id": "a", "config": {}, "issued": "now"}, Why.MALFORMED),
        ({"id": "a", "config": {}, "expires": "x"}, Why.MALFORMED),
        ({"id": "a", "config": {"x": "y" * 70_000}}, Why.TOO_LARGE),
    ],
)
def test_a_document_that_is_refused(document: object, why: Why) -> None:
    outcome = parsed(document)
    assert isinstance(outcome, Refusal)
    assert outcome.why is why


@pytest.mark.parametrize("left_out", ["device", "id", "issued", "config"])
def test_a_signed_document_names_all_that_binds_it(left_out: str) -> None:
    full = {"device": "lab-3", "id": "a", "issued": "2026-11-22T10:00:00Z", "config": {}}
    text = json.dumps({name: value for name, value in full.items() if name != left_out})
    outcome = parsed({"signed": text, "signature": "AAAA"}, lambda *_: True)
    assert outcome == Refusal(Why.MALFORMED, f'"{left_out}" is missing')


@given(st.binary(max_size=300))
def test_any_bytes_as_a_document(data: bytes) -> None:
    assert isinstance(desired.parse(data, device="lab-3"), Refusal if data else Cleared)
