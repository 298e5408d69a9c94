"""The databases under test: a fixture gives the URL of a new, migrated catalog on each of them."""

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.catalog import migrate
from tests.integration.catalog import harness
from tests.support.postgres import PostgresServer

SHARED = "shared"
RUNTIME = "dropoff_runtime"
"""A role that has the rights a running server needs, and no others: the whole suite runs as it."""

_names = itertools.count()


@pytest.fixture(autouse=True)
def _rows_of_their_own_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the rows of each test begin at the same time: thousands by others would pass its deadlines."""
    monkeypatch.setattr(harness, "seconds", itertools.count())


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a migrated SQLite catalog to copy: the migrations take longer than most of the tests."""
    path = tmp_path_factory.mktemp("migrated") / "catalog.sqlite3"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(migrated: Path, tmp_path: Path) -> str:
    """Return the URL of a migrated SQLite catalog in a folder of its own."""
    folder = tmp_path / "catalog"
    folder.mkdir()
    shutil.copy(migrated, folder)
    return f"sqlite:///{folder}/{migrated.name}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Run one PostgreSQL for the session, with one migrated database."""
    with PostgresServer() as server:
        server.sql(f"CREATE DATABASE {SHARED}")
        migrate(server.url(SHARED))
        server.sql(
            f"CREATE ROLE {RUNTIME} LOGIN; GRANT USAGE ON SCHEMA public TO {RUNTIME}; "
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {RUNTIME}; "
            f"REVOKE UPDATE, DELETE ON audit, checkpoints FROM {RUNTIME}",
            database=SHARED,
        )
        yield server


@pytest.fixture
def empty_database(postgres: PostgresServer) -> str:
    """Return the name of a new database without tables."""
    name = f"catalog_{next(_names)}"
    postgres.sql(f"CREATE DATABASE {name}")
    return name


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> str:
    """Return the URL of a migrated PostgreSQL catalog with nothing in it: one for all, since making one is slow."""
    # The version stays what it was, which no test may notice. The URL's role may change no table.
    tables = ("outbox", "uploads", "dropoffs", "api_tokens", "audit", "checkpoints")
    forget = "UPDATE runs SET ended_at = NULL, good_at = NULL, problems = 0"
    postgres.sql("; ".join([*(f"DELETE FROM {table}" for table in tables), forget]), database=SHARED)
    return postgres.url(SHARED, RUNTIME)


@pytest.fixture(params=["sqlite", "postgres"])
def catalog_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of a migrated catalog, once for each database."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def password_role(postgres: PostgresServer) -> Iterator[str]:
    """Return a role that has to give the password `hunter2`."""
    # The rules of the cluster speak of a database of this name, whatever the role.
    postgres.sql("CREATE DATABASE with_password")
    postgres.sql("CREATE ROLE visitor LOGIN SUPERUSER PASSWORD 'hunter2'")
    yield "visitor"
    postgres.sql("DROP DATABASE with_password")
    postgres.sql("DROP ROLE visitor")
