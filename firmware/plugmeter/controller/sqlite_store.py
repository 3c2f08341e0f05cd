"""The store in one SQLite file (WAL, synchronous=FULL): what is committed outlasts a power cut."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from plugmeter.controller import schema
from plugmeter.controller.store import Connection, RecordRow, Row, Session, Store, StoreTrouble
from plugmeter.errors import UsageError

_BUSY_MS = 10_000
"""How long a transaction waits for that of another controller on the same file."""


class SqliteStore(Store):
    """A SQLite file. Another controller on the same machine may use it too; on NFS nobody may."""

    dialect = "sqlite"

    def __init__(self, path: Path, *, create: bool = True) -> None:
        super().__init__(str(path))
        self._path = path
        if not create and not path.exists():
            raise UsageError(f"there is no database {path}: name one with --database, or let 'plugmeter "
                             "controller serve' make it")  # fmt: skip
        if not path.parent.is_dir():
            raise UsageError(f"there is no folder {path.parent} for the database {path.name}: make it first")
        self._prepare()

    def _connect(self, *, writing: bool) -> Connection:
        return _SqliteConnection(self._path)

    def _prepare(self) -> None:
        with self.reading() as session:
            marks = _marks(session)
        if marks == (schema.APPLICATION_ID, schema.VERSION):
            return  # an audit of a database that is in use waits for nobody
        with self.writing() as session:
            application, version = _marks(session)
            ((tables,),) = session.rows("SELECT count(*) FROM sqlite_master")
            if application != schema.APPLICATION_ID and (application or tables):
                raise UsageError(f"{self._path} is a database of another program: name another file")
            if version > schema.VERSION:
                raise UsageError(
                    f"{self._path} was made by a newer Plugmeter (tables {version}, this one knows "
                    f"{schema.VERSION}): upgrade, or name another file"
                )
            for statement in schema.steps(self.dialect, version):
                session.run(statement)
            session.run(f"PRAGMA application_id = {schema.APPLICATION_ID}")
            session.run(f"PRAGMA user_version = {schema.VERSION}")


def _marks(session: Session) -> tuple[int, int]:
    ((application,),) = session.rows("PRAGMA application_id")
    ((version,),) = session.rows("PRAGMA user_version")
    return application, version


class _SqliteConnection:
    def __init__(self, path: Path) -> None:
        self._path = path
        with _said(path):
            self._connection = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, cached_statements=256
            )
        try:
            with _said(path):
                self._connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = FULL")
                self._connection.execute("PRAGMA cache_size = -16384")
        except (StoreTrouble, UsageError):
            self._connection.close()
            raise
        self.session: Session = _SqliteSession(self._connection, path)

    def begin(self, *, writing: bool) -> None:
        with _said(self._path):
            self._connection.execute("BEGIN IMMEDIATE" if writing else "BEGIN")

    def commit(self) -> None:
        with _said(self._path):
            self._connection.execute("COMMIT")

    def rollback(self) -> None:
        if self._connection.in_transaction:  # SQLite itself rolls back after some errors
            with _said(self._path):
                self._connection.execute("ROLLBACK")

    def close(self) -> None:
        self._connection.close()


class _SqliteSession:
    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    def run(self, statement: str, parameters: Sequence[object] = ()) -> int:
        with _said(self._path):
            return self._connection.execute(statement, tuple(parameters)).rowcount

    def rows(self, statement: str, parameters: Sequence[object] = ()) -> list[Row]:
        with _said(self._path):
            return self._connection.execute(statement, tuple(parameters)).fetchall()

    def many(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        with _said(self._path):
            self._connection.executemany(statement, [tuple(row) for row in rows])

    def insert_records(self, stream: int, received_ms: int, rows: Sequence[RecordRow]) -> int:
        with _said(self._path):
            cursor = self._connection.executemany(
                "INSERT INTO record (stream, seq, kind, time_ms, received_ms, data, time)"
                " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [
                    (stream, seq, kind, time_ms, received_ms, data, time)
                    for seq, kind, time_ms, data, time in rows
                ],
            )
            return cursor.rowcount


@contextmanager
def _said(path: Path) -> Iterator[None]:
    """SQLite's errors in a line of ours."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
            raise  # ours to mend, not the user's
        text = str(error)
        if "not a database" in text:
            raise UsageError(f"{path} is no SQLite database: name another file") from error
        hint = {
            "database or disk is full": "make room",
            "unable to open database file": "check the folder and its permissions",
            "attempt to write a readonly database": "check its owner and permissions",
            "database is locked": "another program holds it",
        }.get(text, "see the system's log")
        raise StoreTrouble(f"database {path}: {text} ({hint})") from error
