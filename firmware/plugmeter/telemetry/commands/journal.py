"""The journal of commands: what was accepted, and what became of it; so that none has a second effect.

An SQLite file in the state directory. All is committed with synchronous=FULL before its consequence: a
command before it is answered or begun, its end before that is told. An id is forgotten only after it has
expired, and only to make room; the latest expiry of all that was forgotten stays, and what expires no later
than that is never obeyed (message.admit), so a replay finds either its id or that mark.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from plugmeter.errors import PlugmeterError
from plugmeter.telemetry import database, strictjson
from plugmeter.telemetry.commands.message import FINAL, Command, State

FILE_NAME: Final = "commands.sqlite"
MOST_ENTRIES: Final = 800
"""Each has an answer that the broker keeps, until it is cleared. With a connection mosquitto hands out 1,000
messages at most, if it is not set up otherwise (max_queued_messages): there must be room for new commands."""
_VERSION: Final = 2
_SCHEMA: Final = """
CREATE TABLE commands (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    op TEXT NOT NULL,
    arguments TEXT NOT NULL,
    signed INTEGER NOT NULL,
    issued_ns INTEGER NOT NULL,
    expires_ns INTEGER NOT NULL,
    received_ns INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('accepted', 'executing', 'successful', 'failed')),
    attempts INTEGER NOT NULL DEFAULT 0,
    reason TEXT,
    result TEXT,
    changed_ns INTEGER NOT NULL,
    note TEXT
);
CREATE TABLE marks (name TEXT PRIMARY KEY, time_ns INTEGER NOT NULL) WITHOUT ROWID;
"""
_COLUMNS: Final = (
    "id, op, arguments, signed, issued_ns, expires_ns, received_ns, state, attempts, reason, result,"
    " changed_ns, note"
)


class JournalFullError(PlugmeterError):
    """None of its commands has expired, so none may be forgotten."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A command that was accepted. Times are wall time, ns since 1970; nothing is ordered by them."""

    id: str
    op: str
    arguments: str
    """Canonical JSON."""
    signed: bool
    issued_ns: int
    expires_ns: int
    received_ns: int
    state: State
    attempts: int
    """How often its effect was begun."""
    reason: str | None
    result: str | None
    """Canonical JSON."""
    changed_ns: int
    note: str | None = None
    """Canonical JSON: what its operation is to know of this beginning when it is begun again."""

    def is_of(self, command: Command) -> bool:
        """Whether ``command``, which has this id, is this one again and not another one."""
        return (self.op, self.arguments) == (command.op, command.text)

    @property
    def final(self) -> bool:
        return self.state in FINAL


