"""Bringing a PostgreSQL catalog's tables up to date, and finding out whether they are.

One run is one transaction under an advisory lock, so several that start at once take turns and a crash leaves the
tables as they were. The role that runs the server needs no right to make tables: it reads their revision, no more.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import asyncpg
from sqlalchemy import NullPool
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from storage.catalog.address import CatalogError
from storage.catalog.migration import advice, upgrade
from storage.catalog.postgres_connection import DRIVER_ERRORS, connect, reason

_LOCK = 0x64726F706F6666  # "dropoff"; advisory locks are per database
_LOCK_SECONDS = 60


def migrate_postgres(url: URL, *, dry_run: bool = False) -> list[str]:
    """Make or update the tables; return the revisions applied. A dry run undoes them.

    Raises:
        CatalogError: It cannot be done; the text says why.
    """
    # In a thread, so that whoever calls this may have an event loop of its own.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, _migrate(url, dry_run=dry_run)).result()


async def _migrate(url: URL, *, dry_run: bool) -> list[str]:
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: connect(url), poolclass=NullPool, hide_parameters=True
    )
    try:
        async with engine.connect() as connection, connection.begin() as transaction:
            await connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'")
            await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
            applied = await connection.run_sync(upgrade)
            if dry_run:
                await transaction.rollback()
            return applied
    except (*DRIVER_ERRORS, SQLAlchemyError) as error:
        raise CatalogError(f"cannot migrate the catalog in {place(url)}: {reason(error)}") from error


async def check_postgres(url: URL) -> None:
    """Refuse a database that cannot be reached or whose tables are not this program's.

    Raises:
        CatalogError: With the advice to migrate, or to update the program.
    """
    try:
        connection = await connect(url)
        try:
            rows = await connection.fetch("SELECT version_num FROM alembic_version")
        except asyncpg.UndefinedTableError:
            rows = []
        finally:
            await connection.close()
    except DRIVER_ERRORS as error:
        raise CatalogError(f"cannot open the catalog in {place(url)}: {reason(error)}") from error
    advised = advice(rows[0]["version_num"] if rows else None)
    if advised is not None:
        raise CatalogError(f"{place(url)}: {advised}")


def place(url: URL) -> str:
    """Name a database for a message: its name and host, nothing else of the URL."""
    host = url.query.get("host") or url.host
    return f"PostgreSQL's {url.database}" + (f" on {host}" if host else "")
