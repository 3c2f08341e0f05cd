"""SQLite as the outbox and the journal of commands use it: durable at each commit, or set aside and new.

WAL with synchronous=FULL: a transaction that COMMIT has returned from outlasts a power cut (sqlite.org,
"PRAGMA synchronous"; with NORMAL it may be rolled back). What cannot be a database of ours is renamed,
never deleted, and a new one takes its place. Only damage does that: a full disk, an I/O error, a lock or
a missing permission is no damage.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import quote

from plugmeter.errors import PlugmeterError

PAGE_BYTES: Final = 4_096
SUFFIXES: Final = ("", "-wal", "-shm")
"""What a database consists of on disk while it is open."""
CHECKED_BYTES: Final = 67_108_864
"""A database up to this size has its whole structure checked when it is opened; a larger one would take
seconds to read from an SD card. What is wrong with that is found when it is read."""

_FILE_MODE: Final = 0o640
_DIRECTORY_MODE: Final = 0o750
_BUSY_S: Final = 0.5
_INCREMENTAL: Final = 2
RECHECK_S: Final = (0.05, 0.1, 0.2, 0.4)
"""What looks damaged is looked at again after these pauses before it is given up: where a read fails (EIO),
SQLite too says "malformed" (SQLITE_IOERR_CORRUPTFS becomes SQLITE_CORRUPT), and the next read may succeed."""
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_UNFIT: Final = frozenset({sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH})
_NONE: Final[Mapping[int, str]] = MappingProxyType({})
_REFUSED: Final[Mapping[int, str]] = {
    sqlite3.SQLITE_FULL: "the disk is full; make room",
    sqlite3.SQLITE_READONLY: "it is read-only; remount the file system or mend its permissions",
    sqlite3.SQLITE_PERM: "no permission",
    sqlite3.SQLITE_AUTH: "no permission",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check the permissions of its folder",
    sqlite3.SQLITE_BUSY: "another program has it locked; end that",
    sqlite3.SQLITE_IOERR: "input/output error; check the disk",
}


class DatabaseDamaged(Exception):
    """This is no database of ours, or no longer; the text says why, in a few words."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A database that can be used."""

    connection: sqlite3.Connection
    is_new: bool
    """Whether there was none (any more)."""
    set_aside: Path | None
    """Where the damaged one is now that was in its place."""


def open_database(
    path: Path,
    script: str,
    version: int,
    *,
    tell: Callable[[str], None],
    aside_time: str,
    thorough: bool = False,
    check: Callable[[sqlite3.Connection], None] | None = None,
    leave_other_versions: bool = False,
    upgrades: Mapping[int, str] = _NONE,
) -> Opened:
    """Open the database ``path``, made by the SQL ``script`` and with ``version`` as its user_version.

    The folder is made where it is missing. A damaged database is renamed to ``path``.corrupt-``aside_time``
    (with its log), which ``tell`` is told, and a new one is made. ``check`` may look into an old database
    and raise DatabaseDamaged. ``thorough`` checks the structure of a large one too. One of another version is
    damaged as well, or with ``leave_other_versions`` an error; but one that ``upgrades`` has a script for is
    brought to ``version`` by that, in one transaction. The connection may be used by one thread at a
    time, commits nothing by itself, and is WAL with synchronous=FULL.
    Raises PlugmeterError, one line, for all else.
    """
    make_directory(path.parent)
    for pause_s in (*RECHECK_S, 0.0):
        try:
            return Opened(
                *_open_sound(path, script, version, thorough, check, leave_other_versions, upgrades),
                set_aside=None,
            )
        except DatabaseDamaged as damage:
            why = str(damage)
            time.sleep(pause_s)
    aside = set_aside(path, aside_time)
    tell_aside(tell, path, why, aside)
    try:
        return Opened(*_open_sound(path, script, version, thorough, None, False), set_aside=aside)
    except DatabaseDamaged as damage:
        raise PlugmeterError(
            f"{shown(path)}: a new database is damaged at once ({damage}); check the disk"
        ) from None


def tell_aside(tell: Callable[[str], None], path: Path, why: str, aside: Path) -> None:
    """Say that a damaged database was set aside."""
    tell(f"{shown(path)} is damaged ({why}): it is set aside as {shown(aside)}, and a new one begins")