class Journal:
    """Thread-safe. Whatever SQLite fails with becomes a PlugmeterError of one line; then nothing was written.

    A file that is damaged is set aside beside its place (``set_aside``), never deleted, which ``tell`` is
    told, and a new one begins with the mark ``lost_ns``: the time of that, ``now_ns``.
    """

    def __init__(
        self,
        path: Path,
        now_ns: int,
        *,
        tell: Callable[[str], None] = lambda _: None,
        most_entries: int = MOST_ENTRIES,
    ) -> None:
        self._path = path
        self._most_entries = most_entries
        self._forgotten: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        try:
            opened = database.open_database(
                path, _SCHEMA, _VERSION, tell=tell, aside_time=str(now_ns), leave_other_versions=True
            )
            self._database, self.set_aside = opened.connection, opened.set_aside
            # Also where the power failed between that and the mark.
            if opened.is_new and database.was_set_aside(path):
                with self._transaction() as execute:
                    execute("INSERT INTO marks VALUES ('lost', ?)", (now_ns,))
            with closing(self._database.execute("SELECT name, time_ns FROM marks")) as cursor:
                self._marks: dict[str, int] = dict(cursor.fetchall())
        except PlugmeterError as error:
            raise PlugmeterError(f"the journal of commands cannot be opened: {error}") from None
        except sqlite3.Error as error:
            words = database.in_words(error, path)
            raise PlugmeterError(f"the journal of commands {path} cannot be opened: {words}") from None

    @property
    def forgotten_ns(self) -> int:
        """The latest expiry of all that was forgotten; 0 where nothing was."""
        return self._marks.get("forgotten", 0)

    @property
    def lost_ns(self) -> int | None:
        """When a journal before this one was lost."""
        return self._marks.get("lost")

    def find(self, command_id: str) -> Entry | None:
        """The command with this id, if it is known."""
        with self._errors(), self._lock:
            return self._find(command_id)

    def accept(self, command: Command, now_ns: int) -> Entry:
        """A new command, committed; where it takes room, expired ones are forgotten for it.

        Raises JournalFullError. An id that is known already is the caller's mistake (ValueError).
        """
        with self._errors(), self._lock, self._transaction() as execute:
            if self._find(command.id) is not None:
                raise ValueError(f"{command.id} is in the journal already")
            forgotten_ns, forgotten = self._make_room(now_ns)
            execute(
                f"INSERT INTO commands ({_COLUMNS})"
                " VALUES (?, ?, ?, ?, ?, ?, ?, 'accepted', 0, NULL, NULL, ?, NULL)",
                (
                    command.id, command.op, command.text, command.signed, command.issued_ns,
                    command.expires_ns, now_ns, now_ns,
                ),
            )  # fmt: skip
            entry = self._known(command.id)
        self._marks["forgotten"] = max(self.forgotten_ns, forgotten_ns)
        self._forgotten += forgotten
        return entry

    def take_forgotten(self) -> list[tuple[str, str]]:
        """(op, id) of what ``accept`` has forgotten since this was last asked, by the same thread."""
        forgotten, self._forgotten = self._forgotten, []
        return forgotten

    def prolong(self, command_id: str, expires_ns: int) -> None:
        """The same command came again with a later expiry: it must be remembered for as long."""
        with self._errors(), self._lock, self._transaction() as execute:
            execute(
                "UPDATE commands SET expires_ns = ? WHERE id = ? AND expires_ns < ?",
                (expires_ns, command_id, expires_ns),
            )

    def begin(self, command_id: str, now_ns: int) -> Entry:
        """Its effect will be begun now, once more: committed before it is."""
        with self._errors(), self._lock, self._transaction() as execute:
            self._must_change_one(
                execute(
                    "UPDATE commands SET state = 'executing', attempts = attempts + 1, changed_ns = ?"
                    " WHERE id = ? AND state IN ('accepted', 'executing')",
                    (now_ns, command_id),
                ),
                command_id,
            )
            return self._known(command_id)

    def note(self, command_id: str, value: object) -> Entry:
        """For its operation, if it is begun again: committed before the effect is. None: nothing any more."""
        with self._errors(), self._lock, self._transaction() as execute:
            self._must_change_one(
                execute(
                    "UPDATE commands SET note = ? WHERE id = ? AND state = 'executing'",
                    (None if value is None else strictjson.canonical(value), command_id),
                ),
                command_id,
            )
            return self._known(command_id)

    def finish(self, command_id: str, state: State, reason: str | None, result: object, now_ns: int) -> Entry:
        """Its one end: ``state`` of ``FINAL``. There is no second one (ValueError)."""
        if state not in FINAL:
            raise ValueError(f"{state} is no end")
        with self._errors(), self._lock, self._transaction() as execute:
            self._must_change_one(
                execute(
                    "UPDATE commands SET state = ?, reason = ?, result = ?, changed_ns = ?"
                    " WHERE id = ? AND state IN ('accepted', 'executing')",
                    (
                        str(state), reason, None if result is None else strictjson.canonical(result), now_ns,
                        command_id,
                    ),
                ),
                command_id,
            )  # fmt: skip
            return self._known(command_id)

    def unfinished(self) -> tuple[Entry, ...]:
        """What was accepted and has no end yet, in the order in which it was accepted."""
        query = f"SELECT {_COLUMNS} FROM commands WHERE state IN ('accepted', 'executing') ORDER BY number"
        with self._errors(), self._lock, closing(self._database.execute(query)) as cursor:
            return tuple(_entry(row) for row in cursor)

    def close(self) -> None:
        """Copy the log back. Nothing is lost if it is never called. Waits for the disk, and for whoever uses
        it."""
        with self._errors(), self._lock:
            self._database.close()

    def _make_room(self, now_ns: int) -> tuple[int, list[tuple[str, str]]]:
        """Forget the first to have expired, if the journal is full. Gives the latest expiry of those, and
        what they were."""
        with closing(self._database.execute("SELECT count(*) FROM commands")) as cursor:
            too_many = int(cursor.fetchone()[0]) + 1 - self._most_entries
        if too_many <= 0:
            return 0, []
        query = (
            "SELECT number, expires_ns, op, id FROM commands"
            " WHERE state IN ('successful', 'failed') AND expires_ns < ? ORDER BY expires_ns LIMIT ?"
        )
        # More than the one that is needed, so that it is not done at every command.
        with closing(self._database.execute(query, (now_ns, too_many + self._most_entries // 20))) as cursor:
            rows = cursor.fetchall()
        if len(rows) < too_many:
            raise JournalFullError(
                f"{self._most_entries} commands that have not expired are in the journal: try again later,"
                " and let commands expire sooner"
            )
        latest_ns: int = rows[-1][1]
        self._database.executemany("DELETE FROM commands WHERE number = ?", ((row[0],) for row in rows))
        self._database.execute(
            "INSERT INTO marks VALUES ('forgotten', ?) ON CONFLICT (name)"
            " DO UPDATE SET time_ns = max(time_ns, excluded.time_ns)",
            (latest_ns,),
        )
        return latest_ns, [(row[2], row[3]) for row in rows]

    def _find(self, command_id: str) -> Entry | None:
        query = f"SELECT {_COLUMNS} FROM commands WHERE id = ?"
        with closing(self._database.execute(query, (command_id,))) as cursor:
            row = cursor.fetchone()
        return None if row is None else _entry(row)

    def _known(self, command_id: str) -> Entry:
        entry = self._find(command_id)
        assert entry is not None, "it was written in this transaction"
        return entry

    def _must_change_one(self, cursor: sqlite3.Cursor, command_id: str) -> None:
        if cursor.rowcount != 1:
            raise ValueError(f"{command_id} has ended already, or never was")

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        """All or nothing, on disk when it ends. Gives ``Connection.execute``."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield self._database.execute
            self._database.execute("COMMIT")
        finally:
            if self._database.in_transaction:  # something was raised, by COMMIT perhaps
                self._database.execute("ROLLBACK")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            words = database.in_words(error, self._path)
            raise PlugmeterError(f"the journal of commands {self._path} cannot be used: {words}") from None


def _entry(row: tuple[Any, ...]) -> Entry:
    values = list(row)
    values[3], values[7] = bool(row[3]), State(row[7])
    return Entry(*values)
