"""PostgreSQL: each operation is a transaction on a connection of asyncpg's pools, and locks its drop-off's row first.

So what an operation reads of a drop-off and its uploads stays so until it commits, and quotas are exact, however many
processes write. Isolation is READ COMMITTED: each statement sees what the last holder of the lock left. Behind
that lock no other is asked for, and whoever changes drop-offs locks the version before, so nobody waits in a circle.

Writers also share an advisory lock, from BEGIN to COMMIT. `settled` takes it for itself: it waits for those
that are in the middle of a transaction, and those that come meanwhile wait for it.

Should the database undo a transaction, or lose the connection before COMMIT was sent, it is repeated. A call ends in
bounded time, whatever the database does: a connection that does not answer is cut, and its neighbours are
replaced. Connections are made when they are needed, so when the database is back nothing has to be restarted.
"""

import asyncio
import contextlib
import functools
import logging
import random
from collections.abc import Callable, Sequence
from typing import Self, TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.engine import URL
from sqlalchemy.util import await_, greenlet_spawn

from dropoff_tus.errors import CatalogFullError, CatalogUnavailableError
from storage.catalog.postgres_connection import CONNECT_SECONDS, DRIVER_ERRORS, connect, reason
from storage.catalog.rows import Row
from storage.catalog.transaction import Statement, Transaction

T = TypeVar("T")

_log = logging.getLogger(__name__)
_DIALECT = PGDialect_asyncpg()  # type: ignore[no-untyped-call]

CALL_SECONDS = 5.0
"""How long a call may take, with its wait for a connection, before the catalog counts as unavailable."""
LIST_SECONDS = 60.0
"""The same for the questions that may touch many rows."""
LOCK_SECONDS = 4.0
"""How long a transaction may wait for another's lock: less than a call, so that PostgreSQL ends it and not we."""
_SETTLE_SECONDS = 1.0
"""The same for `settled`, behind which all others wait."""
_CLOSE_SECONDS = 2.0
_ATTEMPTS = 5
_PAUSE_SECONDS = 0.02
WRITERS, READERS, LISTERS = 16, 4, 2
"""Connections of a process at most; apart, so that no crowd delays the check of a code."""
_WRITING = 0x6175646974
_WRITE = f"BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock_shared({_WRITING})"
_SETTLE = f"BEGIN; SET LOCAL lock_timeout = '{_SETTLE_SECONDS:g}s'; SELECT pg_advisory_xact_lock({_WRITING})"

_UNDONE = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.InvalidCachedStatementError,  # the tables were migrated meanwhile
    asyncpg.UniqueViolationError,  # somebody was faster: the next time it is found
)
"""The database undid the transaction, and it may succeed when it is repeated."""


class _CommitError(Exception):
    """COMMIT was sent and its answer is missing, or is no: whether it happened only the database knows."""


_UNUSABLE = (
    asyncpg.ReadOnlySQLTransactionError,  # begun at a standby, or while nothing was to be written
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    _CommitError,
    asyncio.CancelledError,  # it may have gone silent
)
"""After these a connection is not used again."""


def unavailable(error: Exception) -> CatalogUnavailableError:
    """Make the refusal for a database that does not answer, the original chained; its text is for nobody's log."""
    state = getattr(error, "sqlstate", None)
    _log.error("the catalog does not answer: %s", f"{type(error).__name__} {state}" if state else reason(error))
    refusal = CatalogUnavailableError("the catalog does not answer; try again shortly")
    if isinstance(error, asyncpg.DiskFullError):
        refusal = CatalogFullError("the disk is full, so the catalog cannot be written; try again shortly")
    refusal.__cause__ = error
    return refusal


@functools.lru_cache(maxsize=512)
def _compiled(statement: Statement) -> tuple[str, tuple[str, ...]]:
    """Return a statement's SQL with `$1` and so on, and the names of its values in their order."""
    done = statement.compile(dialect=_DIALECT)
    return str(done), tuple(done.positiontup or ())


class PostgresTransaction:
    """Implements `transaction.Transaction` in a greenlet, which waits where a statement is sent."""

    def __init__(self, connection: PoolConnectionProxy) -> None:
        self._connection = connection

    def rows(self, statement: Statement, **values: object) -> Sequence[Row]:
        """Run a statement and return its rows."""
        text, names = _compiled(statement)
        found: Sequence[Row] = await_(self._connection.fetch(text, *[values[name] for name in names]))
        return found

    def run(self, statement: Statement, **values: object) -> int:
        """Run a statement and return how many rows it changed."""
        text, names = _compiled(statement)
        status: str = await_(self._connection.execute(text, *[values[name] for name in names]))
        return int(status.rpartition(" ")[2])


