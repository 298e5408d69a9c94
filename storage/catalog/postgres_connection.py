"""Connecting by asyncpg, and a sentence for each of its errors, without statements, values or its own text."""

import getpass
import os
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path

import asyncpg
from asyncpg import compat, connect_utils
from sqlalchemy.engine import URL

CONNECT_SECONDS = 3


class OptionError(Exception):
    """An option of the catalog's URL, or its variable, cannot be used; the text says why and repeats no secret."""


DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, OptionError)
"""The errors of a connection when the database does not do its work."""
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (asyncpg.InvalidAuthorizationSpecificationError, "it refuses the user or the password"),
    (asyncpg.InvalidCatalogNameError, "it has no database of this name; make it with createdb"),
    (asyncpg.InsufficientPrivilegeError, "the user may not do that; migrate as the owner, and grant to the others"),
    (asyncpg.TooManyConnectionsError, "it has no connection left; raise max_connections"),
    (asyncpg.CannotConnectNowError, "it is starting or stopping; try again shortly"),
    (asyncpg.LockNotAvailableError, "another migration is running; try again when it is done"),
    (
        asyncpg.ClientConfigurationError,
        "an option of the URL or a variable PG… is not understood, or sslmode asks for sslrootcert",
    ),
    (FileNotFoundError, "there is no socket at this place; is it running?"),
    (PermissionError, "this process may not open its socket; give its user the right to the socket's folder"),
    (ConnectionRefusedError, "nothing listens there; is it running?"),
    (TimeoutError, "it does not answer in time"),
    (
        ssl.SSLCertVerificationError,
        "sslrootcert does not vouch for its certificate, or the certificate has another name",
    ),
    (ssl.SSLError, "TLS with it fails; look at sslmode, sslrootcert, sslcert and sslkey"),
    (socket.gaierror, "its host name is not known"),
    (ConnectionError, "it ended the connection, or does not offer the TLS that sslmode asks for"),
)


_FILES = {
    "passfile": "PGPASSFILE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslcrl": "PGSSLCRL",
}
"""Options that name files, and the variables that may do so instead."""


def reason(error: BaseException) -> str:
    """Say in a few words what is in the way."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OptionError):
            return str(cause)
        for kind, words in _REASONS:
            if isinstance(cause, kind):
                return words
        state = getattr(cause, "sqlstate", None)
        if isinstance(cause, asyncpg.PostgresError) and state:
            return f"{type(cause).__name__} ({state})"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__
    return type(error).__name__


def _no_home(*_name: str) -> None:
    """Return no folder, as for a user without a home."""


# The driver looks for these files below HOME as well, fails where it may not, and has no option against that.
connect_utils._dot_postgresql_path = compat.get_pg_home_directory = _no_home  # noqa: SLF001 - see above


async def connect(url: URL, seconds: int = CONNECT_SECONDS, **settings: str) -> asyncpg.Connection:
    """Open a connection. The session's `settings` are PostgreSQL's own.

    Raises:
        DRIVER_ERRORS: It cannot be opened.
    """
    query = {name: str(value) for name, value in url.query.items()}
    host, port = query.pop("host", url.host), query.pop("port", url.port)
    _check_files(query)
    try:
        return await asyncpg.connect(
            URL.create("postgresql", query=query).render_as_string(),
            host=host,
            port=None if port is None else int(port),
            user=url.username or _user(),
            password=url.password,
            database=url.database,
            timeout=seconds,
            server_settings={"application_name": "dropoff-tus", **settings},
        )
    except (ValueError, OverflowError) as error:
        if isinstance(error, DRIVER_ERRORS):
            raise
        raise OptionError("the name of its host, an option of the URL or a variable PG… is not understood") from error


def _check_files(query: Mapping[str, str]) -> None:
    """Refuse files that are named and cannot be used: the driver calls it something else, or goes on without them."""
    for option, variable in _FILES.items():
        name, path = (option, query[option]) if option in query else (variable, os.environ.get(variable))
        if not path:
            continue
        try:
            with Path(path).open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
        except OSError as error:
            raise OptionError(f"the file that {name} names cannot be read: {error.strerror}") from error
        if option == "passfile" and mode & 0o077:
            raise OptionError(f"others may read the file that {name} names, so it is not used; chmod 600 it")


def _user() -> str:
    try:
        return os.environ.get("PGUSER") or getpass.getuser()
    except (KeyError, OSError) as error:
        message = f"the catalog's URL names no user, and user id {os.getuid()} has no name; write postgresql://USER@…"
        raise OptionError(message) from error
