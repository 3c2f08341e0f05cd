from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.moments import NS, instant, rfc3339
from plugmeter.telemetry.commands import message
from plugmeter.telemetry.commands.message import Cleared, Command, Echo, Refusal, State, Why
from tests.telemetry.commands.orders import ARGUMENTS, DEVICE, NOW_NS, OPS, TOPICS, document, payload

TOPIC = TOPICS.command("selftest", "a1")


def refused(topic: str = TOPIC, data: bytes = b"", **options: Any) -> Refusal:
    outcome = message.parse(topic, data, device=DEVICE, **options)
    assert isinstance(outcome, Refusal), outcome
    return outcome


@pytest.mark.parametrize("op", OPS)
def test_a_good_command(op: str) -> None:
    outcome = message.parse(TOPICS.command(op, "a1"), payload(op), device=DEVICE)
    assert outcome == Command(op, "a1", NOW_NS - 60 * NS, NOW_NS + 600 * NS, ARGUMENTS.get(op, {}), False)


def test_arguments_may_be_left_out() -> None:
    outcome = message.parse(TOPIC, payload(arguments=None), device=DEVICE)
    assert isinstance(outcome, Command)
    assert outcome.arguments == {}


@pytest.mark.parametrize("state", ["accepted", "executing", "successful", "failed", "refused"])
def test_an_answer_is_no_command(state: str) -> None:
    data = message.state_document("selftest", "a1", State(state), "why", {"a": 1}, NOW_NS)
    assert message.parse(TOPIC, data, device=DEVICE) == Echo(State(state), NOW_NS)


def test_what_only_resembles_an_answer_is_none_of_ours() -> None:
    data = message.state_document("selftest", "a1", State.FAILED, None, None, NOW_NS)
    for topic, text in (
        (TOPICS.command("selftest", "a2"), data),
        (TOPICS.command("resync", "a1"), data),
        ("plugmeter/v1/lab-4/cmd/selftest/a1", data),
        (TOPIC, data.replace(b'"reason"', b'"raison"')),
        (TOPIC, b'{"state":"failed"}'),
    ):
        assert message.echo(message.address(topic, DEVICE), text) == Echo(State.FAILED)
    for nothing in (b"", b"{", payload(), b'{"state":"failed","signed":"","signature":""}', b" " * 20_000):
        assert message.echo(message.address(TOPIC, DEVICE), nothing) is None


def test_an_answer_needs_no_signature() -> None:
    data = message.state_document("selftest", "a1", State.FAILED, None, None, NOW_NS)
    assert message.parse(TOPIC, data, device=DEVICE, verify=lambda *_: False) == Echo(State.FAILED, NOW_NS)


def test_an_empty_payload_is_a_cleared_topic() -> None:
    assert message.parse(TOPIC, b"", device=DEVICE) == Cleared()


@pytest.mark.parametrize(
    ("changed", "why", "detail"),
    [
        ({"state": None}, Why.MALFORMED, '"state" is missing'),
        ({"state": "done"}, Why.MALFORMED, '"state" of a command is "init", not "done"'),
        ({"state": 3}, Why.MALFORMED, '"state" must be a text'),
        ({"device": None}, Why.MALFORMED, '"device" is missing'),
        ({"device": "lab-4"}, Why.OTHER_DEVICE, 'it is for "lab-4" and was sent to lab-3'),
        ({"op": "resync"}, Why.MALFORMED, '"op" is "resync", but its topic says "selftest"'),
        ({"id": "a2"}, Why.MALFORMED, '"id" is "a2", but its topic says "a1"'),
        ({"id": ["a1"]}, Why.MALFORMED, '"id" must be a text'),
        (
            {"issued": "yesterday"},
            Why.MALFORMED,
            '"issued" is "yesterday"; it must be an RFC 3339 time: 2026-11-22T09:30:00Z',
        ),
        (
            {"expires": rfc3339(NOW_NS - 60 * NS)},
            Why.MALFORMED,
            '"expires" must be after "issued", by 31 days at most',
        ),
        (
            {"expires": "2027-11-22T10:00:00Z"},
            Why.MALFORMED,
            '"expires" must be after "issued", by 31 days at most',
        ),
        ({"argument": {}}, Why.MALFORMED, 'unknown field "argument"; did you mean arguments?'),
        ({"arguments": [1]}, Why.MALFORMED, '"arguments" must be an object: {...}'),
        ({"arguments": {"x": 1}}, Why.BAD_ARGUMENTS, "unknown key arguments.x"),
    ],
)
def test_a_document_that_is_no_good_command(changed: dict[str, Any], why: Why, detail: str) -> None:
    assert refused(data=payload(**changed)) == Refusal(why, detail)


