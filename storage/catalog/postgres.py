"""PostgreSQL: each write a transaction of its own on one of a few connections, by asyncpg.

An operation is an ordinary function, as on SQLite; it runs in a greenlet, which waits where a statement is sent, so no
thread is needed. Statements are SQLAlchemy Core's, compiled once for the driver.

Locks. A transaction that counts locks the drop-off's row as it reads what it decides on, and everything else after it;
one that changes a drop-off locks the catalog's version before the row. So none wait in a circle. Isolation is READ
COMMITTED, and what is read behind the lock is what the last holder left. Should the database undo a transaction all the
same, or lose the connection before COMMIT was sent, it is repeated a few times.

A call ends in bounded time, whatever the database does: what does not answer has its connection cut. A connection is
made when it is needed, so when the database is back nothing has to be restarted.
"""

import asyncio
import functools
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.engine import URL
from sqlalchemy.util import await_, greenlet_spawn

from dropoff_tus.errors import CatalogUnavailableError
from storage.catalog.rows import Row
from storage.catalog.statements import Statement
from storage.catalog.transaction import Transaction

T = TypeVar("T")
_Work = Callable[[Transaction], Any]

_log = logging.getLogger(__name__)
_DIALECT = PGDialect_asyncpg()  # type: ignore[no-untyped-call]

CALL_SECONDS = 5.0
"""How long a call may take, with its turn in the queue, before the catalog counts as unavailable."""
LIST_SECONDS = 60.0
"""The same for the questions that may touch many rows."""
LOCK_SECONDS = 4.0
"""How long a transaction may wait for another's lock: less than a call, so that PostgreSQL ends it and not we."""
CONNECT_SECONDS = 3
_CLOSE_SECONDS = 2.0
_ATTEMPTS = 5
_PAUSE_SECONDS = 0.02
WRITERS, READERS, LISTERS = 8, 4, 2
"""Connections of one process at most, apart so that a crowd of writers never delays the check of a code."""

DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
"""Whatever the driver raises when the database does not do what it was asked."""
_UNDONE = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.InvalidCachedStatementError,  # the tables were migrated meanwhile
    asyncpg.UniqueViolationError,  # see `statements.ADMISSION`: the next attempt sees what came meanwhile
)
"""The database undid the transaction, and it may succeed when it is repeated."""


async def connect(url: URL, **settings: str) -> asyncpg.Connection:
    """Open a connection. The session's `settings` are PostgreSQL's own.

    Raises:
        DRIVER_ERRORS: It cannot be opened.
        ValueError: The driver does not understand an option of the URL.
    """
    query = {name: str(value) for name, value in url.query.items()}
    host, port = query.pop("host", url.host), query.pop("port", url.port)
    return await asyncpg.connect(
        URL.create("postgresql", query=query).render_as_string(),
        host=host,
        port=None if port is None else int(port),
        user=url.username,
        password=url.password,
        database=url.database,
        timeout=CONNECT_SECONDS,
        server_settings={"application_name": "dropoff-tus", **settings},
    )


@functools.lru_cache(maxsize=512)
def compiled(statement: Statement) -> tuple[str, tuple[str, ...]]:
    """Return a statement's SQL with `$1` and so on, and the names of its values in their order."""
    done = statement.compile(dialect=_DIALECT)
    return str(done), tuple(done.positiontup or ())


class PostgresTransaction:
    """Implements `transaction.Transaction`, inside a greenlet."""

    alone = False

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    def rows(self, statement: Statement, **values: object) -> Sequence[Row]:
        """Run a statement and return its rows."""
        text, names = compiled(statement)
        found: Sequence[Row] = await_(self._connection.fetch(text, *[values[name] for name in names]))
        return found

    def run(self, statement: Statement, **values: object) -> int:
        """Run a statement and return how many rows it changed."""
        text, names = compiled(statement)
        status: str = await_(self._connection.execute(text, *[values[name] for name in names]))
        return int(status.rpartition(" ")[2])


def unavailable(error: Exception) -> CatalogUnavailableError:
    """Make the refusal for a database that does not answer, the original chained; its text is for nobody's log."""
    state = getattr(error, "sqlstate", None)
    _log.error("the catalog does not answer: %s", f"{type(error).__name__}{f' {state}' if state else ''}")
    refusal = CatalogUnavailableError("the catalog does not answer; try again shortly")
    refusal.__cause__ = error
    return refusal


@dataclass(slots=True)
class _Request:
    work: _Work
    future: asyncio.Future[Any]
    deadline: float


class _CommitError(Exception):
    """COMMIT was sent and its answer is missing, or is no: whether it happened only the database knows."""


