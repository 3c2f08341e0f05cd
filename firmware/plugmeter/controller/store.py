"""The store: what SQLite and PostgreSQL have in common, and how one of them is opened.

Statements are written once, with ``?`` for parameters; a store translates where its database wants it
otherwise. One thread writes; any number read, each on a connection of its own from a small pool.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from plugmeter.errors import PlugmeterError, UsageError

Row: TypeAlias = tuple[Any, ...]
RecordRow: TypeAlias = tuple[int, str, int, str, str]
"""Of a record: seq, kind, time_ms, data, time."""

_IDLE_READERS = 4


class StoreTrouble(PlugmeterError):
    """The database cannot be written or read just now: full, locked, away. It may come back."""


class Session(Protocol):
    """A connection inside a transaction."""

    def run(self, statement: str, parameters: Sequence[object] = ()) -> int:
        """How many rows it changed."""
        ...

    def rows(self, statement: str, parameters: Sequence[object] = ()) -> list[Row]: ...

    def many(self, statement: str, rows: Sequence[Sequence[object]]) -> None: ...

    def insert_records(self, stream: int, received_ms: int, rows: Sequence[RecordRow]) -> int:
        """Insert the rows; what is there already stays as it is. How many are new."""
        ...


class Connection(Protocol):
    """A session that can begin and end transactions."""

    @property
    def session(self) -> Session: ...

    def begin(self, *, writing: bool) -> None: ...

    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    def close(self) -> None: ...


class Store(ABC):
    """A database with our tables. Raises StoreTrouble, one line, for what may pass."""

    dialect: str

    def __init__(self, name: str) -> None:
        self.name = name
        """As people know it, without a password."""
        self._writer: Connection | None = None
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        self._closed = False

    @abstractmethod
    def _connect(self, *, writing: bool) -> Connection: ...

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """One transaction of the one writer: committed at the end, or nothing of it happened."""
        if self._writer is None:
            self._writer = self._connect(writing=True)
        writer = self._writer
        done = False
        try:
            writer.begin(writing=True)
            yield writer.session
            writer.commit()
            done = True
        finally:
            if not done:
                self._abandon(writer)

    def _abandon(self, writer: Connection) -> None:
        """Whatever state it is in, the next transaction begins on a new connection."""
        self._writer = None
        try:
            writer.rollback()
        except StoreTrouble:
            pass  # the first trouble is on its way up already
        finally:
            writer.close()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A snapshot: all that is read in it is of one moment."""
        with self._lock:
            reader = self._idle.pop() if self._idle else None
        if reader is None:
            reader = self._connect(writing=False)
        done = False
        try:
            reader.begin(writing=False)
            yield reader.session
            reader.rollback()
            done = True
        finally:
            with self._lock:
                keep = done and not self._closed and len(self._idle) < _IDLE_READERS
                if keep:
                    self._idle.append(reader)
            if not keep:
                reader.close()

    def close(self) -> None:
        """Close all connections; readers under way close theirs when they are done."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for reader in idle:
            reader.close()
        if self._writer is not None:
            self._writer.close()
            self._writer = None


@cache
def upsert(table: str, key: tuple[str, ...], values: tuple[str, ...], added: tuple[str, ...] = ()) -> str:
    """Inserts a row (``key``, ``values``, ``added`` in this order) or, where the key is there already,
    replaces its values and adds to those of ``added``."""
    columns = (*key, *values, *added)
    changes = [f"{column} = excluded.{column}" for column in values]
    changes += [f"{column} = {table}.{column} + excluded.{column}" for column in added]
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {', '.join(changes)}"
    )


def open_store(database: str, *, create: bool = True) -> Store:
    """The store in a SQLite file or at a PostgreSQL URL, its tables made or brought forward.

    Raises UsageError for what is no database of ours, StoreTrouble where it cannot be reached now.
    """
    scheme, separator, _ = database.partition("://")
    if separator:
        if scheme not in ("postgresql", "postgres"):
            raise UsageError(
                f"--database {scheme}://…: give a file for SQLite, or a URL such as postgresql://user@host/name"
            )
        from plugmeter.controller.postgres_store import PostgresStore  # the extra "controller"

        return PostgresStore(database)
    from plugmeter.controller.sqlite_store import SqliteStore

    return SqliteStore(Path(database), create=create)
