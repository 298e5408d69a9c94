"""The catalog: drop-offs and uploads in a database, SQLite by default.

Open it with `open_catalog`, bring its tables up to date with `migrate`.
"""

import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from pathlib import Path

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from storage.catalog.sqlite import SqliteCatalog, make_engine

_MIGRATIONS = Path(__file__).parent / "migrations"


class CatalogError(Exception):
    """The catalog cannot be opened or migrated; the text says what to do."""


def check_url(url: str) -> str | None:
    """Say what is wrong with a catalog URL, or None."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        return "is not a URL; write e.g. sqlite:////var/lib/dropoff-tus/catalog.sqlite3"
    if parsed.get_backend_name() != "sqlite":
        return "names a database that is not supported yet; write sqlite:///PATH"
    if not parsed.database:
        return "names no file; write sqlite:///PATH"
    return None


def migrate(url: str) -> list[str]:
    """Bring the tables up to date, under a lock; returns the revisions applied.

    Raises:
        CatalogError: The database cannot be opened, or is newer than this program.
    """
    path = _path(url)
    try:
        lock = os.open(path.with_name(path.name + ".migrate"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        message = f"cannot write in {path.parent}: {error.strerror}"
        raise CatalogError(message) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        return _upgrade(url)
    except (OSError, SQLAlchemyError) as error:
        message = f"cannot migrate {path}: {type(error).__name__}"
        raise CatalogError(message) from error
    finally:
        os.close(lock)


@contextlib.asynccontextmanager
async def open_catalog(url: str) -> AsyncIterator[SqliteCatalog]:
    """Open a migrated catalog.

    Raises:
        CatalogError: It is not there, or its tables are not this program's; run `dropoff-tus migrate`.
    """
    path = _path(url)
    if not path.exists():
        message = f"there is no catalog at {path}; run `dropoff-tus migrate`"
        raise CatalogError(message)
    have, head = _revision(url), _script().get_current_head()
    if have != head:
        known = {revision.revision for revision in _script().walk_revisions()}
        newer = have is not None and have not in known
        advice = (
            "was made by a newer version; update this program"
            if newer
            else "is not up to date; run `dropoff-tus migrate`"
        )
        message = f"the catalog at {path} {advice}"
        raise CatalogError(message)
    catalog = SqliteCatalog(url)
    try:
        yield catalog
    finally:
        await catalog.close()


def _path(url: str) -> Path:
    wrong = check_url(url)
    if wrong is not None:
        message = f"catalog.url {wrong}"
        raise CatalogError(message)
    return Path(str(make_url(url).database))


def _script() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return ScriptDirectory.from_config(config)


def _revision(url: str) -> str | None:
    engine = make_engine(url)
    try:
        with engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    except SQLAlchemyError as error:
        message = f"cannot open the catalog at {make_url(url).database}: {type(error).__name__}"
        raise CatalogError(message) from error
    finally:
        engine.dispose()


def _upgrade(url: str) -> list[str]:
    script = _script()
    applied: list[str] = []
    engine = make_engine(url)

    def steps(revision: str | tuple[str, ...], _context: object) -> list[object]:
        found = list(script._upgrade_revs("head", revision))  # type: ignore[arg-type]  # noqa: SLF001 - what alembic's own command uses
        applied.extend(step.revision.revision for step in found)
        return list(found)

    try:
        with engine.begin() as connection:
            context = MigrationContext.configure(connection, opts={"fn": steps, "transactional_ddl": True})
            from alembic.operations import Operations  # noqa: PLC0415 - only here

            with Operations.context(context):
                context.run_migrations()
    finally:
        engine.dispose()
    return applied
