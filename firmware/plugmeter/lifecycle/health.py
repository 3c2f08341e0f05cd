"""The daemon's health in one value: written on the way out, and for `plugmeter status` once it is gone."""

from __future__ import annotations

import json
import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, TypeVar

from plugmeter.files import read_regular, replace_file

FILE_NAME: Final = "health.json"
"""In the state directory."""
ERRORS_KEPT: Final = 20
DRAINS_KEPT: Final = 10
_LIMIT_BYTES: Final = 1 << 20
_TEXT_LIMIT: Final = 500
_Entry = TypeVar("_Entry")


@dataclass(frozen=True, slots=True)
class LogLine:
    """A warning, or worse. ``time_ns`` is wall time (time.time_ns)."""

    time_ns: int = 0
    level: str = ""
    logger: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Drain:
    """How one stop drained the outbox. ``time_ns`` is wall time."""

    time_ns: int = 0
    result: str = ""
    """drained, ran_out, forced or failed."""
    took_s: float = 0.0
    deadline_s: float = 0.0
    left: int = 0
    """Records that stayed on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSnapshot:
    """How the daemon was at one moment. ``time_ns`` is wall time."""

    time_ns: int = 0
    version: str = ""
    device: str = ""
    stage: str = ""
    reason: str = ""
    """Why it was taken: the stop's cause, or that it was time."""
    uptime_s: float = 0.0
    rss_bytes: int = 0
    peak_rss_bytes: int = 0
    threads: int = 0
    descriptors: int = 0
    backlog: int = 0
    """Records that the controller has not acknowledged, those in the intake included."""
    account: dict[str, int | str] = field(default_factory=dict)
    """The outbox's books (telemetry.record.Account)."""
    findings: tuple[str, ...] = ()
    """What the self-diagnosis had found, in words."""
    last_errors: tuple[LogLine, ...] = ()
    drains: tuple[Drain, ...] = ()
    """The last ones, the oldest first."""
    drain_counts: dict[str, int] = field(default_factory=dict)
    """All there ever were, by result."""

    def document(self) -> dict[str, Any]:
        """As a JSON object; also the data of a health record."""
        return asdict(self)


def health_bytes(snapshot: HealthSnapshot) -> bytes:
    """The snapshot's file."""
    text = json.dumps(snapshot.document(), indent=1, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def write_health(directory: Path, snapshot: HealthSnapshot) -> None:
    """Put the snapshot into the state directory, the whole of it or nothing. Raises OSError."""
    replace_file(directory / FILE_NAME, health_bytes(snapshot))


def read_health(directory: Path) -> tuple[HealthSnapshot | None, str]:
    """The snapshot, or None and why there is none, in a few words.

    Tolerant: of another version's file it takes what fits and leaves the rest at its default. Never raises.
    """
    try:
        read = json.loads(read_regular(directory / FILE_NAME, _LIMIT_BYTES))
    except FileNotFoundError:
        return None, f"there is no {directory / FILE_NAME}"
    except OSError as error:
        return None, f"{directory / FILE_NAME} cannot be read: {error.strerror or error}"
    except (ValueError, RecursionError):
        return None, f"{directory / FILE_NAME} is damaged: no JSON"
    if not isinstance(read, dict):
        return None, f"{directory / FILE_NAME} is damaged: no JSON object"
    account = read.get("account")
    findings = read.get("findings")
    return HealthSnapshot(
        **_fitting(HealthSnapshot, read),
        account={key: each for key, each in account.items() if _is_plain(each)}
        if isinstance(account, dict)
        else {},
        findings=tuple(each for each in findings if isinstance(each, str))
        if isinstance(findings, list)
        else (),
        last_errors=_entries(LogLine, read.get("last_errors"), ERRORS_KEPT),
        drains=_entries(Drain, read.get("drains"), DRAINS_KEPT),
        drain_counts=_counts(read.get("drain_counts")),
    ), ""


def with_drain(history: Sequence[Drain], drain: Drain) -> tuple[Drain, ...]:
    """The history with one more; the oldest goes where there are too many."""
    return (*history, drain)[-DRAINS_KEPT:]


class LastErrors(logging.Handler):
    """Keeps the last warnings and errors; bounded in number and length, and counted beyond that."""

    def __init__(self, kept: int = ERRORS_KEPT) -> None:
        super().__init__(logging.WARNING)
        self._ring: deque[LogLine] = deque(maxlen=kept)
        self.counts: dict[str, int] = {}
        """All there ever were, by level."""

    def emit(self, record: logging.LogRecord) -> None:
        """As logging asks for; a message whose arguments do not fit it is kept as it stands."""
        try:
            text = record.getMessage()
        except (TypeError, ValueError, KeyError):
            text = str(record.msg)
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            text += f" ({type(error).__name__}: {error})"
        text = " ".join(text.split())
        if len(text) > _TEXT_LIMIT:
            text = text[: _TEXT_LIMIT - 1] + "…"
        self._ring.append(LogLine(round(record.created * 1e9), record.levelname, record.name, text))
        self.counts[record.levelname] = self.counts.get(record.levelname, 0) + 1

    def lines(self) -> tuple[LogLine, ...]:
        """The oldest first. From any thread."""
        self.acquire()
        try:
            return tuple(self._ring)
        finally:
            self.release()


def _fitting(kind: type[Any], read: Mapping[str, Any]) -> dict[str, Any]:
    """The scalar fields of ``kind`` whose value in ``read`` is of their default's type."""
    found: dict[str, Any] = {}
    for each in fields(kind):
        value = read.get(each.name)
        if type(each.default) is float and type(value) is int:
            value = float(value)
        if each.default is not None and type(value) is type(each.default) and _is_plain(value):
            found[each.name] = value
    return found


def _counts(read: object) -> dict[str, int]:
    if not isinstance(read, dict):
        return {}
    return {name: count for name, count in read.items() if type(count) is int and count >= 0}


def _is_plain(value: object) -> bool:
    """A number or a text; json reads NaN and Infinity too."""
    return type(value) in (int, str) or (type(value) is float and math.isfinite(value))


def _entries(kind: type[_Entry], read: object, limit: int) -> tuple[_Entry, ...]:
    if not isinstance(read, list):
        return ()
    return tuple(kind(**_fitting(kind, each)) for each in read[-limit:] if isinstance(each, dict))