@pytest.mark.parametrize(
    ("topic", "why", "detail"),
    [
        ("plugmeter/v1/lab-4/cmd/selftest/a1", Why.OTHER_DEVICE, 'the topic is "lab-4"\'s; this is lab-3'),
        ("plugmeter/v2/lab-3/cmd/selftest/a1", Why.OTHER_DEVICE, 'the topic is ""\'s; this is lab-3'),
        ("plugmeter/v1/lab-3/desired", Why.OTHER_DEVICE, 'the topic is ""\'s; this is lab-3'),
        ("", Why.OTHER_DEVICE, 'the topic is ""\'s; this is lab-3'),
        (TOPICS.command("selftets", "a1"), Why.UNKNOWN_OP, '"selftets"; did you mean selftest?'),
        (TOPICS.command("", "a1"), Why.UNKNOWN_OP, f'""; there are {", ".join(OPS)}'),
        (TOPICS.command("selftest", ""), Why.BAD_ID, '""; an id is 1 to 64 of A-Z a-z 0-9 _ -'),
        (TOPICS.command("selftest", "a/1"), Why.BAD_ID, '"a/1"; an id is 1 to 64 of A-Z a-z 0-9 _ -'),
        (TOPICS.command("selftest", "ä"), Why.BAD_ID, '"ä"; an id is 1 to 64 of A-Z a-z 0-9 _ -'),
        (TOPICS.command("selftest", "a1\n"), Why.BAD_ID, r'"a1\n"; an id is 1 to 64 of A-Z a-z 0-9 _ -'),
    ],
)
def test_a_topic_that_is_no_good_one(topic: str, why: Why, detail: str) -> None:
    assert refused(topic, payload()) == Refusal(why, detail)


def test_the_longest_id_and_one_that_is_longer() -> None:
    longest = "x" * 64
    good = message.parse(TOPICS.command("selftest", longest), payload(command_id=longest), device=DEVICE)
    assert isinstance(good, Command)
    assert refused(TOPICS.command("selftest", longest + "x"), payload()).why is Why.BAD_ID


def test_a_message_of_the_largest_size_and_a_larger_one() -> None:
    largest = payload() + b" " * (message.PAYLOAD_LIMIT_BYTES - len(payload()))
    assert isinstance(message.parse(TOPIC, largest, device=DEVICE), Command)
    expected = Refusal(Why.TOO_LARGE, "16385 bytes; a command has at most 16384")
    assert refused(data=largest + b" ") == expected
    assert refused(data=b"", size_bytes=16_385) == expected


def test_what_is_no_json_is_refused_with_the_place() -> None:
    assert refused(data=b'{"state": init}') == Refusal(
        Why.MALFORMED, "it is not JSON: JSON is malformed: invalid character (byte 10)"
    )


@pytest.mark.parametrize(
    ("topic", "answered"),
    [
        (TOPIC, True),
        (TOPICS.command("no-such-op", "not an id"), True),
        ("plugmeter/v1/lab-4/cmd/selftest/a1", False),
        ("plugmeter/v1/lab-3/status", False),
        (TOPICS.command("selftest", "x" * 300), False),
        (TOPICS.command("selftest", "a\n"), False),
        (TOPICS.command("selftest", "#"), False),
        (TOPICS.command("selftest", "\ud800"), False),
    ],
)
def test_only_our_own_topics_are_answered(topic: str, answered: bool) -> None:
    assert message.address(topic, DEVICE).topic == (topic if answered else None)


