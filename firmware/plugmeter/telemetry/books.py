"""The books of an outbox: one row, which changes in the same transaction as the records."""

from __future__ import annotations

import sqlite3
import uuid
from dataclasses import astuple, dataclass, fields
from typing import Final

from plugmeter.telemetry.database import DatabaseDamaged
from plugmeter.telemetry.owner import Owner

SCHEMA: Final = """
CREATE TABLE books (
    id INTEGER PRIMARY KEY CHECK (id = 1), stream TEXT NOT NULL, produced INTEGER NOT NULL,
    acknowledged INTEGER NOT NULL, tombstoned INTEGER NOT NULL, commits INTEGER NOT NULL,
    clean INTEGER NOT NULL, lived_ns INTEGER NOT NULL,
    boot_id TEXT NOT NULL, boot_ns INTEGER NOT NULL, device TEXT NOT NULL, machine TEXT NOT NULL
) STRICT;
"""
_LIKE_FORMAT_1: Final = (
    "id, stream, produced, acknowledged, tombstoned, commits, clean, lived_ns, boot_id, boot_ns"
)
FROM_FORMAT_1: Final = f"""
CREATE TEMP TABLE books_1 AS SELECT {_LIKE_FORMAT_1} FROM main.books;
DROP TABLE main.books;
{SCHEMA}
INSERT INTO main.books ({_LIKE_FORMAT_1}, device, machine) SELECT {_LIKE_FORMAT_1}, '', '' FROM temp.books_1;
DROP TABLE temp.books_1;
"""
"""The books had no owner."""


@dataclass(frozen=True, slots=True)
class Books:
    """As committed."""

    stream: str
    produced: int
    """Numbers that were given: 1 .. produced."""
    acknowledged: int
    tombstoned: int
    commits: int
    """Transactions so far: tells whether one took place of which SQLite could not say."""
    clean: int
    """1 after ``close``."""
    lived_ns: int
    """How long the device has been on (see ``age``), as of boot_id and boot_ns."""
    boot_id: str
    boot_ns: int
    device: str = ""
    """Whose they are (see ``owner``); empty if that is not known."""
    machine: str = ""

    @property
    def owner(self) -> Owner:
        return Owner(self.device, self.machine)


_NAMES: Final = tuple(each.name for each in fields(Books))
SELECT: Final = f"SELECT {', '.join(_NAMES)} FROM books WHERE id = 1"
_REPLACE: Final = (
    f"INSERT OR REPLACE INTO books (id, {', '.join(_NAMES)}) VALUES (1, {', '.join('?' * len(_NAMES))})"
)


def read(connection: sqlite3.Connection) -> Books | None:
    """The books; None where there are none yet. Raises DatabaseDamaged for what cannot be books."""
    row = connection.execute(SELECT).fetchone()
    if row is None:
        return None
    books = Books(*row)
    numbers = (*astuple(books)[1:7], books.boot_ns)
    if not all(isinstance(each, int) for each in numbers) or not all(
        isinstance(each, str) for each in (books.stream, books.device, books.machine)
    ):
        raise DatabaseDamaged("its books are no numbers")
    try:
        uuid.UUID(books.stream)
    except ValueError:
        raise DatabaseDamaged("its stream is no UUID") from None
    if min(books.produced, books.acknowledged, books.tombstoned, books.commits, books.lived_ns) < 0:
        raise DatabaseDamaged("its books have negative numbers")
    return books


def write(connection: sqlite3.Connection, books: Books) -> None:
    """Within a transaction."""
    connection.execute(_REPLACE, astuple(books))


def fault(books: Books, pending: int) -> str | None:
    """In one line why the books do not add up with so many pending records; None where they do."""
    rest = books.produced - books.acknowledged - books.tombstoned - pending
    if not rest:
        return None
    return (
        f"the books of stream {books.stream} do not add up: produced {books.produced} is not acknowledged"
        f" {books.acknowledged} + tombstoned {books.tombstoned} + pending {pending}"
        f" ({abs(rest)} {'missing' if rest > 0 else 'too many'})"
    )
