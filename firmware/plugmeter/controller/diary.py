"""A device's diary: what it did and what happened to it, each record in one line. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plugmeter.controller import wording
from plugmeter.controller.queries import Noted
from plugmeter.controller.wording import text


def lines(found: Sequence[Noted]) -> list[dict[str, Any]]:
    """Each record with its time and its line."""
    return [
        {"time_ms": each.time_ms, "kind": each.kind, "text": _told(each.kind, each.data), "seq": each.seq}
        for each in found
    ]


def _told(kind: str, data: Mapping[str, Any]) -> str:
    """A record in one line."""
    get = data.get
    match kind:
        case "link":
            return f"{text(get('event'))}{_listed(get('details'))}"
        case "signal":
            return (
                f"{text(get('name'))} from {text(get('command')) or 'unknown'} (pid {text(get('pid'))}, "
                f"uid {text(get('uid'))}) while {text(get('stage'))}"
            )
        case "transition":
            return f"{text(get('from'))} → {text(get('to'))}{_because(data)}"
        case "diagnosis":
            return (
                f"{text(get('finding'))} {text(get('state'))} ({text(get('worker'))}): "
                f"{text(get('evidence'))}; remedy: {text(get('remedy'))}"
            )
        case "gap":
            count = get("count")
            many = "an unknown number of records" if count is None else f"{text(count)} records"
            return f"{text(get('witness'))} lost {'1 record' if count == 1 else many}: {text(get('cause'))}"
        case "command":
            return f"{text(get('op'))} {text(get('state'))}{_because(data)}"
        case "config":
            whose = text(get("id")) or "its own file"
            return f"{whose} {text(get('state')).replace('_', ' ')}{_because(data)}"
        case "health":
            return (
                f"{text(get('stage'))}{_because(data)}; up {wording.duration(get('uptime_s'))}, "
                f"{wording.size(get('rss_bytes'))} of memory, {wording.count(get('backlog'))} pending"
            )
        case "start":
            if get("clean"):
                return "started after an orderly end"
            return f"started after no orderly end; up to {text(get('window_ms'))} ms may be missing before it"
        case "stream":
            return f"a new stream began ({text(get('reason'))})"
        case _:
            return _listed(data).strip(" ()")


def _because(data: Mapping[str, Any]) -> str:
    """The reason, where there is one."""
    return f": {text(data['reason'])}" if data.get("reason") else ""


def _listed(details: object) -> str:
    if not isinstance(details, Mapping) or not details:
        return ""
    parts = [
        f"{text(key)} {text(value)}"
        for key, value in details.items()
        if isinstance(value, str | int | float) and value != ""
    ]
    return f" ({', '.join(parts[:8])})" if parts else ""
