"""A copy of a catalog as it is at one moment, beside a running server, which it does not hold up."""

import contextlib
import os
import sqlite3
import subprocess
from pathlib import Path

from sqlalchemy.engine import URL

from storage.catalog.address import CatalogError, parse_url, sqlite_file
from storage.catalog.migration import reason
from storage.catalog.sqlite import connect

_OPTIONS = {
    "host": "PGHOST",
    "port": "PGPORT",
    "passfile": "PGPASSFILE",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslcrl": "PGSSLCRL",
}
"""The variables of PostgreSQL's programs for options of the URL."""


def snapshot_name(url: str) -> str:
    """Return the name of a catalog's copy in a backup: a database file, or what `pg_restore` reads."""
    return "catalog.sqlite3" if parse_url(url).drivername == "sqlite" else "catalog.pgdump"


def take_snapshot(url: str, target: Path) -> None:
    """Copy a catalog to a new file, only for its owner, and read the copy back. It is the caller's to make durable.

    Raises:
        CatalogError: It cannot be done; the text says why. The file may be there, and is of no use.
    """
    parsed = parse_url(url)
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    if parsed.drivername == "sqlite":
        _copy_sqlite(sqlite_file(parsed), target)
    else:
        _dump_postgres(parsed, target)


def _copy_sqlite(path: Path, target: Path) -> None:
    try:
        with (
            contextlib.closing(connect(path, mode="ro")) as source,
            contextlib.closing(sqlite3.connect(target, isolation_level=None)) as copy,
        ):
            source.backup(copy)
            # One file, whatever becomes of it: without a log beside it that could be left behind.
            copy.execute("PRAGMA journal_mode = DELETE").fetchall()
            ((found,),) = copy.execute("PRAGMA integrity_check(1)").fetchall()
    except (OSError, sqlite3.Error) as error:
        raise CatalogError(f"cannot copy the catalog {path}: {reason(error, target)}") from error
    if found != "ok":
        raise CatalogError(f"the catalog {path} is damaged ({found}); restore it from an earlier backup")


def _dump_postgres(url: URL, target: Path) -> None:
    told: dict[str, object] = {name: url.query.get(option) for option, name in _OPTIONS.items()}
    told["PGHOST"], told["PGPORT"] = url.host or told["PGHOST"], url.port or told["PGPORT"]
    told |= {"PGUSER": url.username, "PGPASSWORD": url.password, "PGDATABASE": url.database}
    # By the environment, since everybody on the machine can read a command line.
    variables = {**os.environ, **{name: str(value) for name, value in told.items() if value is not None}}
    for command in (
        ["pg_dump", "--format=custom", "--no-password", f"--file={target}"],
        ["pg_restore", f"--file={os.devnull}", str(target)],
    ):
        try:
            done = subprocess.run(command, env=variables, capture_output=True, check=False)  # noqa: S603 - no shell
        except FileNotFoundError:
            raise CatalogError(
                f"{command[0]} is not installed here, and only it copies a catalog in PostgreSQL: install Debian's "
                "postgresql-client, as new as the database, or back up by hand (docs/operate/backup.md). "
                "Nothing was copied"
            ) from None
        if done.returncode:
            said = (done.stderr.decode("utf-8", "replace").splitlines() or [f"exit code {done.returncode}"])[0]
            advice = "; grant its role SELECT on all tables and sequences" if "permission denied" in said else ""
            raise CatalogError(f"{command[0]} could not copy the catalog: {said}{advice}")
