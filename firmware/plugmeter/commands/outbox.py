"""``plugmeter outbox``: the account of a state directory's records, also while the daemon runs."""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from plugmeter import config
from plugmeter.commands.benches.options import count
from plugmeter.errors import PlugmeterError, UsageError
from plugmeter.reporting.table import table
from plugmeter.telemetry import books, database
from plugmeter.telemetry.database import DatabaseDamaged, shown
from plugmeter.telemetry.outbox import DATABASE_NAME
from plugmeter.telemetry.owner import Owner, machine_of
from plugmeter.telemetry.reading import account, count_records, list_tombstones
from plugmeter.telemetry.record import Account, Rank, Tombstone
from plugmeter.telemetry.segment import SegmentDamaged
from plugmeter.telemetry.store import VERSION

NAME = "outbox"
HELP = "prove that every record is acknowledged, told of by a tombstone, or still here"
EPILOG = """\
examples:
  plugmeter outbox                               the outbox of the default state directory
  plugmeter outbox --config plugmeter.toml       that of a configuration
  plugmeter outbox --state /var/lib/plugmeter    that of a directory
  plugmeter outbox --tombstones 20               and the oldest 20 tombstones
  plugmeter outbox --json                        for scripts

Every record is counted one by one, not taken from the books. Nothing is written; the daemon may run.

exit status: 0 the books add up: produced = acknowledged + tombstoned + pending; 1 they do not, or there is
no outbox, or it is damaged; 2 bad usage
"""

_TOMBSTONES: Final = 100
_MOST_TOMBSTONES: Final = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``plugmeter outbox``."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--config", metavar="FILE", help="the configuration that names the state directory")
    where.add_argument("--state", metavar="DIR", help="the state directory itself")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--tombstones",
        nargs="?",
        type=count(1, _MOST_TOMBSTONES),
        const=_TOMBSTONES,
        metavar="N",
        help=f"list the oldest N tombstones that are not acknowledged yet (default: {_TOMBSTONES})",
    )


def run(args: argparse.Namespace) -> int:
    """Print the account; the exit status says whether it adds up."""
    path = _directory(args) / DATABASE_NAME
    try:
        if not path.is_file():
            raise PlugmeterError(f"there is no outbox at {shown(path)}; name its directory with --state")
        found, counted, stones, owner = _read(path, args.tombstones or 0)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise PlugmeterError(f"{shown(path)} cannot be read: {reason}") from None
    except sqlite3.Error as error:
        what = "is damaged" if database.is_damage(error) else "cannot be read"
        raise PlugmeterError(f"{shown(path)} {what}: {database.in_words(error)}") from None
    good = found.adds_up and counted == found.pending
    if args.json:
        sys.stdout.write(
            json.dumps(_as_value(path, found, owner, counted, good, stones, args), indent=2) + "\n"
        )
    else:
        sys.stdout.write("\n".join(_lines(path, found, owner, counted, good, stones)) + "\n")
    return 0 if good else 1


def _directory(args: argparse.Namespace) -> Path:
    if args.state is not None:
        if not args.state or "\0" in args.state:
            raise UsageError("outbox: --state: name a directory")
        return Path(args.state)
    loaded = config.default() if args.config is None else config.load(args.config)
    return Path(loaded.daemon.state_directory)


def _read(path: Path, tombstones: int) -> tuple[Account, int, list[Tombstone], Owner]:
    with closing(database.open_foreign(path)) as connection:
        connection.execute("BEGIN")
        try:
            _check_version(path, connection)
            now = books.read(connection)
            if now is None:
                raise DatabaseDamaged("its books are empty")
            found = account(connection, now, path)
            counted = count_records(connection)
            stones = list_tombstones(connection, tombstones) if tombstones else []
        except (DatabaseDamaged, SegmentDamaged) as damage:
            raise PlugmeterError(f"{shown(path)} is damaged: {damage}") from None
        return found, counted, stones, now.owner


def _check_version(path: Path, connection: sqlite3.Connection) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != VERSION and version:
        raise PlugmeterError(
            f"{shown(path)} has format {version} and not {VERSION}: it is another version's, or waits for the"
            " daemon to be restarted with this one"
        )


def _lines(
    path: Path, found: Account, owner: Owner, counted: int, good: bool, stones: list[Tombstone]
) -> list[str]:
    rows = [
        ["produced", f"{found.produced:,}", "numbers that were given"],
        ["acknowledged", f"{found.acknowledged:,}", "the controller has them"],
        ["tombstoned", f"{found.tombstoned:,}", f"of which {found.unannounced:,} it does not know of yet"],
        ["pending", f"{counted:,}", _oldest(found)],
    ]
    lines = [
        f"{shown(path)}, {found.bytes:,} bytes",
        f"stream {found.stream}",
        _whose(owner),
        "",
        *table(["", "records", ""], rows),
        "",
    ]
    if good:
        lines.append("The books add up: produced = acknowledged + tombstoned + pending.")
    else:
        rest = found.produced - found.acknowledged - found.tombstoned - counted
        lines.append(
            f"THE BOOKS DO NOT ADD UP: {abs(rest):,} records {'are missing' if rest > 0 else 'too many'}."
        )
        if counted != found.pending:
            lines.append(f"By the books of its segments {found.pending:,} are pending.")
    if stones:
        lines += [
            "",
            *table(["from", "to", "records", "rank", "reason", "when"], [_row(each) for each in stones]),
        ]
        left = found.unannounced - sum(each.count for each in stones)
        if left:
            lines.append(f"and {left:,} more records that later tombstones tell of")
    return lines


def _whose(owner: Owner) -> str:
    if not owner.device:
        return "of no device yet"
    machine = machine_of()
    if not machine or not owner.machine:
        return f"of the device {owner.device}"
    return f"of the device {owner.device}, on {'this' if machine == owner.machine else 'another'} machine"


def _oldest(found: Account) -> str:
    return f"the oldest has number {found.oldest_pending:,}" if found.pending else "all is delivered"


def _row(stone: Tombstone) -> list[str]:
    numbers = [str(stone.first), str(stone.last), f"{stone.count:,}"]
    return [*numbers, _rank(stone.rank), stone.reason, _time(stone)]


def _rank(rank: int) -> str:
    return Rank(rank).name.lower() if rank in list(Rank) else str(rank)


def _time(stone: Tombstone) -> str:
    try:
        return f"{datetime.fromtimestamp(stone.time_ns // 10**9, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):  # the clock was set to anything
        return "?"


def _as_value(
    path: Path,
    found: Account,
    owner: Owner,
    counted: int,
    good: bool,
    stones: list[Tombstone],
    args: argparse.Namespace,
) -> dict[str, Any]:
    value: dict[str, Any] = {
        "schema": "plugmeter-outbox/1",
        "database": str(path),
        "stream": found.stream,
        "device": owner.device or None,
        "machine": owner.machine or None,
        "produced": found.produced,
        "acknowledged": found.acknowledged,
        "tombstoned": found.tombstoned,
        "pending": found.pending,
        "counted": counted,
        "oldest_pending": found.oldest_pending,
        "unannounced": found.unannounced,
        "bytes": found.bytes,
        "adds_up": good,
    }
    if args.tombstones:
        value["tombstones"] = [
            {
                "from": each.first,
                "to": each.last,
                "count": each.count,
                "rank": _rank(each.rank),
                "reason": each.reason,
                "time_ns": each.time_ns,
            }
            for each in stones
        ]
    return value
