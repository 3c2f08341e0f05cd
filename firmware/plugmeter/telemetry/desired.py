"""A configuration from afar: tried, and kept only once the controller is reached with it. Pure.

    wish ──valid──▶ trial ──controller reached──▶ kept
                      ├── time is up, or begun too often ──▶ rolled back: the one kept before
                      └── cannot be applied ──▶ refused

A wish is an overlay of the device's own file, as a whole: what it leaves out is as in the file, whatever an
earlier wish said. Its id is good for one wish: the retained document comes in with every connection, and a
wish that was rolled back must not be tried again then. No wall clock has a say: a trial has an amount of
time, which is used up while the daemon runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, TypeAlias

from plugmeter.moments import NS, instant
from plugmeter.settings import shown
from plugmeter.telemetry import strictjson
from plugmeter.telemetry.commands.message import (
    DEPTH_LIMIT,
    IDENTIFIER,
    Cleared,
    Refusal,
    Verify,
    Why,
    opened,
)

PAYLOAD_LIMIT_BYTES: Final = 65_536
STARTS_LIMIT: Final = 3
"""A trial outlasts so many starts of the daemon, and is rolled back at the next."""
SEEN_LIMIT: Final = 64

_VERSION: Final = 1
_FIELDS: Final = frozenset({"device", "id", "issued", "config"})


@dataclass(frozen=True, slots=True)
class Wish:
    """A configuration that the controller wants. ``issued_ns``, by its signer's clock, orders signed ones.
    ``signed``: with the key that was configured when it came in."""

    id: str
    config: Mapping[str, Any]
    issued_ns: int | None = None
    signed: bool = False

    @property
    def digest(self) -> str:
        return hashlib.sha256(strictjson.canonical(self.config).encode()).hexdigest()[:32]


class Outcome(StrEnum):
    """How the last wish stands."""

    IN_EFFECT = "in_effect"
    TRIAL = "trial"
    ROLLED_BACK = "rolled_back"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Trial:
    """A wish that is in effect until ``left_ns`` of the daemon's running time have passed."""

    wish: Wish
    left_ns: int
    starts: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """All that is kept of wishes. Where there is neither a trial nor a kept one, the file alone holds."""

    kept: Wish | None = None
    trial: Trial | None = None
    id: str | None = None
    """Of the wish that ``outcome`` is of."""
    outcome: Outcome = Outcome.IN_EFFECT
    reason: str | None = None
    newest_issued_ns: int = 0
    """Of all signed wishes that were obeyed: an older one is a replay."""
    seen: tuple[tuple[str, str], ...] = ()
    """(id, digest) of the last wishes."""

    @property
    def overlay(self) -> Mapping[str, Any]:
        """What is to be in effect now."""
        return self.trial.wish.config if self.trial else self.kept_overlay

    @property
    def kept_overlay(self) -> Mapping[str, Any]:
        """What a rollback goes back to."""
        return self.kept.config if self.kept else {}

    @property
    def wish(self) -> Wish | None:
        """The one that is in effect now, on trial or kept."""
        return self.trial.wish if self.trial else self.kept

    def knows(self, wish: Wish) -> bool | None:
        """Whether this wish was dealt with already; None if its id was another wish's."""
        digest = dict(self.seen).get(wish.id)
        return False if digest is None else True if digest == wish.digest else None


def propose(standing: Standing, wish: Wish, limit_ns: int, *, changes: bool) -> Standing:
    """A valid, new wish begins its trial, in the place of another one's. One that ``changes`` nothing of what
    is kept needs none."""
    standing = _seen(standing, wish)
    standing = replace(
        standing,
        id=wish.id,
        reason=None,
        newest_issued_ns=max(standing.newest_issued_ns, wish.issued_ns or 0),
    )
    if changes:
        return replace(standing, trial=Trial(wish, limit_ns), outcome=Outcome.TRIAL)
    return replace(standing, kept=wish, trial=None, outcome=Outcome.IN_EFFECT)


def refuse(standing: Standing, wish: Wish, reason: str) -> Standing:
    """A wish that will not be tried, or that could not be applied. What is in effect otherwise stays so."""
    trial = standing.trial
    if trial is not None and trial.wish.id == wish.id:
        trial = None
    return replace(_seen(standing, wish), trial=trial, id=wish.id, outcome=Outcome.REFUSED, reason=reason)


def roll_back(standing: Standing, reason: str) -> Standing:
    """The trial, if there is one, has failed."""
    if standing.trial is None:
        return standing
    return replace(
        standing, trial=None, id=standing.trial.wish.id, outcome=Outcome.ROLLED_BACK, reason=reason
    )


def pass_time(standing: Standing, passed_ns: int) -> Standing:
    """``passed_ns`` of monotonic time have passed without a sign of the controller."""
    if standing.trial is None:
        return standing
    left_ns = standing.trial.left_ns - max(0, passed_ns)
    if left_ns <= 0:
        return roll_back(standing, "the controller was not reached with it in time")
    return replace(standing, trial=replace(standing.trial, left_ns=left_ns))


def start(standing: Standing) -> Standing:
    """The daemon begins with this standing."""
    if standing.trial is None:
        return standing
    starts = standing.trial.starts + 1
    if starts > STARTS_LIMIT:
        reason = f"the daemon was started {STARTS_LIMIT} times with it, and the controller never reached"
        return roll_back(standing, reason)
    return replace(standing, trial=replace(standing.trial, starts=starts))


