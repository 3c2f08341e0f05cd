"""A command as it comes in: topic and bytes -> what is asked for, or why it is refused. Pure.

    plugmeter/v1/<device>/cmd/<op>/<id>    {"state": "init", "device", "op", "id", "issued", "expires",
                                            "arguments"}, or
                                           {"signed": <that as text>, "signature": <base64>}

We answer on the same topic: a document with another state is an answer, ours mostly, and no command. What is
in the document must agree with the topic, so that a broker cannot give it another meaning.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeAlias

from plugmeter.moments import NS, instant, rfc3339
from plugmeter.settings import nearest, shown
from plugmeter.telemetry import strictjson
from plugmeter.telemetry.commands import arguments
from plugmeter.telemetry.topics import ROOT

PAYLOAD_LIMIT_BYTES: Final = 16_384
DEPTH_LIMIT: Final = 16
"""How deep objects and lists may be in each other: ours need 5."""
TOPIC_LIMIT_BYTES: Final = 256
"""Of a topic that is answered."""
LONGEST_VALIDITY_NS: Final = 31 * 86_400 * NS
"""From issue to expiry: its id is remembered as long."""

IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
Verify: TypeAlias = Callable[[bytes, bytes], bool]
"""Whether the second argument is a signature of the first."""

_FIELDS: Final = frozenset({"state", "device", "op", "id", "issued", "expires", "arguments"})
_ANSWER_FIELDS: Final = frozenset({"state", "op", "id", "reason", "result", "time"})
_CONTROL: Final = re.compile(r"[\0-\x1f\x7f-\x9f+#\ud800-\udfff]")


class State(StrEnum):
    """Where a command stands. The controller writes init, the device all others."""

    INIT = "init"
    ACCEPTED = "accepted"
    EXECUTING = "executing"
    SUCCESSFUL = "successful"
    FAILED = "failed"
    REFUSED = "refused"


FINAL: Final = frozenset({State.SUCCESSFUL, State.FAILED})
"""The ends of a command that was accepted."""


_ANSWERS: Final = frozenset(each.value for each in State if each is not State.INIT)


class Why(StrEnum):
    """Why a command is refused."""

    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    BAD_ID = "bad_id"
    OTHER_DEVICE = "other_device"
    UNKNOWN_OP = "unknown_op"
    NOT_ACCEPTED = "not_accepted"
    UNSIGNED = "unsigned"
    BAD_SIGNATURE = "bad_signature"
    BAD_ARGUMENTS = "bad_arguments"
    EXPIRED = "expired"
    ID_REUSED = "id_reused"
    BUSY = "busy"
    JOURNAL = "journal"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a message came in. ``topic`` is None where no answer may go: it is not ours, or absurdly long."""

    device: str
    op: str
    id: str
    topic: str | None


