"""The store in a PostgreSQL database (psycopg 3): several controllers may share it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from plugmeter.controller import schema
from plugmeter.controller.store import Connection, RecordRow, Row, Session, Store, StoreTrouble
from plugmeter.errors import PlugmeterError, UsageError

try:
    import psycopg
except ImportError as missing:  # also where libpq is missing
    raise PlugmeterError(
        'PostgreSQL needs psycopg: install Plugmeter with its extra "controller" (plugmeter[controller])'
    ) from missing

_CONNECT_S = 5
_LOCK_KEY = schema.APPLICATION_ID
"""Of the advisory lock under which tables are made: two controllers may start at once."""


class PostgresStore(Store):
    """A database of a PostgreSQL server, 12 or later."""

    dialect = "postgresql"

    def __init__(self, url: str) -> None:
        super().__init__(_without_password(url))
        self._url = url
        self._prepare()

    def _connect(self, *, writing: bool) -> Connection:
        return _PostgresConnection(self._url, self.name)

    def _prepare(self) -> None:
        with self.writing() as session:
            session.rows("SELECT pg_advisory_xact_lock(?)", (_LOCK_KEY,))
            session.run("CREATE TABLE IF NOT EXISTS plugmeter_tables (version INTEGER NOT NULL)")
            found = session.rows("SELECT version FROM plugmeter_tables")
            version = found[0][0] if found else 0
            if version > schema.VERSION:
                raise UsageError(
                    f"{self.name} was made by a newer Plugmeter (tables {version}, this one knows "
                    f"{schema.VERSION}): upgrade, or name another database"
                )
            for statement in schema.steps(self.dialect, version):
                session.run(statement)
            session.run("DELETE FROM plugmeter_tables")
            session.run("INSERT INTO plugmeter_tables (version) VALUES (?)", (schema.VERSION,))


class _PostgresConnection:
    def __init__(self, url: str, name: str) -> None:
        self._name = name
        with _said(name):
            self._connection = psycopg.connect(
                url, autocommit=True, connect_timeout=_CONNECT_S, application_name="plugmeter controller"
            )
        self.session: Session = _PostgresSession(self._connection, name)

    def begin(self, *, writing: bool) -> None:
        with _said(self._name):
            self._connection.execute(
                "BEGIN" if writing else "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
            )

    def commit(self) -> None:
        with _said(self._name):
            self._connection.execute("COMMIT")

    def rollback(self) -> None:
        with _said(self._name):
            self._connection.execute("ROLLBACK")

    def close(self) -> None:
        self._connection.close()


class _PostgresSession:
    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]], name: str) -> None:
        self._connection = connection
        self._name = name

    def run(self, statement: str, parameters: Sequence[object] = ()) -> int:
        with _said(self._name):
            return self._connection.execute(_translated(statement), parameters or None).rowcount

    def rows(self, statement: str, parameters: Sequence[object] = ()) -> list[Row]:
        with _said(self._name):
            return self._connection.execute(_translated(statement), parameters or None).fetchall()

    def many(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        with _said(self._name), self._connection.cursor() as cursor:
            cursor.executemany(_translated(statement), rows)

    def insert_records(self, stream: int, received_ms: int, rows: Sequence[RecordRow]) -> int:
        with _said(self._name):
            return self._connection.execute(
                "INSERT INTO record (stream, seq, kind, time_ms, received_ms, data, time)"
                " SELECT %s, seq, kind, time_ms, %s, data, time"
                " FROM unnest(%s::bigint[], %s::text[], %s::bigint[], %s::text[], %s::text[])"
                " AS new (seq, kind, time_ms, data, time)"
                " ON CONFLICT DO NOTHING",
                (stream, received_ms, *(list(column) for column in zip(*rows, strict=True))),
            ).rowcount


@cache
def _translated(statement: str) -> bytes:
    return statement.replace("?", "%s").encode()


@contextmanager
def _said(name: str) -> Iterator[None]:
    """PostgreSQL's errors in a line of ours."""
    try:
        yield
    except (psycopg.IntegrityError, psycopg.ProgrammingError, psycopg.DataError) as error:
        if isinstance(error, psycopg.errors.InsufficientPrivilege | psycopg.errors.InvalidCatalogName):
            raise StoreTrouble(f"database {name}: {_line(error)}") from error
        if error.sqlstate is None:
            raise UsageError(f"--database {name}: {_line(error)}") from error
        raise  # ours to mend, not the user's
    except psycopg.Error as error:
        raise StoreTrouble(f"database {name}: {_line(error)}") from error


def _line(error: psycopg.Error) -> str:
    lines = str(error).strip().splitlines()  # what is wrong comes first, hints after it
    return " ".join(lines[0].split()) if lines else type(error).__name__


def _without_password(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "postgresql://…"
    user = f"{parts.username}@" if parts.username else ""
    return f"postgresql://{user}{parts.hostname or ''}{port}{parts.path}"
