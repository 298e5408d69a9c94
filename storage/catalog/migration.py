"""Bringing the tables up to date, and finding out whether they are.

One run is one transaction under a lock, so two processes that start at once do not collide and a crash leaves the
tables as they were. There is no way back to older tables: that is what a backup is for.
"""

import contextlib
import os
import sqlite3
from collections.abc import Generator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, NullPool, create_engine
from sqlalchemy.exc import SQLAlchemyError

from storage.catalog.address import CatalogError
from storage.catalog.schema import REVISION
from storage.catalog.sqlite import connect, why_not_written
from storage.files.locks import lock, open_folder

_SCRIPTS = Path(__file__).parent / "migrations"
_NEWER = "the catalog's tables were made by a newer version; install that one (`dropoff-tus migrate` cannot go back)"


def migrate_sqlite(path: Path, *, dry_run: bool = False) -> list[str]:
    """Make or update a database file, only for its owner; return the revisions applied. A dry run undoes them.

    Raises:
        CatalogError: Its folder is missing, the file is no database of ours, or it is newer than this program.
    """
    try:
        with _folder_locked(path.parent):
            there = path.exists()
            if not there and not dry_run:
                # SQLite gives its -wal and -shm files the mode of this one. Never opened when it exists: closing
                # any descriptor of a file takes away the locks that SQLite in this process has on it.
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            engine = create_engine(
                "sqlite://",
                creator=lambda: connect(path) if there or not dry_run else sqlite3.connect(":memory:"),
                poolclass=NullPool,
                hide_parameters=True,
            )
            with engine.connect() as connection:
                return _migrate_sqlite(connection, dry_run=dry_run)
    except (OSError, sqlite3.Error, SQLAlchemyError) as error:
        raise CatalogError(f"cannot migrate the catalog {path}: {reason(error, path)}") from error


def _migrate_sqlite(connection: Connection, *, dry_run: bool) -> list[str]:
    # Replacing a table would drop rows that refer to the old one; checked as a whole instead, before the commit.
    connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        applied = upgrade(connection)
        _check_references(connection)
    except BaseException:
        # A full disk, for instance, has undone everything already; report that.
        with contextlib.suppress(SQLAlchemyError):
            connection.exec_driver_sql("ROLLBACK")
        raise
    connection.exec_driver_sql("ROLLBACK" if dry_run else "COMMIT")
    return applied


def _check_references(connection: Connection) -> None:
    if connection.exec_driver_sql("PRAGMA foreign_key_check").all():
        raise CatalogError("cannot migrate the catalog: rows would refer to others that do not exist")


def upgrade(connection: Connection) -> list[str]:
    """Run what is missing inside the connection's transaction; return the revisions applied.

    Raises:
        CatalogError: The tables are newer than this program.
    """
    # Here, since every command opens the catalog and hardly any migrates it: Alembic takes a quarter of a second.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    applied: list[str] = []

    def note(*, step: Any, **_rest: object) -> None:  # noqa: ANN401 - Alembic's MigrationInfo
        applied.append(step.up_revision_id)

    config = Config(attributes={"connection": connection, "on_version_apply": note})
    # Alembic reads % in an option as the start of a variable.
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise CatalogError(_NEWER) from error  # it only ever fails to find the revision that the tables are of
    return applied


@contextlib.contextmanager
def _folder_locked(folder: Path) -> Generator[None]:
    """Hold other migrations off; the lock is on the folder, so no file is left behind."""
    descriptor = open_folder(folder)
    try:
        lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def check_sqlite(path: Path) -> None:
    """Refuse a database that is not there or not of this program's version.

    Raises:
        CatalogError: With the advice to migrate, or to update the program.
    """
    if not path.exists():
        raise CatalogError(f"there is no catalog at {path}; run `dropoff-tus migrate`")
    try:
        with contextlib.closing(connect(path)) as connection:
            found = connection.execute("SELECT name FROM sqlite_master WHERE name = 'alembic_version'").fetchall()
            rows = connection.execute("SELECT version_num FROM alembic_version").fetchall() if found else []
    except sqlite3.Error as error:
        raise CatalogError(f"cannot open the catalog {path}: {reason(error, path)}") from error
    advised = advice(rows[0]["version_num"] if rows else None)
    if advised is not None:
        raise CatalogError(f"{path}: {advised}")


def advice(revision: str | None) -> str | None:
    """Say what to do about tables of a revision; None if they are this program's."""
    if revision == REVISION:
        return None
    if revision is None or revision < REVISION:
        return "the catalog's tables are not up to date; run `dropoff-tus migrate`"
    return _NEWER


def reason(error: Exception, path: Path) -> str:
    """Say in a few words what a database or the system complains of, without statements or values."""
    original = getattr(error, "orig", None) or error
    if isinstance(original, OSError):
        return original.strerror or type(original).__name__
    if not isinstance(original, sqlite3.Error):
        return type(original).__name__
    cause = why_not_written(original, path)
    return str(original) if cause is None else f"{original} ({cause.filename}: {cause.strerror})"
