"""``plugmeter status``: how the daemon is, or how it was when it stopped."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from plugmeter import config
from plugmeter.errors import PlugmeterError
from plugmeter.lifecycle.address import Address, parse_address
from plugmeter.lifecycle.ask import ask, lock_holder
from plugmeter.lifecycle.figures import Figures
from plugmeter.lifecycle.health import HealthSnapshot, read_health
from plugmeter.lifecycle.status_text import running, stopped

NAME = "status"
HELP = "show how the daemon is, or how it was when it stopped"
EPILOG = """\
examples:
  plugmeter status                         the daemon that is configured in /etc/plugmeter/plugmeter.toml
  plugmeter status --watch                 again every 2 s, until Ctrl-C
  plugmeter status --json                  all there is, as one JSON object
  plugmeter status --socket 127.0.0.1:9273 --state /var/lib/plugmeter

exit status: 0 it runs and is ready, 1 it does not run or is not ready, 2 bad usage
"""

DEFAULT_CONFIG = Path("/etc/plugmeter/plugmeter.toml")
LOCK_NAME = "lock"
"""In the state directory; the daemon holds it (telemetry.outbox)."""
_INTERVAL_S = 2.0
_UP = "\x1b[H\x1b[J"
"""Cursor home, and clear from there (ECMA-48: CUP, ED)."""


@dataclass(frozen=True, slots=True)
class Where:
    """Whom to ask, and where the last snapshot is."""

    address: Address | None
    state: Path


@dataclass(frozen=True, slots=True)
class View:
    """What was found. ``document`` is the running daemon's answer, ``health`` the last snapshot."""

    trouble: str = ""
    document: dict[str, Any] | None = None
    figures: Figures | None = None
    """What the document says."""
    health: HealthSnapshot | None = None
    why_no_health: str = ""
    holder: int | None = None
    """Who holds the state directory, although nobody answers."""
    read_ns: int = field(default_factory=time.time_ns)

    @property
    def is_ready(self) -> bool:
        return self.document is not None and self.document.get("ready") == []


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``plugmeter status``."""
    parser.add_argument(
        "--config", metavar="FILE", help=f"the daemon's configuration (default: {DEFAULT_CONFIG}, if there)"
    )
    parser.add_argument(
        "--socket", metavar="ADDRESS", help="where it serves, instead of the configuration's daemon.metrics"
    )
    parser.add_argument(
        "--state", metavar="DIR", help="its state directory, instead of daemon.state_directory"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    parser.add_argument("--watch", action="store_true", help="show it again every 2 s, until Ctrl-C")


def run(args: argparse.Namespace) -> int:
    """0 where the daemon runs and is ready, else 1. Raises UsageError for an address that is none."""
    where = _where(args)
    if not args.watch:
        return _show(look(where), args.json, live=False)
    status = 1
    live = not args.json and sys.stdout.isatty()
    try:
        while True:
            status = _show(look(where), args.json, live=live, line=True)
            time.sleep(_INTERVAL_S)
    except KeyboardInterrupt:
        if live:
            print()
        return status


def look(where: Where) -> View:
    """Ask, or else read what the last life left. Raises nothing that the user can mend: that is the view."""
    trouble = "it serves no status (daemon.metrics is empty)"
    if where.address is not None:
        try:
            status, body = ask(where.address, "/status")
            if status == 200:
                document, figures = _read(where.address, body)
                return View(document=document, figures=figures)
            trouble = f"{where.address} answers {status}: {body[:200].decode('utf-8', 'replace').strip()}"
        except PlugmeterError as error:
            trouble = str(error)
    health, why = read_health(where.state)
    return View(trouble, health=health, why_no_health=why, holder=lock_holder(where.state / LOCK_NAME))


def _read(address: Address, body: bytes) -> tuple[dict[str, Any], Figures]:
    """Tolerant of another version's: what is unknown is left out, what is missing keeps its default."""
    try:
        document = msgspec.json.decode(body, type=dict[str, Any])
        figures = msgspec.convert(document, Figures)
        msgspec.convert(document.get("ready"), list[str])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise PlugmeterError(f"what serves at {address} is no Plugmeter of this version") from None
    return document, figures


def _where(args: argparse.Namespace) -> Where:
    if args.config is not None:
        daemon = config.load(args.config).daemon
    elif DEFAULT_CONFIG.exists() and not (args.socket and args.state):
        daemon = config.load(DEFAULT_CONFIG).daemon
    else:
        daemon = config.default().daemon
    text = daemon.metrics if args.socket is None else args.socket
    return Where(parse_address(text) if text else None, Path(args.state or daemon.state_directory))


def _show(view: View, as_json: bool, *, live: bool, line: bool = False) -> int:
    if as_json:
        text = json.dumps(as_value(view), indent=None if line else 2, ensure_ascii=False) + "\n"
    else:
        text = "".join(each + "\n" for each in render(view))
    if live:
        size = os.get_terminal_size(sys.stdout.fileno())
        text = _UP + _cut(text, size.columns or 80, size.lines or 24)
    elif line and not as_json:
        text += "\n"
    sys.stdout.write(text)
    sys.stdout.flush()
    return 0 if view.is_ready else 1


def render(view: View) -> Sequence[str]:
    """The lines of the view."""
    if view.document is not None and view.figures is not None:
        return running(view.figures, view.document["ready"])
    return stopped(view.trouble, view.holder, view.health, view.why_no_health, view.read_ns)


def as_value(view: View) -> dict[str, Any]:
    """The view as a JSON object."""
    return {
        "running": view.document is not None or view.holder is not None,
        "ready": view.is_ready,
        "trouble": view.trouble or None,
        "status": view.document,
        "last_health": view.health.document() if view.health else None,
    }


def _cut(text: str, columns: int, lines: int) -> str:
    shown = text.splitlines()
    if len(shown) >= lines:
        shown = [*shown[: max(1, lines - 2)], "..."]
    return "\n".join(each[:columns] for each in shown)
