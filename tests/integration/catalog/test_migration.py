"""Making and updating the tables: once, by one process, and never half."""

import asyncio
import contextlib
import re
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

import storage.catalog
from storage.catalog import CatalogError, check_url, migrate, open_catalog
from storage.catalog.schema import REVISION, metadata
from storage.catalog.sqlite import connect
from tests.integration.catalog.harness import make_dropoff
from tests.support.aio import async_test

_REVISIONS = [f"{number:04}" for number in range(1, int(REVISION) + 1)]


def _tables(path: Path) -> set[str]:
    """Return how every table and index was made, less white space and Alembic's own."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL AND name NOT LIKE 'alembic%'")
        return {re.sub(r"\s+", " ", row[0]) for row in rows.fetchall()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a catalog could be."""
    return tmp_path / "catalog.sqlite3"


def _open_fails(path: Path, why: str) -> None:
    async def attempt() -> None:
        async with open_catalog(f"sqlite:///{path}"):
            pass

    with pytest.raises(CatalogError, match=why):
        asyncio.run(attempt())


def _set_revision(path: Path, revision: str) -> None:
    with contextlib.closing(connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))


def test_migrate_from_nothing_makes_the_tables_of_the_schema(path: Path, tmp_path: Path) -> None:
    """The migrations lead to the tables that the statements are written for, to the letter."""
    migrate(f"sqlite:///{path}")
    wanted = tmp_path / "wanted.sqlite3"
    engine = create_engine(f"sqlite:///{wanted}")
    metadata.create_all(engine)
    engine.dispose()
    assert _tables(path) == _tables(wanted)
    assert len(_tables(path)) == 17


def test_migrate_again_applies_nothing(path: Path) -> None:
    """Repeating it is harmless."""
    assert migrate(f"sqlite:///{path}") == _REVISIONS
    before = path.read_bytes()
    assert migrate(f"sqlite:///{path}") == []
    assert path.read_bytes() == before


def test_dry_run_says_what_would_be_applied_and_changes_nothing(path: Path) -> None:
    """Not even a file is made; with tables of this version there is nothing to apply."""
    url = f"sqlite:///{path}"
    assert migrate(url, dry_run=True) == _REVISIONS
    assert not path.exists()
    sqlite3.connect(path).close()
    assert migrate(url, dry_run=True) == _REVISIONS
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == []
    assert migrate(url) == _REVISIONS
    assert migrate(url, dry_run=True) == []


def test_revision_is_the_newest_script() -> None:
    """The constant that opening compares with is not forgotten when a migration is added."""
    config = Config()
    config.set_main_option("script_location", str(Path(storage.catalog.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [REVISION]


def test_migrate_makes_the_file_for_the_owner_alone(path: Path) -> None:
    """The umask has no say."""
    migrate(f"sqlite:///{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_migrate_from_several_processes_at_once_applies_once(path: Path) -> None:
    """One does it, the others find it done."""
    program = "import sys; from storage.catalog import migrate; print(migrate(sys.argv[1]))"
    processes = [
        subprocess.Popen([sys.executable, "-c", program, f"sqlite:///{path}"], stdout=subprocess.PIPE) for _ in range(4)
    ]
    said = sorted(process.communicate()[0].decode().strip() for process in processes)
    assert [process.returncode for process in processes] == [0, 0, 0, 0]
    assert said == [str(_REVISIONS), "[]", "[]", "[]"]


def test_migrate_that_fails_halfway_leaves_nothing(path: Path) -> None:
    """A table in the way of the third statement undoes the first two."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE catalog_state (strange INTEGER)")
    with pytest.raises(CatalogError, match="cannot migrate"):
        migrate(f"sqlite:///{path}")
    assert _tables(path) == {"CREATE TABLE catalog_state (strange INTEGER)"}


@async_test
async def test_migrate_beside_an_open_catalog_harms_nothing(path: Path) -> None:
    """An operator may run it while the server runs."""
    url = f"sqlite:///{path}"
    migrate(url)
    async with open_catalog(url) as catalog:
        await catalog.add_dropoff(make_dropoff())
        assert migrate(url) == []
        await catalog.add_dropoff(make_dropoff())
        assert len(await catalog.dropoffs()) == 2


def test_open_of_an_empty_database_says_to_migrate(path: Path) -> None:
    """No tables, no guess."""
    path.touch()
    _open_fails(path, "run `dropoff-tus migrate`")


def test_open_of_an_older_database_says_to_migrate(path: Path) -> None:
    """Old tables are not written to."""
    migrate(f"sqlite:///{path}")
    _set_revision(path, "0000")
    _open_fails(path, "run `dropoff-tus migrate`")


def test_open_and_migrate_of_a_newer_database_say_so(path: Path) -> None:
    """An old program never touches new tables."""
    migrate(f"sqlite:///{path}")
    _set_revision(path, "9999")
    _open_fails(path, "newer version")
    with pytest.raises(CatalogError, match="newer version"):
        migrate(f"sqlite:///{path}")


def test_open_of_what_is_no_database_says_so(path: Path) -> None:
    """A file of another kind is refused in a sentence."""
    path.write_bytes(b"no database at all" * 1000)
    _open_fails(path, "not a database")
    with pytest.raises(CatalogError, match="not a database"):
        migrate(f"sqlite:///{path}")


def test_migrate_without_a_folder_says_so(tmp_path: Path) -> None:
    """A missing folder is reported, not made: it may be a disk that is not there."""
    with pytest.raises(CatalogError, match="No such file or directory"):
        migrate(f"sqlite:///{tmp_path}/missing/catalog.sqlite3")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////var/lib/catalog.sqlite3",
        "sqlite:///catalog.sqlite3",
        "sqlite:///a%20b/c.sqlite3",
        "postgresql://user@host/db",
        "postgresql://user:p#ss/w%40rd@[::1]:5433/db?sslmode=verify-full&sslrootcert=/etc/ca.pem",
        "postgresql://user@/db?host=/run/postgresql&port=5433",
        "postgresql:///db",
    ],
)
def test_check_url_accepts(url: str) -> None:
    """Absolute and relative paths are fine, and a server or the folder of its socket."""
    assert check_url(url) is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "catalog.sqlite3",
        "/var/lib/catalog.sqlite3",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///file:catalog.sqlite3",
        "sqlite://folder/catalog.sqlite3",
        "sqlite:///catalog.sqlite3?mode=ro",
        "sqlite+aiosqlite:///catalog.sqlite3",
        "mysql://root:hunter2@host/db",
        "postgresql://host:port/db",
        "postgres://user@host/db",
        "postgresql+asyncpg://user@host/db",
        "postgresql://user:hunter2@host",
        "postgresql://user:hunter2@host/",
        "postgresql://user:hunter2@host/db?hots=/run",
        "postgresql://user:hunter2@host/db?password=hunter2",
        "postgresql://user:hunter2@host/db?host=/run",
        "postgresql://user@/db?host=/run&host=/run",
        "postgresql://user:hunter2@host/db/more",
        "postgresql://user:hunter2@host:5432/db?port=5433",
        "postgresql://user:hunter2@host/db?port=many",
        "postgresql://user:hunter2@host/db?port=65536",
        "postgresql://user:hunter2@host:99999/db",
        "postgresql://user:hunter2@host:0/db",
        "postgresql://user:hunter2@host/db?sslmode=yes",
    ],
)
def test_check_url_refuses_and_repeats_nothing(url: str) -> None:
    """The report of any mistake holds no password."""
    said = check_url(url)
    assert said is not None
    assert "hunter2" not in said
    with pytest.raises(CatalogError, match=r"catalog\.url"):
        migrate(url)
