"""Opening a database: what is damaged is set aside with all it has, and nothing else is."""

from __future__ import annotations

import os
import random
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from plugmeter.errors import PlugmeterError
from plugmeter.telemetry.database import (
    DatabaseDamaged,
    Opened,
    in_words,
    is_damage,
    make_directory,
    open_database,
    open_foreign,
)
from plugmeter.telemetry.lock import StateLock
from tests.namespace import as_ordinary_user

SCRIPT = "CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT;"


def opened(path: Path, told: list[str] | None = None, version: int = 1, thorough: bool = False) -> Opened:
    return open_database(
        path,
        SCRIPT,
        version,
        tell=(told if told is not None else []).append,
        aside_time="20261122T100000Z",
        thorough=thorough,
    )


def filled(path: Path) -> None:
    connection = opened(path).connection
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO things (name) VALUES (?)", [("x" * 300,)] * 500)
    connection.execute("COMMIT")
    connection.close()


@pytest.mark.parametrize(
    "name", ["plain", "with space", "a?b#c%41", "ünïcödé", "new\nline", "file:x", os.fsdecode(b"\xff\xfe")]
)
def test_it_is_durable_and_private_whatever_its_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "sub" / name
    first = opened(path)
    assert first.is_new
    settings = {
        name: first.connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "secure_delete", "auto_vacuum")
    }
    assert settings == {"journal_mode": "wal", "synchronous": 2, "secure_delete": 0, "auto_vacuum": 2}
    first.connection.execute("INSERT INTO things (name) VALUES ('it')")
    reader = open_foreign(path)
    assert reader.execute("SELECT name FROM things").fetchall() == [("it",)]
    reader.close()
    first.connection.close()
    assert stat.S_IMODE(path.stat().st_mode) & 0o027 == 0
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o027 == 0
    again = opened(path)
    assert (again.is_new, again.set_aside) == (False, None)
    again.connection.close()


def flip_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096 * 10)
        file.write(random.Random(3).randbytes(4096))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def other_version(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 7")
    connection.close()


def other_tables(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.executescript("CREATE TABLE things (id INTEGER); PRAGMA user_version = 1")
    connection.close()


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").touch()


def log_only(path: Path) -> None:
    path.rename(f"{path}-wal")


def empty_with_log(path: Path) -> None:
    path.rename(f"{path}-wal")
    path.touch()


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(20_000))


def text(path: Path) -> None:
    path.write_text("no database")


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere/at/all")


DAMAGES = (
    flip_page, truncate, other_version, other_tables, folder, log_only, empty_with_log, garbage, text, fifo,
    dangling,
)  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda each: each.__name__)
def test_what_is_damaged_is_set_aside_and_kept(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "db"
    for _ in range(2):
        if os.path.lexists(path):
            path.unlink()
        filled(path)
        damage(path)
        there = sorted(os.lstat(each).st_ino for each in tmp_path.glob("db*"))
        told: list[str] = []
        now = opened(path, told)
        assert now.is_new
        assert now.set_aside is not None
        assert now.set_aside.name.startswith("db.corrupt-20261122T100000Z")
        now.connection.execute("INSERT INTO things (name) VALUES ('new')")
        now.connection.close()
        kept = [os.lstat(each).st_ino for each in tmp_path.glob("db.corrupt*")]
        assert set(there) <= set(kept)
        assert len(told) == 1
        assert "\n" not in told[0]
        assert "damaged" in told[0]


@pytest.mark.parametrize("damage", [flip_page, garbage])
def test_the_check_of_the_caller_counts(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "db"
    filled(path)

    def never(connection: sqlite3.Connection) -> None:
        raise DatabaseDamaged("never good enough")

    told: list[str] = []
    now = open_database(path, SCRIPT, 1, tell=told.append, aside_time="t", check=never)
    assert now.is_new
    assert "never good enough" in told[0]
    now.connection.close()


def test_a_process_that_died_while_it_made_one_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "db"
    path.touch()
    told: list[str] = []
    now = opened(path, told)
    assert now.is_new
    assert not told
    now.connection.close()


def test_a_lock_of_another_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "db"
    filled(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(PlugmeterError, match="locked") as refused:
        opened(path)
    assert "\n" not in str(refused.value)
    other.close()
    assert [each.name for each in tmp_path.glob("*corrupt*")] == []


def test_a_missing_permission_is_no_damage() -> None:
    def body(folder: Path) -> tuple[str, list[str]]:
        path = folder / "state" / "db"
        filled(path)
        path.chmod(0o400)
        path.parent.chmod(0o500)
        try:
            opened(path)
        except PlugmeterError as refused:
            return str(refused), [each.name for each in path.parent.iterdir()]
        finally:
            path.parent.chmod(0o700)
        return "opened", []

    said, there = as_ordinary_user(body)
    assert "read-only" in said or "permission" in said
    assert "\n" not in said
    assert there == ["db"]


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(PlugmeterError) as refused:
            make_directory(place)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("code", "damage"),
    [
        (sqlite3.SQLITE_CORRUPT, True),
        (sqlite3.SQLITE_CORRUPT_INDEX, True),
        (sqlite3.SQLITE_NOTADB, True),
        (sqlite3.SQLITE_FULL, False),
        (sqlite3.SQLITE_IOERR_FSYNC, False),
        (sqlite3.SQLITE_IOERR_SHORT_READ, False),
        (sqlite3.SQLITE_IOERR_CORRUPTFS, False),
        (sqlite3.SQLITE_BUSY, False),
        (sqlite3.SQLITE_READONLY_DBMOVED, False),
        (sqlite3.SQLITE_CANTOPEN, False),
        (sqlite3.SQLITE_NOMEM, False),
    ],
)
def test_what_is_damage(code: int, damage: bool) -> None:
    error = sqlite3.OperationalError("what\nSQLite says")
    error.sqlite_errorcode = code
    assert is_damage(error) is damage
    assert "\n" not in in_words(error)


def test_text_that_is_none_is_damage(tmp_path: Path) -> None:
    connection = sqlite3.connect(":memory:")
    with pytest.raises(sqlite3.OperationalError) as refused:
        connection.execute("SELECT CAST(x'ff' AS TEXT)").fetchone()
    connection.close()
    assert is_damage(refused.value)


def test_a_second_one_is_refused_by_name(tmp_path: Path) -> None:
    lock = StateLock(tmp_path)
    with pytest.raises(PlugmeterError) as refused:
        StateLock(tmp_path)
    assert str(refused.value).startswith(f"another plugmeter (pid {os.getpid()}) uses {tmp_path}")
    lock.close()
    lock.close()
    StateLock(tmp_path).close()


def test_the_lock_ends_with_its_process(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from plugmeter.telemetry.lock import StateLock;"
        "lock = StateLock(pathlib.Path(sys.argv[1])); print(flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert child.stdout is not None
    child.stdout.readline()
    with pytest.raises(PlugmeterError, match=f"pid {child.pid}"):
        StateLock(tmp_path)
    child.kill()
    child.communicate()
    StateLock(tmp_path).close()
