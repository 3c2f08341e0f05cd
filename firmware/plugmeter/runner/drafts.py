"""What a run tells, as records for the outbox. Pure.

The data of each kind:

    run-started  {"run", "t_ns", "rig", "truth", "ports", "witnesses", "seed", "plan", "host", "version",
                  "started_at", "debounce_ms", "nominal_ms", "lost_after_ms"}, and "command": the id of the
                 command that asked for it, if one did
    verdict      {"run", "t_ns", "port", "ordinal", "action": "plug"|"pull",
                  "outcome": "matched"|"late"|"lost", "stage": str|null, "enumerated",
                  "latency_us": {"netlink", "udev", "node": float|null}}
    gap          {"run", "t_ns", "since_ns", "witness", "cause", "count": int|null}
    raw          {"run", "number", "count", "inputs": [["edge", {...}], ...]}
    run-ended    {"run", "failure": str|null, "report": {...}|null, "reduced": ["losses: 200 of 1000", ...],
                  "verdicts", "gaps", "raw", "discarded"}

``t_ns`` and ``since_ns`` are CLOCK_MONOTONIC of the device; ``run`` is the run's UUID. A run that failed
before it began has a ``run-ended`` and no ``run-started``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from plugmeter.measure.verdicts import Verdict
from plugmeter.records import Gap, RunStart
from plugmeter.runner import wire
from plugmeter.runner.wire import Message
from plugmeter.telemetry.record import DATA_LIMIT_BYTES, Draft

_ENCODE: Final = msgspec.json.Encoder().encode
_REST_BYTES: Final = 4_096
"""Of a run-ended record, beside the report and what is said of its reduction."""


def drafts(run_id: str, message: Message, wall_ns: int, command_id: str | None = None) -> list[Draft]:
    """The records that ``message`` makes: none or one. ``wall_ns`` is the time that they bear.

    A report that is too large for a record is reduced, and says so (``reduced``).
    """
    match message:
        case wire.Started(start):
            return [_draft("run-started", run_id, _started(start, command_id), wall_ns)]
        case wire.Decided(verdict):
            return [_draft("verdict", run_id, _verdict(verdict), wall_ns)]
        case wire.Missed(gap):
            return [_draft("gap", run_id, _gap(gap), wall_ns)]
        case wire.Discarded(kind, count, since_ns, t_ns):
            lost = {
                "t_ns": t_ns,
                "since_ns": since_ns,
                "witness": "runner",
                "cause": f"discarded_{kind}",
                "count": count,
            }
            return [_draft("gap", run_id, lost, wall_ns)]
        case wire.Raw(number, count, inputs):
            batch = {"number": number, "count": count, "inputs": inputs}
            return [_draft("raw", run_id, batch, wall_ns)]
        case wire.Finished():
            return [_draft("run-ended", run_id, _finished(message), wall_ns)]
        case wire.Failure(_, reason):
            return [_draft("run-ended", run_id, _ended(None, reason[:1000]), wall_ns)]
        case _:
            return []


def reduced(report: Mapping[str, Any], limit_bytes: int) -> tuple[dict[str, Any], list[str]]:
    """``report`` cut to ``limit_bytes`` as JSON, and what was cut: a line for each list, table or text.

    The largest goes to half its length, again and again, until all fits. ``losses_omitted`` counts what
    is cut from ``losses``, so that the report stays true.
    """
    size = len(_ENCODE(report))
    if size <= limit_bytes:
        return dict(report), []
    cut: dict[str, Any] = copy.deepcopy(dict(report))
    lengths: dict[str, tuple[int, int]] = {}
    while size > limit_bytes:
        found = max(_parts(cut, ""), key=lambda part: part[0], default=None)
        if found is None:
            break  # nothing but numbers: never that large
        _, path, holder, key = found
        whole = holder[key]
        kept = len(whole) // 2
        if isinstance(whole, dict):
            holder[key] = {name: whole[name] for name in list(whole)[:kept]}
        else:
            holder[key] = whole[:kept]
        before, _ = lengths.get(path, (len(whole), 0))
        lengths[path] = (before, kept)
        if path == "losses" and isinstance(cut.get("losses_omitted"), int):
            cut["losses_omitted"] += len(whole) - kept
        size = len(_ENCODE(cut))
    return cut, [f"{path}: {kept} of {before}" for path, (before, kept) in lengths.items()]


def _parts(holder: dict[str, Any], path: str) -> Iterator[tuple[int, str, dict[str, Any], str]]:
    """Everything below that can be cut: its size as JSON, its path, and where it hangs.

    A table (an object of objects, such as ``ports``) is cut as a list is, another object only inside.
    """
    for key, value in holder.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            if value and all(isinstance(each, dict) for each in value.values()):
                yield len(_ENCODE(value)), here, holder, key
            yield from _parts(value, here)
        elif isinstance(value, list | str) and value:
            yield len(_ENCODE(value)), here, holder, key


def _draft(kind: str, run_id: str, data: Mapping[str, Any], wall_ns: int) -> Draft:
    return Draft(kind, _ENCODE({"run": run_id, **data}), wall_ns)


def _started(start: RunStart, command_id: str | None) -> dict[str, Any]:
    asked = {} if command_id is None else {"command": command_id}
    return asked | {
        "t_ns": start.t_ns,
        "rig": start.rig,
        "truth": start.truth,
        "ports": start.ports,
        "witnesses": start.witnesses,
        "seed": start.seed,
        "plan": start.plan,
        "host": start.host,
        "version": start.version,
        "started_at": start.started_at,
        "debounce_ms": start.debounce_ns / 1e6,
        "nominal_ms": start.nominal_ns / 1e6,
        "lost_after_ms": start.lost_after_ns / 1e6,
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    episode = verdict.episode
    # As in the report: of a pull the kernel acts on the first fall, however the contact bounces after it.
    since_ns = episode.t_start_ns if episode.plugged else episode.t_first_ns
    seen = {"netlink": verdict.netlink_ns, "udev": verdict.udev_ns, "node": verdict.node_ns}
    return {
        "t_ns": episode.t_start_ns,
        "port": episode.port,
        "ordinal": episode.ordinal,
        "action": "plug" if episode.plugged else "pull",
        "outcome": verdict.outcome,
        "stage": verdict.stage,
        "enumerated": verdict.enumerated,
        "latency_us": {
            name: None if t_ns is None else round((t_ns - since_ns) / 1e3, 3) for name, t_ns in seen.items()
        },
    }


def _gap(gap: Gap) -> dict[str, Any]:
    return {
        "t_ns": gap.t_ns,
        "since_ns": gap.since_ns,
        "witness": gap.witness,
        "cause": gap.cause,
        "count": gap.count,
    }


def _finished(finished: wire.Finished) -> dict[str, Any]:
    report, cut = reduced(finished.report, DATA_LIMIT_BYTES - _REST_BYTES)
    return {
        **_ended(report, None),
        "reduced": [line[:200] for line in cut[:20]],
        "verdicts": finished.verdicts,
        "gaps": finished.gaps,
        "raw": finished.raw,
        "discarded": finished.discarded,
    }


def _ended(report: dict[str, Any] | None, failure: str | None) -> dict[str, Any]:
    return {
        "failure": failure,
        "report": report,
        "reduced": [],
        "verdicts": 0,
        "gaps": 0,
        "raw": 0,
        "discarded": 0,
    }
