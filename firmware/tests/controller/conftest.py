"""Databases for the controller's tests: SQLite files, and one PostgreSQL server for all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from plugmeter.controller.store import Store, open_store
from tests.controller.postgres import Postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The name of an empty database, of each kind."""
    if request.param == "sqlite":
        return str(tmp_path / "controller.db")
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    """An open store, of each kind."""
    opened = open_store(database)
    yield opened
    opened.close()