class Lane:
    """A queue, and the tasks with a connection each that serve it."""

    def __init__(self, url: URL, tasks: int, seconds: float, settings: dict[str, str], *, writes: bool) -> None:
        """Start the tasks; they connect when there is work. Call on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._url, self._seconds, self._settings, self._writes = url, seconds, settings, writes
        self._queue: asyncio.Queue[_Request | None] = asyncio.Queue()
        self._closed = False
        self._lost = 0
        self._tasks = [self._loop.create_task(_Worker(self).serve()) for _ in range(tasks)]

    async def run(self, work: Callable[[Transaction], T]) -> T:
        """Queue an operation and wait for its answer.

        A caller cancelled before its turn has changed nothing; one cancelled later may have.

        Raises:
            CatalogUnavailableError: The database does not answer in time, or the catalog is closed.
        """
        if self._closed:
            raise CatalogUnavailableError("the catalog is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        deadline = self._loop.time() + self._seconds
        self._queue.put_nowait(_Request(work, future, deadline))
        # Its worker gives up at the deadline; this is for those whose turn has not come by then.
        overdue = self._loop.call_at(deadline + 0.1, _give_up, future)
        try:
            return await future
        finally:
            overdue.cancel()

    async def close(self) -> None:
        """Take nothing more; finish what is queued, each within its deadline, and close the connections."""
        if not self._closed:
            self._closed = True
            for _ in self._tasks:
                self._queue.put_nowait(None)
        await asyncio.gather(*self._tasks)

    # ---- for the workers --------------------------------------------------------------------------------------

    async def take(self) -> _Request | None:
        """Wait for a request that somebody still waits for; None at the end."""
        while True:
            request = await self._queue.get()
            if request is None or not (request.future.done() or request.deadline <= self._loop.time()):
                return request

    async def connect(self) -> asyncpg.Connection:
        """Open a connection with this lane's settings."""
        return await connect(self._url, **self._settings)

    @property
    def writes(self) -> bool:
        """Whether operations here need a transaction: one that only reads has one statement that matters."""
        return self._writes

    @property
    def lost(self) -> int:
        """How often a connection of this lane went silent: those made before are no longer trusted."""
        return self._lost

    def count_silent(self, began: float) -> None:
        """Distrust all connections, if one of them has been silent for long, and not only its request had to wait."""
        if self._loop.time() - began > self._seconds / 2:
            self._lost += 1


def _give_up(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(unavailable(TimeoutError()))


class _Worker:
    """One task and its connection."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._connection: asyncpg.Connection | None = None
        self._lost = 0

    async def serve(self) -> None:
        """Run requests one after the other until there will be no more."""
        try:
            while (request := await self._lane.take()) is not None:
                await self._serve_one(request)
        finally:
            await self._disconnect()

    async def _serve_one(self, request: _Request) -> None:
        future = request.future
        try:
            async with asyncio.timeout_at(request.deadline):
                result = await self._until_done(request.work)
        except asyncpg.IntegrityConstraintViolationError as error:
            _refuse(future, error)  # this request broke a constraint: a mistake of ours, and the database is well
        except (*DRIVER_ERRORS, _CommitError) as error:
            _refuse(future, unavailable(error))
        except StopIteration:  # which a future does not take
            _refuse(future, RuntimeError("an operation raised StopIteration"))
        except asyncio.CancelledError:
            _refuse(future, CatalogUnavailableError("the catalog is closed"))
            raise
        except Exception as error:  # noqa: BLE001 - the task must go on, and the caller hears of it
            _refuse(future, error)
        else:
            if not future.done():
                future.set_result(result)

    async def _until_done(self, work: _Work) -> object:
        """Run an operation, again if the database undid it or was gone before it mattered."""
        attempt = 0
        while True:
            attempt += 1
            fresh = self._connection is None
            try:
                return await self._attempt(work)
            except _UNDONE:
                if attempt == _ATTEMPTS:
                    raise
                await asyncio.sleep(random.uniform(0, _PAUSE_SECONDS * 2**attempt))  # noqa: S311 - no secret
            except DRIVER_ERRORS:
                # A connection from before a restart of the database: another one may do.
                if fresh or self._connection is not None or attempt == _ATTEMPTS:
                    raise

    async def _attempt(self, work: _Work) -> object:
        connection, began = await self._connected(), asyncio.get_running_loop().time()
        try:
            if not self._lane.writes:
                return await greenlet_spawn(work, PostgresTransaction(connection))
            return await _transact(connection, work)
        except asyncpg.PostgresError:
            if connection.is_closed():
                self._connection = None
            raise
        except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, _CommitError):
            self._cut(connection)
            raise
        except (asyncio.CancelledError, TimeoutError):
            # If it went silent, so may have those of the other tasks.
            self._cut(connection)
            self._lane.count_silent(began)
            raise

    async def _connected(self) -> asyncpg.Connection:
        connection = self._connection
        if connection is not None and (connection.is_closed() or self._lost != self._lane.lost):
            self._cut(connection)
        if self._connection is None:
            self._lost = self._lane.lost
            self._connection = await self._lane.connect()
        return self._connection

    def _cut(self, connection: asyncpg.Connection) -> None:
        self._connection = None
        connection.terminate()

    async def _disconnect(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            try:
                await connection.close(timeout=_CLOSE_SECONDS)
            except DRIVER_ERRORS:
                connection.terminate()


async def _transact(connection: asyncpg.Connection, work: _Work) -> object:
    await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
    try:
        result: object = await greenlet_spawn(work, PostgresTransaction(connection))
    except asyncio.CancelledError:
        raise  # the connection is cut
    except BaseException:
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


def _refuse(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


class PostgresEngine:
    """Implements `catalog.Engine`."""

    def __init__(self, url: URL, *, durable: bool = True) -> None:
        """Open nothing yet. `durable`: answer after the database's sync, if that is how it is set up."""
        settings = {
            "lock_timeout": f"{LOCK_SECONDS:g}s",
            # Should this process stand still in the middle of a transaction, its locks are not held for long.
            "idle_in_transaction_session_timeout": f"{2 * CALL_SECONDS:g}s",
        }
        if not durable:
            settings["synchronous_commit"] = "off"
        self._writer = Lane(url, WRITERS, CALL_SECONDS, settings, writes=True)
        self._reader = Lane(url, READERS, CALL_SECONDS, settings, writes=False)
        self._lister = Lane(url, LISTERS, LIST_SECONDS, settings, writes=False)

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run an operation in a transaction."""
        return await self._writer.run(work)

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run a short question."""
        return await self._reader.run(work)

    async def read_many(self, work: Callable[[Transaction], T]) -> T:
        """Run a long question on a connection that `read` does not need."""
        return await self._lister.run(work)

    async def close(self) -> None:
        """Finish what is queued and close."""
        await asyncio.gather(self._lister.close(), self._reader.close(), self._writer.close())