def open_reader(path: Path) -> sqlite3.Connection:
    """One more connection to an open database, which reads only. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        os.fspath(path), timeout=_BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=32
    )
    try:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA cache_size = -1024")
        connection.execute("PRAGMA mmap_size = 0")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def open_foreign(path: Path) -> sqlite3.Connection:
    """Somebody else's database to read, also while it is written, also from a read-only file system.

    Where nobody has it open it is taken as it is and nothing is created beside it. Raises sqlite3.Error.
    """
    name = quote(os.fsencode(path))
    in_use = any(path.with_name(path.name + suffix).exists() for suffix in SUFFIXES[1:])
    mode = "mode=ro" if in_use else "mode=ro&immutable=1"
    connection = sqlite3.connect(f"file:{name}?{mode}", uri=True, timeout=5, isolation_level=None)
    connection.execute("PRAGMA cache_size = -1024")
    return connection


def set_wal_bytes(connection: sqlite3.Connection, wal_bytes: int) -> None:
    """How large the log grows before it is copied back; its file keeps that size, so that an ordinary
    commit needs no new block of the disk. Raises sqlite3.Error."""
    connection.execute(f"PRAGMA wal_autocheckpoint = {max(1, wal_bytes // PAGE_BYTES)}")
    connection.execute(f"PRAGMA journal_size_limit = {wal_bytes}")


def check_structure(connection: sqlite3.Connection) -> None:
    """PRAGMA quick_check. Raises DatabaseDamaged with the first finding, or sqlite3.Error."""
    found = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found is None or found[0] != "ok":
        raise DatabaseDamaged(" ".join(str(found and found[0]).split())[:120])


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the database is the cause, and not the disk, a lock or a permission."""
    code = getattr(error, "sqlite_errorcode", None)  # missing where Python raises it: text that is no UTF-8
    if code is None:
        return isinstance(error, sqlite3.OperationalError)
    return (code & 0xFF) in _DAMAGE


def in_words(error: sqlite3.Error, path: Path | None = None) -> str:
    """What happened, and how to mend it; one line. A full disk has many names: ``path`` is asked for room."""
    code = getattr(error, "sqlite_errorcode", 0)
    text = _REFUSED.get(code & 0xFF) or " ".join(str(error).split())
    if path is not None and code & 0xFF == sqlite3.SQLITE_IOERR and _is_full(path.parent):
        text = _REFUSED[sqlite3.SQLITE_FULL]
    name = getattr(error, "sqlite_errorname", "")
    return f"{text} ({name})" if name else text


def shown(path: Path) -> str:
    """A path on one line, whatever it has in it."""
    text = os.fspath(path)
    return text if text.isprintable() else ascii(text)


def was_set_aside(path: Path) -> bool:
    """Whether a damaged ``path`` was ever set aside, and is still there. Raises PlugmeterError."""
    try:
        return any(each.name.startswith(f"{path.name}.corrupt-") for each in path.parent.iterdir())
    except OSError as error:
        raise PlugmeterError(f"{shown(path.parent)} cannot be read: {error.strerror}") from None


def set_aside(path: Path, when: str, why: str = "corrupt") -> Path:
    """Rename a database with its log to ``path``.``why``-``when``. Raises PlugmeterError."""
    for number in range(1, 1_000):
        aside = path.with_name(f"{path.name}.{why}-{when}" + (f".{number}" if number > 1 else ""))
        if not any(os.path.lexists(f"{aside}{suffix}") for suffix in SUFFIXES):
            break
    else:
        raise PlugmeterError(f"{shown(path)} had to be set aside 1,000 times in this second; check the disk")
    try:
        # The log last: a database without its log must never be taken for a whole one.
        for suffix in SUFFIXES:
            if os.path.lexists(f"{path}{suffix}"):
                os.rename(f"{path}{suffix}", f"{aside}{suffix}")  # noqa: PTH104  a Path has no such suffix
        _sync_directory(path.parent)
    except OSError as error:
        raise PlugmeterError(
            f"{shown(path)} ({why}) cannot be set aside: {error.strerror}; move it away"
        ) from None
    return aside