def command(**changed: Any) -> Command:
    outcome = message.parse(TOPIC, payload(**changed), device=DEVICE)
    assert isinstance(outcome, Command)
    return outcome


def test_admitted_until_it_expires() -> None:
    expires_ns = NOW_NS + 600 * NS
    assert message.admit(command(), OPS, NOW_NS) is None
    assert message.admit(command(), OPS, expires_ns) is None
    late = message.admit(command(), OPS, expires_ns + 1)
    assert late == Refusal(
        Why.EXPIRED,
        "at 2026-11-22T10:10:00.000000Z; this device has 2026-11-22T10:10:00.000000Z: send it anew",
    )


def test_a_clock_that_was_never_set_refuses_nothing_as_expired() -> None:
    assert message.admit(command(), OPS, 0) is None


def test_what_may_have_been_forgotten_is_expired_whatever_the_clock_says() -> None:
    expires_ns = NOW_NS + 600 * NS
    assert message.admit(command(), OPS, 0, forgotten_ns=expires_ns - 1) is None
    forgotten = message.admit(command(), OPS, 0, forgotten_ns=expires_ns)
    assert forgotten is not None
    assert forgotten.why is Why.EXPIRED


def test_what_a_lost_journal_may_have_known_is_refused() -> None:
    issued_ns = instant(document()["issued"]) or 0
    assert message.admit(command(), OPS, NOW_NS, lost_ns=issued_ns - 1) is None
    lost = message.admit(command(), OPS, NOW_NS, lost_ns=issued_ns)
    assert lost is not None
    assert lost.why is Why.JOURNAL


def test_what_is_not_in_the_list() -> None:
    refusal = message.admit(command(), ("resync", "restart"), NOW_NS)
    assert refusal == Refusal(
        Why.NOT_ACCEPTED, "selftest is not in this device's commands.accept (there: resync, restart)"
    )
    nothing = message.admit(command(), (), NOW_NS)
    assert nothing is not None
    assert nothing.detail.endswith("(there: none)")


@given(
    st.text(max_size=80)
    | st.builds(TOPICS.command, st.sampled_from(OPS) | st.text(max_size=5), st.text(max_size=70)),
    st.binary(max_size=300),
    st.booleans(),
)
def test_any_bytes_on_any_topic(topic: str, data: bytes, key: bool) -> None:
    verify = (lambda text, signature: True) if key else None
    outcome = message.parse(topic, data, device=DEVICE, verify=verify)
    assert isinstance(outcome, Refusal) or (isinstance(outcome, Cleared) and not data)
    assert isinstance(outcome, Cleared) or outcome.reason.isprintable()


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.sampled_from(OPS),
    st.dictionaries(
        st.sampled_from([*document(), "signed", "signature", "x"]),
        JSON | st.sampled_from(["init", "accepted", "lab-3", "a1", "2026-11-22T09:30:00Z", *OPS]),
        max_size=3,
    ),
    st.sets(st.sampled_from(list(document())), max_size=1),
    st.booleans(),
)
def test_any_change_of_a_good_command(
    op: str, changes: dict[str, Any], left_out: set[str], signed: bool
) -> None:
    changed = {name: value for name, value in document(op).items() if name not in left_out} | changes
    text = json.dumps(changed)
    data = json.dumps({"signed": text, "signature": "AAAA"}) if signed else text
    outcome = message.parse(TOPICS.command(op, "a1"), data.encode(), device=DEVICE)
    if isinstance(outcome, Command):
        assert (outcome.op, outcome.id, changed["device"]) == (op, "a1", DEVICE)
        assert changed["state"] == "init"
        assert not outcome.signed
    elif isinstance(outcome, Echo):
        assert not signed
        assert changed["state"] == outcome.state != "init"
    else:
        assert isinstance(outcome, Refusal)
        assert outcome.reason.isprintable()
        answer = message.state_document(op, "a1", State.REFUSED, outcome.reason, None, 0)
        assert isinstance(message.parse(TOPICS.command(op, "a1"), answer, device=DEVICE), Echo)
