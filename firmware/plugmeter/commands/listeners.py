"""``plugmeter listeners``: who on this machine is losing uevents, live."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plugmeter.errors import UsageError
from plugmeter.records import Listener, ListenerSample
from plugmeter.witnesses.listeners import ListenerScanner

NAME = "listeners"
HELP = "watch every uevent socket on this machine, and what the kernel drops for it"
EPILOG = """\
examples:
  sudo plugmeter listeners                 a live table, until Ctrl-C
  sudo plugmeter listeners --interval 0.2
  plugmeter listeners --once --json        one sample as JSON, for scripts
  plugmeter listeners --json > log.jsonl   one JSON object a line, for each sample

The kernel counts what it drops for each socket; nobody's help is needed for that, and nothing is disturbed.
DROPS is since this command began, TOTAL since the socket was opened. GROUP kernel gets the kernel's own
uevents, udevd those that udevd sends on.

exit status: 0, also after Ctrl-C
"""

_LEAST_INTERVAL_S = 0.05
_MOST_INTERVAL_S = 86_400.0
_GROUPS = ((1, "kernel"), (2, "udevd"))
_HEAD = ("PID", "COMMAND", "GROUP", "DROPS", "TOTAL", "SOCKET")
_RIGHT = frozenset({"PID", "DROPS", "TOTAL", "SOCKET"})
_UP = "\x1b[H\x1b[J"
"""Cursor home, and clear from there (ECMA-48: CUP, ED)."""


@dataclass(frozen=True, slots=True)
class View:
    """One sample, and what is known beside it."""

    sample: ListenerSample
    first: Mapping[int, int]
    """Drops of each socket (by inode) when it was first seen."""
    hidden: int = 0
    """Processes whose namespace may not be seen."""
    overlooked: int = 0
    malformed: int = 0
    root: bool = False
    """Whether we are root already: then sudo shows no more."""

    def drops_of(self, listener: Listener) -> int:
        """What was dropped for it since the command began."""
        return listener.drops - self.first.get(listener.inode, 0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``plugmeter listeners``."""
    parser.add_argument(
        "--interval", type=float, default=1.0, metavar="S", help="seconds between two samples (default: 1)"
    )
    parser.add_argument("--once", action="store_true", help="one sample, then end")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of the table")


def run(args: argparse.Namespace) -> int:
    """Show sample after sample, until Ctrl-C or with --once the first."""
    if not (math.isfinite(args.interval) and _LEAST_INTERVAL_S <= args.interval <= _MOST_INTERVAL_S):
        raise UsageError(
            f"--interval {args.interval:g}: give {_LEAST_INTERVAL_S:g} to {_MOST_INTERVAL_S:g} seconds"
        )
    live = not args.json and not args.once and sys.stdout.isatty()
    try:
        _watch(args, live)
    except KeyboardInterrupt:
        if live:
            print()
    return 0


def _watch(args: argparse.Namespace, live: bool) -> None:
    scanner = ListenerScanner()
    first: dict[int, int] = {}
    samples = 0
    due_s = time.monotonic()
    while True:
        sample = scanner.sample()
        there = {each.inode for each in sample.listeners}
        # A socket that is new since the last sample has dropped all of its drops while we watched.
        first = {inode: drops for inode, drops in first.items() if inode in there} | {
            each.inode: each.drops if samples == 0 else 0
            for each in sample.listeners
            if each.inode not in first
        }
        samples += 1
        view = View(sample, first, scanner.hidden, scanner.overlooked, scanner.malformed, os.geteuid() == 0)
        if args.json:
            sys.stdout.write(json.dumps(as_value(view), ensure_ascii=False) + "\n")
        elif live:
            sys.stdout.write(_UP + cut(render(view), *_terminal_size()))
        else:
            sys.stdout.write(render(view) + ("" if args.once else "\n"))
        sys.stdout.flush()
        if args.once:
            return
        due_s = max(due_s + args.interval, time.monotonic())
        time.sleep(max(0.0, due_s - time.monotonic()))


def render(view: View) -> str:
    """The table, worst first, with a line for whatever could not be seen; each line ends with a newline."""
    listeners = sorted(
        (each for each in view.sample.listeners if each.groups),
        key=lambda each: (-view.drops_of(each), -each.drops, each.pid, each.inode),
    )
    rows = [
        (
            str(each.pid) if each.pid else "-",
            _printable(each.comm),
            groups(each.groups),
            f"{view.drops_of(each):,}",
            f"{each.drops:,}",
            str(each.inode),
        )
        for each in listeners
    ]
    lines = _columns([_HEAD, *rows])
    silent = len(view.sample.listeners) - len(listeners)
    if not rows:
        lines = ["nobody listens to uevents here"]
    if silent:
        lines.append(f"{silent} more in no group (the kernel's own, and those that only send)")
    lines += _unseen(view, listeners)
    return "".join(line + "\n" for line in lines)


def groups(mask: int) -> str:
    """The groups of a socket in words: kernel, udevd, both, or their bits where they are others."""
    words = [word for bit, word in _GROUPS if mask & bit]
    rest = mask & ~sum(bit for bit, _ in _GROUPS)
    return "+".join([*words, *([f"0x{rest:x}"] if rest else [])]) or "none"


def as_value(view: View) -> dict[str, Any]:
    """The sample as a JSON object."""
    return {
        "t_ns": view.sample.t_ns,
        "listeners": [
            {
                "pid": each.pid,
                "comm": each.comm,
                "groups": each.groups,
                "drops": view.drops_of(each),
                "drops_total": each.drops,
                "inode": each.inode,
            }
            for each in view.sample.listeners
        ],
        "hidden": view.hidden,
        "overlooked": view.overlooked,
        "malformed": view.malformed,
    }


def _unseen(view: View, listeners: Sequence[Listener]) -> list[str]:
    unseen = []
    if view.hidden:
        unseen.append(f"the network namespaces of {view.hidden} processes")
    nameless = sum(not each.pid for each in listeners)
    if nameless:
        unseen.append(f"whose {nameless} of these sockets are")
    what = " and ".join(unseen)
    lines = []
    if unseen:
        lines.append(f"not to be seen from here: {what}" if view.root else f"run with sudo to see {what}")
    if view.overlooked:
        lines.append(f"{view.overlooked} more sockets are not shown")
    if view.malformed:
        lines.append(f"{view.malformed} lines of /proc/net/netlink made no sense")
    return lines


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if head in _RIGHT else cell.ljust(width)
            for cell, width, head in zip(row, widths, _HEAD, strict=True)
        ).rstrip()
        for row in rows
    ]


def _printable(comm: str) -> str:
    """A program may call itself anything (prctl(2), PR_SET_NAME), also something that moves the cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in comm)


def cut(text: str, columns: int, lines: int) -> str:
    """As much as the terminal can show: a line that wraps or scrolls would spoil the next picture."""
    shown = text.splitlines()
    if len(shown) >= lines:
        fits = max(1, lines - 2)
        shown = [*shown[:fits], f"{len(shown) - fits} more lines"]
    return "\n".join(line[:columns] for line in shown)


def _terminal_size() -> tuple[int, int]:
    size = os.get_terminal_size(sys.stdout.fileno())
    return size.columns or 80, size.lines or 24  # a serial line does not know its size
