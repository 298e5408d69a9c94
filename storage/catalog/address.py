"""The catalog's URL: its mistakes, and where it leads. No text made here repeats a URL, nor its password."""

import re
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from dropoff_tus.errors import ToldError

_SQLITE_EXAMPLE = "sqlite:////var/lib/dropoff-tus/catalog.sqlite3"
_POSTGRES_EXAMPLE = "postgresql://user@host/db, or postgresql://user@/db?host=/run/postgresql for a socket's folder"
_SSL_MODES = frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"})
_LAST_PORT = 65535
_POSTGRES_OPTIONS = frozenset({"host", "port", "passfile", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl"})


class CatalogError(ToldError):
    """The catalog cannot be opened or migrated; the text says what to do."""


def check_url(url: str) -> str | None:
    """Say what is wrong with a catalog URL, or None. Looks only at the text and never repeats it."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return f"is not a URL; write for instance {_SQLITE_EXAMPLE} or {_POSTGRES_EXAMPLE}"
    if parsed.drivername == "sqlite":
        return _check_sqlite(parsed)
    if parsed.drivername == "postgresql":
        return _check_postgres(parsed)
    return "names a database that is not supported; write sqlite:///PATH or postgresql://user@host/db"


def parse_url(url: str) -> URL:
    """Return a URL's parts; their repr hides the password.

    Raises:
        CatalogError: It is wrong; the text says how.
    """
    wrong = check_url(url)
    if wrong is not None:
        raise CatalogError(f"catalog.url {wrong}")
    return make_url(url)


def sqlite_file(url: URL) -> Path:
    """Return the path of an SQLite catalog."""
    return Path(url.database or "")


def _check_sqlite(url: URL) -> str | None:
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        return f"names no file; write for instance {_SQLITE_EXAMPLE}"
    if url.host or url.query:
        return "has more than a path; write sqlite:///PATH (three slashes, four before an absolute path)"
    return None


def _check_postgres(url: URL) -> str | None:
    port = str(url.query.get("port", "1" if url.port is None else url.port))
    refusals = {
        f"names no database; write {_POSTGRES_EXAMPLE}": not url.database,
        # A part that stands there twice, or holds an unescaped character, would lead somewhere else than it seems to.
        f"has something behind ? other than, each once, {', '.join(sorted(_POSTGRES_OPTIONS))}": (
            any(not isinstance(value, str) for value in url.query.values())
            or not _POSTGRES_OPTIONS.issuperset(url.query)
        ),
        "has a / or # behind the database's name; write %2F and %23 for those in a user's name or password": any(
            character in text for character in "/#" for text in (url.host or "", url.database or "")
        ),
        "names two hosts; write one, before the database's name or behind ?host=": (
            bool(url.host) and "host" in url.query
        ),
        "names two ports, or one that does not exist; write for instance postgresql://user@host:5432/db": (
            (url.port is not None and "port" in url.query)
            or not re.fullmatch("[0-9]{1,5}", port)
            or not 0 < int(port) <= _LAST_PORT
        ),
        f"has an sslmode that does not exist; write one of {', '.join(sorted(_SSL_MODES))}": (
            url.query.get("sslmode", "prefer") not in _SSL_MODES
        ),
    }
    return next((words for words, holds in refusals.items() if holds), None)