def reach(standing: Standing) -> Standing:
    """The controller was reached with the trial's configuration: it is kept."""
    if standing.trial is None:
        return standing
    wish = standing.trial.wish
    return replace(standing, kept=wish, trial=None, id=wish.id, outcome=Outcome.IN_EFFECT, reason=None)


def _seen(standing: Standing, wish: Wish) -> Standing:
    others = tuple(each for each in standing.seen if each[0] != wish.id)
    return replace(standing, seen=(*others, (wish.id, wish.digest))[-SEEN_LIMIT:])


Asked: TypeAlias = Wish | Refusal | Cleared


def parse(payload: bytes, *, device: str, verify: Verify | None = None) -> Asked:
    """What a document on the topic ``desired`` is. Never raises, whatever it is given.

    {"id", "config"}, with "device" and "issued" if one likes; or {"signed", "signature"} of a text of all
    four, which is the only one obeyed where a key is configured.
    """
    if not payload:
        return Cleared()
    if len(payload) > PAYLOAD_LIMIT_BYTES:
        return Refusal(Why.TOO_LARGE, f"{len(payload)} bytes; there may be {PAYLOAD_LIMIT_BYTES}")
    try:
        outer = strictjson.decode_object(payload, limit_bytes=PAYLOAD_LIMIT_BYTES, depth=DEPTH_LIMIT)
    except ValueError as error:
        return Refusal(Why.MALFORMED, str(error))
    document, signed = opened(outer, verify)
    return document if isinstance(document, Refusal) else _wish(document, device, signed)


def _wish(document: dict[str, Any], device: str, signed: bool) -> Wish | Refusal:
    needed = _FIELDS if signed else {"id", "config"}
    for name in sorted(needed - set(document)):
        return Refusal(Why.MALFORMED, f'"{name}" is missing')
    for name in sorted(set(document) - _FIELDS):
        return Refusal(Why.MALFORMED, f"unknown field {shown(name)}")
    wish_id, config, issued = document["id"], document["config"], document.get("issued")
    if not isinstance(wish_id, str) or not IDENTIFIER.fullmatch(wish_id):
        return Refusal(Why.BAD_ID, f"{shown(wish_id)}; an id is 1 to 64 of A-Z a-z 0-9 _ -")
    if document.get("device", device) != device:
        return Refusal(Why.OTHER_DEVICE, f"it is for {shown(document['device'])}; this is {device}")
    issued_ns = instant(issued) if isinstance(issued, str) else None
    if issued is not None and issued_ns is None:
        return Refusal(Why.MALFORMED, '"issued" must be an RFC 3339 time: 2026-11-22T09:30:00Z')
    if not isinstance(config, dict):
        return Refusal(Why.MALFORMED, '"config" must be sections with their keys: {section: {key: value}}')
    return Wish(wish_id, config, issued_ns if signed else None, signed)


def encode(standing: Standing) -> bytes:
    """As it is kept in the state directory."""
    trial = standing.trial
    return strictjson.canonical(
        {
            "version": _VERSION,
            "kept": _plain(standing.kept),
            "trial": trial
            and {"wish": _plain(trial.wish), "left_ms": trial.left_ns // 1_000_000, "starts": trial.starts},
            "id": standing.id,
            "outcome": standing.outcome,
            "reason": standing.reason,
            "newest_issued_ns": standing.newest_issued_ns,
            "seen": [list(each) for each in standing.seen],
        }
    ).encode()


def decode(data: bytes) -> Standing:
    """What ``encode`` gave. Raises ValueError with one line for anything else."""
    found = strictjson.decode_object(data, limit_bytes=len(data))
    if found.get("version") != _VERSION:
        raise ValueError(f"its version is {shown(found.get('version'))}, not {_VERSION}")
    try:
        trial = found["trial"]
        standing = Standing(
            kept=None if found["kept"] is None else _read_wish(found["kept"]),
            trial=trial
            and Trial(
                _read_wish(trial["wish"]),
                _natural(trial["left_ms"]) * 1_000_000,
                _natural(trial["starts"]),
            ),
            id=found["id"] if found["id"] is None else str(found["id"]),
            outcome=Outcome(found["outcome"]),
            reason=found["reason"] if found["reason"] is None else str(found["reason"]),
            newest_issued_ns=_natural(found["newest_issued_ns"]),
            seen=tuple((str(known), str(digest)) for known, digest in found["seen"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"it is not what was written ({type(error).__name__}: {error})") from None
    return standing


def _plain(wish: Wish | None) -> object:
    return wish and {"id": wish.id, "config": wish.config, "issued_ns": wish.issued_ns, "signed": wish.signed}


def _read_wish(found: Any) -> Wish:  # noqa: ANN401  JSON
    if not isinstance(found["config"], dict) or not isinstance(found["id"], str):
        raise TypeError("a wish has an id and a configuration")
    issued_ns = found["issued_ns"]
    return Wish(
        found["id"],
        found["config"],
        None if issued_ns is None else _natural(issued_ns),
        found.get("signed", False) is True,
    )


def _natural(value: object) -> int:
    if type(value) is not int or not 0 <= value < 10_000 * 366 * 86_400 * NS:
        raise TypeError("a count is missing")
    return value