@dataclass(frozen=True, slots=True)
class Command:
    """What is asked for, checked as far as the message alone shows it. Times are wall time, ns since 1970."""

    op: str
    id: str
    issued_ns: int
    expires_ns: int
    arguments: Mapping[str, Any]
    signed: bool
    """Whether its signature was checked and is good."""

    @property
    def text(self) -> str:
        """The arguments as canonical JSON: two commands with the same op, id and text are one."""
        return strictjson.canonical(self.arguments)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there will be no effect. ``detail`` is one line for people."""

    why: Why
    detail: str

    @property
    def reason(self) -> str:
        return f"{self.why}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Echo:
    """An answer, not a command: what the broker has kept of us."""

    state: State
    time_ns: int | None = None
    """When it was made, if it has all that an answer of ours on this topic has."""


@dataclass(frozen=True, slots=True)
class Cleared:
    """The controller is done with this command: an empty payload. It forgets nothing."""


Outcome: TypeAlias = Command | Refusal | Echo | Cleared


def address(topic: str, device: str) -> Address:
    """What a topic names, whatever it is; the parts that it has not got are empty."""
    root = f"{ROOT}/"
    parts = topic[len(root) :].split("/", 3) if topic.startswith(root) else []
    if len(parts) != 4 or parts[1] != "cmd":
        return Address("", "", "", None)
    ours = parts[0] == device and not _CONTROL.search(topic)
    ours = ours and len(topic.encode("utf-8", "replace")) <= TOPIC_LIMIT_BYTES
    return Address(parts[0], parts[2], parts[3], topic if ours else None)


def echo(where: Address, payload: bytes) -> Echo | None:
    """The answer in a message; None for whatever is none. Never raises."""
    if not payload or len(payload) > PAYLOAD_LIMIT_BYTES:
        return None
    try:
        outer = strictjson.decode_object(payload, limit_bytes=PAYLOAD_LIMIT_BYTES, depth=DEPTH_LIMIT)
    except ValueError:
        return None
    return _echo(where, outer)


def parse(
    topic: str, payload: bytes, *, device: str, verify: Verify | None = None, size_bytes: int | None = None
) -> Outcome:
    """What a message is. Never raises, whatever it is given.

    ``verify`` None: no key is configured, and a signature counts for nothing. ``size_bytes`` is the payload's
    size where the caller has not kept a payload that is too large.
    """
    where = address(topic, device)
    size = len(payload) if size_bytes is None else size_bytes
    if not size:
        return Cleared()
    if size > PAYLOAD_LIMIT_BYTES:
        return Refusal(Why.TOO_LARGE, f"{size} bytes; a command has at most {PAYLOAD_LIMIT_BYTES}")
    try:
        outer = strictjson.decode_object(payload, limit_bytes=PAYLOAD_LIMIT_BYTES, depth=DEPTH_LIMIT)
    except ValueError as error:
        return Refusal(Why.MALFORMED, str(error))
    answer = _echo(where, outer)
    if answer is not None:
        return answer
    wrong_place = _misplaced(where, device)
    if wrong_place:
        return wrong_place
    document, signed = opened(outer, verify)
    return document if isinstance(document, Refusal) else _command(document, where, signed)


def admit(
    command: Command,
    accept: Collection[str],
    now_ns: int,
    forgotten_ns: int = 0,
    lost_ns: int | None = None,
) -> Refusal | None:
    """Why a new command, one that the journal does not know, may not be obeyed now; None if it may.

    ``now_ns``: this device's wall clock. A device without a battery for its clock begins in the past, so it
    never refuses as expired what is not; but it may not notice that something has expired. What has had an
    effect already is safe all the same: ``forgotten_ns`` is the latest expiry of all ids that the journal has
    forgotten, whatever the clock says now. ``lost_ns`` is when a journal was lost: what was issued before
    may have had its effect.
    """
    if command.op not in accept:
        there = ", ".join(accept) or "none"
        return Refusal(
            Why.NOT_ACCEPTED, f"{command.op} is not in this device's commands.accept (there: {there})"
        )
    if now_ns > command.expires_ns:
        return Refusal(
            Why.EXPIRED, f"at {rfc3339(command.expires_ns)}; this device has {rfc3339(now_ns)}: send it anew"
        )
    if command.expires_ns <= forgotten_ns:
        return Refusal(
            Why.EXPIRED,
            f"at {rfc3339(command.expires_ns)}; ids up to {rfc3339(forgotten_ns)} are forgotten here already:"
            " send it anew",
        )
    if lost_ns is not None and command.issued_ns <= lost_ns:
        return Refusal(
            Why.JOURNAL,
            f"it was issued before {rfc3339(lost_ns)}, when the journal of commands was lost; it may have had"
            " its effect: send it anew",
        )
    return None


def _echo(where: Address, outer: dict[str, Any]) -> Echo | None:
    state = outer.get("state")
    if "signed" in outer or "signature" in outer or not isinstance(state, str) or state not in _ANSWERS:
        return None
    of_its_topic = (outer.get("op"), outer.get("id")) == (where.op, where.id)
    time = outer.get("time")
    is_ours = where.topic is not None and set(outer) == _ANSWER_FIELDS and of_its_topic
    return Echo(State(state), instant(time) if is_ours and isinstance(time, str) else None)


def _misplaced(where: Address, device: str) -> Refusal | None:
    if where.device != device:
        return Refusal(Why.OTHER_DEVICE, f"the topic is {shown(where.device)}'s; this is {device}")
    if where.op not in arguments.OPS:
        near = nearest(where.op, arguments.OPS)
        meant = f"did you mean {near}?" if near else f"there are {', '.join(arguments.OPS)}"
        return Refusal(Why.UNKNOWN_OP, f"{shown(where.op)}; {meant}")
    if not IDENTIFIER.fullmatch(where.id):
        return Refusal(Why.BAD_ID, f"{shown(where.id)}; an id is 1 to 64 of A-Z a-z 0-9 _ -")
    return None


def opened(outer: dict[str, Any], verify: Verify | None) -> tuple[dict[str, Any] | Refusal, bool]:
    """The document in a message, signed or not, and whether its signature was checked and is good."""
    if "signed" not in outer:
        if verify is not None:
            return Refusal(Why.UNSIGNED, "this device obeys signed messages only: see plugmeter sign"), False
        return outer, False
    text, signature = outer.get("signed"), outer.get("signature")
    if set(outer) != {"signed", "signature"} or not isinstance(text, str) or not isinstance(signature, str):
        return Refusal(Why.MALFORMED, 'a signed message has two texts, "signed" and "signature"'), False
    if verify is not None:
        try:
            raw = base64.b64decode(signature, validate=True)
        except (binascii.Error, ValueError):  # ValueError: not ASCII
            return Refusal(Why.BAD_SIGNATURE, "the signature is not base64"), False
        if not verify(text.encode("utf-8"), raw):
            return Refusal(Why.BAD_SIGNATURE, "not signed with this device's key, or changed since"), False
    try:
        raw_text = text.encode("utf-8")
        inner = strictjson.decode_object(raw_text, limit_bytes=len(raw_text), depth=DEPTH_LIMIT)
        return inner, verify is not None
    except ValueError as error:
        return Refusal(Why.MALFORMED, f'"signed": {error}'), False


def _command(document: dict[str, Any], where: Address, signed: bool) -> Command | Refusal:
    for name in document:
        if name not in _FIELDS:
            near = nearest(name, _FIELDS)
            meant = f"; did you mean {near}?" if near else ""
            return Refusal(Why.MALFORMED, f"unknown field {shown(name)}{meant}")
    for name in sorted(_FIELDS - {"arguments"}):
        if name not in document:
            return Refusal(Why.MALFORMED, f'"{name}" is missing')
        if not isinstance(document[name], str):
            return Refusal(Why.MALFORMED, f'"{name}" must be a text')
    if document["state"] != State.INIT:
        return Refusal(Why.MALFORMED, f'"state" of a command is "init", not {shown(document["state"])}')
    if document["device"] != where.device:
        return Refusal(
            Why.OTHER_DEVICE, f"it is for {shown(document['device'])} and was sent to {where.device}"
        )
    for name, there in (("op", where.op), ("id", where.id)):
        if document[name] != there:
            return Refusal(
                Why.MALFORMED, f'"{name}" is {shown(document[name])}, but its topic says {shown(there)}'
            )
    times = _times(document)
    if isinstance(times, Refusal):
        return times
    raw = document.get("arguments", {})
    if not isinstance(raw, dict):
        return Refusal(Why.MALFORMED, '"arguments" must be an object: {...}')
    values, problems = arguments.read(where.op, raw)
    if problems:
        return Refusal(Why.BAD_ARGUMENTS, "; ".join(problems[:3]))
    return Command(where.op, where.id, *times, values, signed)


def _times(document: dict[str, Any]) -> tuple[int, int] | Refusal:
    times = []
    for name in ("issued", "expires"):
        moment = instant(document[name])
        if moment is None:
            return Refusal(
                Why.MALFORMED,
                f'"{name}" is {shown(document[name])}; it must be an RFC 3339 time: 2026-11-22T09:30:00Z',
            )
        times.append(moment)
    issued_ns, expires_ns = times
    if not 0 < expires_ns - issued_ns <= LONGEST_VALIDITY_NS:
        return Refusal(Why.MALFORMED, '"expires" must be after "issued", by 31 days at most')
    return issued_ns, expires_ns


def state_document(
    op: str, command_id: str, state: State, reason: str | None, result: object, time_ns: int
) -> bytes:
    """The answer: retained on the command's topic. ``result`` is JSON-able, ``time_ns`` wall time."""
    return strictjson.canonical(
        {
            "state": state,
            "op": op,
            "id": command_id,
            "reason": reason,
            "result": result,
            "time": rfc3339(time_ns),
        }
    ).encode()
