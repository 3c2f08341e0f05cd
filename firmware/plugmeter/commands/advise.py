"""``plugmeter advise``: what the kernel's queues are, what a storm needs, and how to set it."""

from __future__ import annotations

import argparse
import json
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plugmeter import tuning
from plugmeter.errors import UsageError
from plugmeter.measure import needs
from plugmeter.reporting import words
from plugmeter.reporting.files import write_text
from plugmeter.reporting.schema import read_report
from plugmeter.reporting.table import table

NAME = "advise"
HELP = "say which netlink and inotify limits a storm needs, and set them"
EPILOG = """examples:
  plugmeter advise                               for a default storm of 120 sticks
  plugmeter advise --report run.json             for the storm that was measured
  sudo plugmeter advise --report run.json --apply
  sudo plugmeter advise --apply --persist        also after a boot

Without --apply nothing is changed. Limits are only ever raised; how to undo it is printed."""

_DEFAULT_STALL_S = 5.0
_LARGEST_EVENT_BYTES = 8192


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of ``advise``."""
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="the measured storm: a report of 'plugmeter measure'"
    )
    parser.add_argument(
        "--apply", action="store_true", help="set what is too low (needs root); never lowers anything"
    )
    parser.add_argument(
        "--persist",
        action="store_true",
        help=f"with --apply: also write {tuning.DROP_IN}, which holds after a boot",
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="write the advice as JSON, to FILE or to standard output",
    )
    parser.add_argument(
        "--stall",
        type=_number,
        default=_DEFAULT_STALL_S,
        metavar="S",
        help="for how long a listener may read nothing (default: %(default)g s; needs --report)",
    )
    parser.add_argument(
        "--event-bytes",
        type=int,
        default=needs.DEFAULT_EVENT_BYTES,
        metavar="B",
        help="the longest message to hold (default: %(default)d, one of udevd's)",
    )
    parser.add_argument(
        "--margin", type=_number, default=needs.DEFAULT_MARGIN, metavar="X", help="(default: %(default)g)"
    )
    parser.add_argument(
        "--proc",
        type=Path,
        default=Path("/proc"),
        metavar="DIR",
        help="where the kernel's settings are (default: /proc)",
    )
    parser.add_argument(
        "--sysctl-dir",
        type=Path,
        default=Path("/etc/sysctl.d"),
        metavar="DIR",
        help="where --persist writes (default: /etc/sysctl.d)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the advice and, where asked, follow it. 0 also where something is too low: that is an answer."""
    _check(args)
    backlog = (
        needs.default_backlog()
        if args.report is None
        else needs.backlog_of(read_report(args.report), args.stall)
    )
    use, hidden = tuning.inotify_use(args.proc, Path("/dev"))
    advice = tuning.advise(
        needs.needs(backlog, use, event_bytes=args.event_bytes, margin=args.margin), args.proc
    )
    changes: tuple[tuning.Change, ...] = ()
    drop_in: Path | None = None
    if args.apply:
        changes = tuning.apply(advice, args.proc)
        if args.persist:
            # as they are now: what was just raised is at its need
            path, settings = tuning.persist(
                tuning.advise([item.need for item in advice], args.proc), args.sysctl_dir
            )
            drop_in = path if settings else None
    if args.json is not None:
        found = _as_json(args, backlog, advice, changes, drop_in, hidden)
        write_text(args.json, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    else:
        write_text("-", "\n".join(_text(args, backlog, advice, changes, drop_in, hidden)) + "\n")
    return 0


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _check(args: argparse.Namespace) -> None:
    if args.persist and not args.apply:
        raise UsageError("--persist makes what --apply sets permanent: give both")
    if not 0 < args.stall <= 86_400:
        raise UsageError(f"--stall {args.stall:g} cannot be: give seconds, above 0 and at most 86400")
    if not 1 <= args.margin <= 100:
        raise UsageError(f"--margin {args.margin:g} cannot be: give a factor from 1 to 100")
    if not 1 <= args.event_bytes <= _LARGEST_EVENT_BYTES:
        raise UsageError(f"--event-bytes {args.event_bytes} cannot be: give 1 to {_LARGEST_EVENT_BYTES}")


def _text(
    args: argparse.Namespace,
    backlog: needs.Backlog,
    advice: Sequence[tuning.Advice],
    changes: Sequence[tuning.Change],
    drop_in: Path | None,
    hidden: int,
) -> list[str]:
    lines = textwrap.wrap(f"Storm: {backlog.source}.", 80, subsequent_indent="  ")
    buffer = next((item.current for item in advice if item.need.key == "net.core.rmem_default"), None)
    if buffer is not None:
        held = needs.capacity(buffer, args.event_bytes)
        lines += textwrap.wrap(
            f"A listener with a default buffer holds {words.count(held)} uevents of {args.event_bytes:,} B; "
            f"{words.count(backlog.uevents)} may wait at once.",
            80,
            subsequent_indent="  ",
        )
    rows = [
        [
            item.need.key,
            "–" if item.current is None else words.count(item.current),
            words.count(item.need.value),
            _verdict(item),
        ]
        for item in advice
    ]
    lines += ["", *table(["setting", "is", "needs", ""], rows)]
    lines += [
        line
        for item in advice
        if item.must_rise
        for line in textwrap.wrap(
            f"{item.need.key}: {item.need.why}", 80, initial_indent="  ", subsequent_indent="    "
        )
    ]
    if hidden:
        lines += textwrap.wrap(
            f"What {hidden} process(es) of others have of inotify is hidden; run as root to count it.",
            80,
        )
    low = [item for item in advice if item.must_rise]
    lines.append("")
    if changes:
        lines += ["Raised until the next boot:" if drop_in is None else "Raised:"]
        lines += [f"  {c.key}: {c.old} -> {c.new}" for c in changes]
        lines += ["To undo it:", *(f"  {command}" for command in tuning.undo_commands(changes))]
    elif not low:
        lines.append("All that could be read is high enough; nothing to set.")
    else:
        lines += [
            "To set it until the next boot: sudo plugmeter advise --apply, or",
            *(f"  sysctl -w {i.need.key}={i.need.value}" for i in low),
        ]
    if drop_in is not None:
        lines += [f"Permanent in {drop_in}; to undo that: rm {drop_in}"]
    if any(item.current is None for item in advice):
        lines.append("What shows – cannot be read here: ask on the host, outside the container or namespace.")
    return lines


def _verdict(item: tuning.Advice) -> str:
    if item.current is None:
        return "unknown"
    return "too low" if item.must_rise else "enough"


def _as_json(
    args: argparse.Namespace,
    backlog: needs.Backlog,
    advice: Sequence[tuning.Advice],
    changes: Sequence[tuning.Change],
    drop_in: Path | None,
    hidden: int,
) -> dict[str, Any]:
    return {
        "schema": "plugmeter-advice/1",
        "storm": {
            "source": backlog.source,
            "episodes": backlog.episodes,
            "uevents": backlog.uevents,
            "node_events": backlog.node_events,
            "event_bytes": args.event_bytes,
            "charged_bytes": needs.truesize_bytes(args.event_bytes),
            "margin": args.margin,
        },
        "settings": [
            {
                "key": item.need.key,
                "is": item.current,
                "needs": item.need.value,
                "too_low": item.must_rise,
                "why": item.need.why,
            }
            for item in advice
        ],
        "changes": [{"key": c.key, "old": c.old, "new": c.new} for c in changes],
        "undo": tuning.undo_commands(changes),
        "persisted": None if drop_in is None else str(drop_in),
        "hidden_processes": hidden,
    }