def _open_sound(
    path: Path,
    script: str,
    version: int,
    thorough: bool,
    check: Callable[[sqlite3.Connection], None] | None,
    leave_other_versions: bool,
    upgrades: Mapping[int, str] = _NONE,
) -> tuple[sqlite3.Connection, bool]:
    is_new = _make_file(path)
    try:
        connection = sqlite3.connect(
            os.fspath(path), timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
    except sqlite3.Error as error:
        raise PlugmeterError(f"{shown(path)}: {in_words(error, path)}") from None
    kept = False
    try:
        _set_up(connection)
        if _is_empty(connection):
            is_new = True
            connection.executescript(f"BEGIN IMMEDIATE;{script};PRAGMA user_version = {version};COMMIT")
        else:
            _upgrade(connection, version, upgrades)
            _check_version(connection, version, path if leave_other_versions else None)
            _check_schema(connection, script)
            if thorough or path.stat().st_size <= CHECKED_BYTES:
                check_structure(connection)
            if check is not None:
                check(connection)
        kept = True
        return connection, is_new
    except sqlite3.Error as error:
        if is_damage(error):
            raise DatabaseDamaged(" ".join(str(error).split())) from None
        raise PlugmeterError(f"{shown(path)}: {in_words(error, path)}") from None
    except OSError as error:
        raise PlugmeterError(f"{shown(path)}: {error.strerror}") from None
    finally:
        if not kept:
            connection.close()


def _set_up(connection: sqlite3.Connection) -> None:
    (vacuum,) = connection.execute("PRAGMA auto_vacuum").fetchone()
    if vacuum != _INCREMENTAL:  # before the first page; later it does nothing but write one
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise PlugmeterError(f"this file system cannot hold a database with a log (journal mode {mode})")
    connection.execute("PRAGMA synchronous = FULL")
    # Debian builds SQLite so that it overwrites what is deleted, which doubles what is written.
    connection.execute("PRAGMA secure_delete = OFF")
    connection.execute("PRAGMA cache_size = -2048")
    connection.execute("PRAGMA mmap_size = 0")  # an I/O error must be an error, not a SIGBUS
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA foreign_keys = OFF")


def _is_empty(connection: sqlite3.Connection) -> bool:
    """Whether it was only just created, perhaps by a process that died of it."""
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    return (tables, version) == (0, 0)


def _upgrade(connection: sqlite3.Connection, version: int, upgrades: Mapping[int, str]) -> None:
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found not in upgrades:
        return
    check_structure(connection)
    try:
        connection.executescript(f"BEGIN IMMEDIATE;{upgrades[found]};PRAGMA user_version = {version};COMMIT")
    except sqlite3.Error as error:
        if (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _UNFIT:
            raise DatabaseDamaged(f"its tables are not those of format {found}") from None
        raise


def _check_version(connection: sqlite3.Connection, version: int, left_alone: Path | None) -> None:
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found == version:
        return
    if left_alone is not None:
        raise PlugmeterError(
            f"{shown(left_alone)} was made by another version of plugmeter (format {found}, not {version}):"
            " install that one, or move the file away"
        )
    raise DatabaseDamaged(f"its version is {found}, not {version}")


def _check_schema(connection: sqlite3.Connection, script: str) -> None:
    wanted = sqlite3.connect(":memory:")
    try:
        wanted.executescript(script)
        listing = "SELECT name, sql FROM sqlite_schema ORDER BY name"
        if connection.execute(listing).fetchall() != wanted.execute(listing).fetchall():
            raise DatabaseDamaged("its tables are others than ours")
    finally:
        wanted.close()


def make_directory(directory: Path) -> None:
    """Make a folder and those above it, mode 0750, if it is missing. Raises PlugmeterError."""
    try:
        directory.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
    except FileExistsError:
        raise PlugmeterError(f"{shown(directory)} is no folder; name another") from None
    except OSError as error:
        raise PlugmeterError(f"{shown(directory)} cannot be made: {error.strerror}") from None


def _make_file(path: Path) -> bool:
    """Make sure that there is a regular file; whether it is new. Raises DatabaseDamaged for what is none."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return _create(path)
    except OSError as error:
        raise PlugmeterError(f"{shown(path)}: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise DatabaseDamaged("it is a folder" if stat.S_ISDIR(mode) else "it is no file")
    wal = path.with_name(path.name + SUFFIXES[1])
    if path.stat().st_size == 0 and wal.exists() and wal.stat().st_size > 0:
        raise DatabaseDamaged("it is empty, and its log is not")  # SQLite would delete the log
    return False


def _create(path: Path) -> bool:
    wal = path.with_name(path.name + SUFFIXES[1])
    if wal.exists() and wal.stat().st_size > 0:
        raise DatabaseDamaged("it is gone, and its log is not")
    if os.path.lexists(path):
        raise DatabaseDamaged("it is a link to nowhere")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE))
        _sync_directory(path.parent)
    except OSError as error:
        raise PlugmeterError(f"{shown(path)} cannot be made: {error.strerror}") from None
    return True


def _is_full(directory: Path) -> bool:
    try:
        return os.statvfs(directory).f_bavail == 0
    except OSError:
        return False


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
