"""The catalog: drop-offs and uploads in a database. `open_catalog` opens it, `migrate` makes or updates its tables."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncGenerator
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from storage.catalog.catalog import SqlCatalog
from storage.catalog.errors import CatalogError
from storage.catalog.migration import check_sqlite, migrate_sqlite, reason
from storage.catalog.sqlite import SqliteEngine

__all__ = ["CatalogError", "SqlCatalog", "check_url", "migrate", "open_catalog"]


def check_url(url: str) -> str | None:
    """Say what is wrong with a catalog URL, or None. Looks at the text alone and never repeats it."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return "is not a URL; write for instance sqlite:////var/lib/dropoff-tus/catalog.sqlite3"
    if parsed.drivername != "sqlite":
        return "names a database that is not supported; write sqlite:///PATH"
    if not parsed.database or parsed.database == ":memory:" or parsed.database.startswith("file:"):
        return "names no file; write for instance sqlite:////var/lib/dropoff-tus/catalog.sqlite3"
    if parsed.host or parsed.query:
        return "has more than a path; write sqlite:///PATH (three slashes, four before an absolute path)"
    return None


def migrate(url: str) -> list[str]:
    """Make the tables or bring them up to date; return the revisions applied, none if they were.

    Safe beside a running server, from several processes at once, and again.

    Raises:
        CatalogError: It cannot be done; the text says why.
    """
    return migrate_sqlite(_file(_parsed(url)))


@contextlib.asynccontextmanager
async def open_catalog(url: str) -> AsyncGenerator[SqlCatalog]:
    """Open a catalog whose tables are this program's; on leaving, what is queued is done first.

    Raises:
        CatalogError: It cannot be opened, or `dropoff-tus migrate` has to be run.
    """
    path = _file(_parsed(url))
    await asyncio.to_thread(check_sqlite, path)
    try:
        engine = SqliteEngine(path)
    except sqlite3.Error as error:
        raise CatalogError(f"cannot open the catalog {path}: {reason(error)}") from error
    try:
        yield SqlCatalog(engine)
    finally:
        await engine.close()


def _parsed(url: str) -> URL:
    wrong = check_url(url)
    if wrong is not None:
        raise CatalogError(f"catalog.url {wrong}")
    return make_url(url)


def _file(url: URL) -> Path:
    return Path(url.database or "")