class PostgresEngine:
    """Implements `transaction.Engine`. Pools: of connections that write, that answer, and that answer lists."""

    def __init__(self, *pools: asyncpg.Pool) -> None:
        self._pools = self._writers, self._readers, self._listers = pools
        self._closed, self._calls, self._ended = False, 0, asyncio.Event()

    @classmethod
    async def open(cls, url: URL, *, durable: bool = True) -> Self:
        """Connect to nothing yet. `durable`: answer after the database's sync, if that is how it is set up."""
        settings = {
            "lock_timeout": f"{LOCK_SECONDS:g}s",
            # Should this process stand still in the middle of a transaction, its locks are not held for long.
            "idle_in_transaction_session_timeout": f"{2 * CALL_SECONDS:g}s",
        }
        if not durable:
            settings["synchronous_commit"] = "off"

        async def make(*_arguments: object, **_options: object) -> asyncpg.Connection:
            return await connect(url, CONNECT_SECONDS, **settings)

        async def keep(_connection: asyncpg.Connection) -> None:
            """Reset nothing: the settings are the session's, and each transaction is ended."""

        sizes = (WRITERS, READERS, LISTERS)
        return cls(*[await asyncpg.create_pool(min_size=0, max_size=n, connect=make, reset=keep) for n in sizes])

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run an operation in a transaction."""
        return await self._call(self._writers, CALL_SECONDS, work, _WRITE)

    async def settled(self, work: Callable[[Transaction], T]) -> T:
        """Run a question when nobody is in the middle of a transaction that writes."""
        return await self._call(self._writers, CALL_SECONDS, work, _SETTLE)

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run a short question; of its statements only one matters, so it needs no transaction."""
        return await self._call(self._readers, CALL_SECONDS, work)

    async def read_many(self, work: Callable[[Transaction], T]) -> T:
        """Run a long question on a connection that `read` does not need."""
        return await self._call(self._listers, LIST_SECONDS, work)

    async def close(self) -> None:
        """Take nothing more; finish what was asked, each within its time, and close the connections."""
        self._closed = True
        while self._calls:
            self._ended.clear()
            await self._ended.wait()
        for pool in self._pools:
            with contextlib.suppress(*DRIVER_ERRORS):
                await asyncio.wait_for(pool.close(), _CLOSE_SECONDS)

    async def _call(
        self, pool: asyncpg.Pool, seconds: float, work: Callable[[Transaction], T], begin: str | None = None
    ) -> T:
        """Run an operation within its time.

        A caller cancelled before its turn has changed nothing; one cancelled later may have.
        """
        if self._closed:
            raise CatalogUnavailableError("the catalog is closed")
        self._calls += 1
        try:
            async with asyncio.timeout(seconds):
                return await _until_done(pool, work, begin)
        except asyncpg.IntegrityConstraintViolationError:
            raise  # this operation broke a constraint: a mistake of ours, and the database is well
        except (*DRIVER_ERRORS, _CommitError) as error:
            raise unavailable(error) from error
        finally:
            self._calls -= 1
            self._ended.set()


async def _until_done(pool: asyncpg.Pool, work: Callable[[Transaction], T], begin: str | None) -> T:
    """Run an operation, again if the database undid it or was gone before it mattered."""
    attempt = 0
    while True:
        attempt += 1
        async with pool.acquire() as connection:
            began = asyncio.get_running_loop().time()
            try:
                if begin is None:
                    return await greenlet_spawn(work, PostgresTransaction(connection))
                return await _transact(connection, work, begin)
            except BaseException as error:
                again = isinstance(error, _UNDONE) and attempt < _ATTEMPTS
                if isinstance(error, _UNUSABLE) or _is_closed(connection):
                    # A connection from before a restart of the database: a new one may do.
                    again = isinstance(error, DRIVER_ERRORS) and attempt == 1
                    with contextlib.suppress(asyncpg.InterfaceError):
                        connection.terminate()
                    if again or asyncio.get_running_loop().time() - began > CALL_SECONDS / 2:
                        await pool.expire_connections()  # those beside it may be as lost, or as silent
                if not again:
                    raise
        await asyncio.sleep(random.uniform(0, _PAUSE_SECONDS * 2**attempt))  # noqa: S311 - no secret


def _is_closed(connection: PoolConnectionProxy) -> bool:
    try:
        closed: bool = connection.is_closed()
    except asyncpg.InterfaceError:  # the pool has taken it back already
        return True
    return closed


async def _transact(connection: PoolConnectionProxy, work: Callable[[Transaction], T], begin: str) -> T:
    try:
        await connection.execute(begin)
        result = await greenlet_spawn(work, PostgresTransaction(connection))
    except Exception:
        if not connection.is_closed():
            await connection.execute("ROLLBACK")
        raise
    try:
        status = await connection.execute("COMMIT")
    except (asyncpg.IntegrityConstraintViolationError, *_UNDONE):
        raise
    except DRIVER_ERRORS as error:
        raise _CommitError from error
    if status != "COMMIT":
        raise _CommitError(status)
    return result
