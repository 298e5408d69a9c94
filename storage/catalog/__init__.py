"""The catalog: drop-offs and uploads in a database. `open_catalog` opens it, `migrate` makes or updates its tables."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncGenerator
from pathlib import Path

from sqlalchemy.engine import URL

from dropoff_tus.outbox import Sinks
from storage.catalog.address import CatalogError, check_url, parse_url, sqlite_file
from storage.catalog.audit import SqlAudit
from storage.catalog.dropoffs import SqlDropoffs, SqlNotes
from storage.catalog.migration import check_sqlite, migrate_sqlite, reason
from storage.catalog.outbox import SqlOutbox
from storage.catalog.sqlite import SqliteEngine
from storage.catalog.tokens import SqlTokens
from storage.catalog.transaction import Engine
from storage.catalog.uploads import SqlUploads

__all__ = ["CatalogError", "SqlCatalog", "catalog_file", "check_url", "migrate", "open_catalog", "open_engine"]


class SqlCatalog(SqlUploads, SqlDropoffs, SqlTokens, SqlAudit, SqlNotes):
    """Implements `ports.catalog.Catalog` on any database; `outbox` has the events."""

    def __init__(self, engine: Engine, sinks: Sinks | None = None) -> None:
        """Take the database, and the receivers of events."""
        super().__init__(engine, sinks)
        self.outbox = SqlOutbox(engine)


# asyncpg and what belongs to it are imported where they are needed: a command on SQLite starts without them.


def catalog_file(url: str) -> Path | None:
    """Return the file that a catalog is in; None if it is a server's.

    Raises:
        CatalogError: The URL is wrong.
    """
    parsed = parse_url(url)
    return sqlite_file(parsed) if parsed.drivername == "sqlite" else None


def migrate(url: str, *, dry_run: bool = False) -> list[str]:
    """Make the tables or bring them up to date; return the revisions applied, none if they were.

    Safe beside a running server, from several processes at once, and again. A dry run does all of it on the real rows,
    in a transaction that is undone.

    Raises:
        CatalogError: It cannot be done; the text says why.
    """
    parsed = parse_url(url)
    if parsed.drivername == "sqlite":
        return migrate_sqlite(sqlite_file(parsed), dry_run=dry_run)
    from storage.catalog.postgres_migration import migrate_postgres  # noqa: PLC0415 - see above

    return migrate_postgres(parsed, dry_run=dry_run)


@contextlib.asynccontextmanager
async def open_catalog(url: str, *, durable: bool = True, sinks: Sinks | None = None) -> AsyncGenerator[SqlCatalog]:
    """Open a catalog whose tables are this program's; on leaving, what is queued is done first.

    Args:
        url: Where it is.
        durable: Whether an answer has to survive a power cut. A crash of the process never loses one.
        sinks: The receivers of events; rows for them are written with each change.

    Raises:
        CatalogError: It cannot be opened, or `dropoff-tus migrate` has to be run.
    """
    async with open_engine(url, durable=durable) as engine:
        yield SqlCatalog(engine, sinks)


@contextlib.asynccontextmanager
async def open_engine(url: str, *, durable: bool = True) -> AsyncGenerator[Engine]:
    """Open what runs a catalog's operations. Args and errors: as `open_catalog`."""
    parsed = parse_url(url)
    engine = await (_open_sqlite if parsed.drivername == "sqlite" else _open_postgres)(parsed, durable)
    try:
        yield engine
    finally:
        await engine.close()


async def _open_sqlite(url: URL, durable: bool) -> Engine:  # noqa: FBT001 - handed on
    path = sqlite_file(url)
    await asyncio.to_thread(check_sqlite, path)
    try:
        return SqliteEngine(path, durable=durable)
    except sqlite3.Error as error:
        raise CatalogError(f"cannot open the catalog {path}: {reason(error, path)}") from error


async def _open_postgres(url: URL, durable: bool) -> Engine:  # noqa: FBT001 - handed on
    from storage.catalog.postgres import PostgresEngine  # noqa: PLC0415 - see above
    from storage.catalog.postgres_migration import check_postgres  # noqa: PLC0415 - see above

    await check_postgres(url)
    return await PostgresEngine.open(url, durable=durable)
