"""PostgreSQL: one connection that writes, with group commit, and a few that read, by asyncpg.

The writer takes all that is queued, runs it in one transaction, commits once, and only then answers. All writers of a
catalog, in whatever process, take turns, under one advisory lock from BEGIN to COMMIT; a group shares that wait, the
sync and the round trips. Behind the lock nobody else changes anything, so what an operation reads stays so: quotas are
exact, and the disk's floor, which is a sum over all drop-offs; no row needs a lock of its own; and no row of the audit
is committed behind one with a greater number. Isolation is READ COMMITTED: each statement sees what the last holder
left.

An operation that refuses before it has sent a change leaves nothing to undo. Where one fails later, or the database
refuses it, the group is undone and each of its operations is run by itself. Should the database undo a transaction, or
lose the connection before COMMIT was sent, it is repeated a few times.

An operation is an ordinary function, as on SQLite (see `postgres_transaction`). A call ends in bounded time, whatever
the database does: a connection that does not answer is cut. A connection is made when it is needed, so when the
database is back nothing has to be restarted.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import asyncpg
from sqlalchemy.engine import URL
from sqlalchemy.util import greenlet_spawn

from dropoff_tus.errors import CatalogFullError, CatalogUnavailableError
from storage.catalog.postgres_connection import CONNECT_SECONDS, DRIVER_ERRORS, connect, reason
from storage.catalog.postgres_transaction import PostgresTransaction
from storage.catalog.transaction import Request, Transaction

T = TypeVar("T")

_log = logging.getLogger(__name__)

CALL_SECONDS = 5.0
"""How long a call may take, with its turn in the queue, before the catalog counts as unavailable."""
LIST_SECONDS = 60.0
"""The same for the questions that may touch many rows."""
LOCK_SECONDS = 4.0
"""How long a transaction may wait for another's lock: less than a call, so that PostgreSQL ends it and not we."""
_CLOSE_SECONDS = 2.0
_ATTEMPTS = 5
_PAUSE_SECONDS = 0.02
READERS, LISTERS = 4, 2
"""Connections of a process at most, besides the one that writes; apart, so that no crowd delays the check of a code."""
_GROUP = 256
"""Operations of one transaction at most, so that none waits for long."""
_BEGIN = f"BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock({0x6175646974})"

_UNDONE = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.InvalidCachedStatementError,  # the tables were migrated meanwhile
)
"""The database undid the transaction, and it may succeed when it is repeated."""


def unavailable(error: Exception) -> CatalogUnavailableError:
    """Make the refusal for a database that does not answer, the original chained; its text is for nobody's log."""
    state = getattr(error, "sqlstate", None)
    _log.error("the catalog does not answer: %s", f"{type(error).__name__} {state}" if state else reason(error))
    refusal = CatalogUnavailableError("the catalog does not answer; try again shortly")
    if isinstance(error, asyncpg.DiskFullError):
        refusal = CatalogFullError("the disk is full, so the catalog cannot be written; try again shortly")
    refusal.__cause__ = error
    return refusal


class _CommitError(Exception):
    """COMMIT was sent and its answer is missing, or is no: whether it happened only the database knows."""


class _SpoiltError(Exception):
    """One of several operations failed so that the database has to undo them all: each is to be run by itself."""


class Lane:
    """A queue, and the tasks with a connection each that serve it."""

    def __init__(self, url: URL, tasks: int, seconds: float, settings: dict[str, str], *, writes: bool = False) -> None:
        """Start the tasks; they connect when there is work. Call on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._url, self._seconds, self._settings, self._writes = url, seconds, settings, writes
        self._queue: asyncio.Queue[Request | None] = asyncio.Queue()
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
        self._queue.put_nowait(Request(work, future, deadline))
        # Its worker gives up at the deadline; this is for operations that wait for their turn.
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

    async def take(self) -> list[Request]:
        """Wait for requests that somebody still waits for, one or a group of writers; none at the end."""
        group: list[Request] = []
        while True:
            request = await self._queue.get()
            if request is None:
                if group:
                    self._queue.put_nowait(None)
                return group
            if self.waits_for(request):
                group.append(request)
            if len(group) == (_GROUP if self._writes else 1) or (group and self._queue.empty()):
                return group

    def waits_for(self, request: Request) -> bool:
        """Tell whether somebody still waits for a request."""
        return not request.future.done() and request.deadline > self._loop.time()

    async def connect(self) -> asyncpg.Connection:
        """Open a connection with this lane's settings."""
        return await connect(self._url, CONNECT_SECONDS, **self._settings)

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
        """Run requests until there will be no more."""
        try:
            while group := await self._lane.take():
                await self._answer(group)
        finally:
            await self._disconnect()

    async def _answer(self, group: Sequence[Request]) -> None:
        try:
            try:
                await self._serve(group)
            except _SpoiltError:
                for request in group:
                    if self._lane.waits_for(request):
                        await self._serve([request])
        except asyncio.CancelledError:
            _refuse(group, CatalogUnavailableError("the catalog is closed"))
            raise
        finally:
            for request in group:
                request.answer()

    async def _serve(self, group: Sequence[Request]) -> None:
        """Run requests and keep what came of each.

        Raises:
            _SpoiltError: Nothing came of any, and each is to be run by itself.
        """
        try:
            # An operation that may not wait as long as the last of them is refused without us.
            async with asyncio.timeout_at(group[-1].deadline):
                await self._until_done(group)
        except _SpoiltError:
            raise
        except asyncpg.IntegrityConstraintViolationError as error:
            _refuse(group, error)  # this request broke a constraint: a mistake of ours, and the database is well
        except (*DRIVER_ERRORS, _CommitError) as error:
            _refuse(group, unavailable(error))
        except Exception as error:  # noqa: BLE001 - the task must go on, and the callers hear of it
            _refuse(group, error)

    async def _until_done(self, group: Sequence[Request]) -> None:
        """Run requests, again if the database undid them or was gone before it mattered."""
        attempt = 0
        while True:
            attempt += 1
            fresh = self._connection is None
            try:
                return await self._attempt(group)
            except _UNDONE:
                if attempt == _ATTEMPTS:
                    raise
                await asyncio.sleep(random.uniform(0, _PAUSE_SECONDS * 2**attempt))  # noqa: S311 - no secret
            except DRIVER_ERRORS as error:
                if self._connection is not None:
                    if len(group) > 1 and isinstance(error, asyncpg.PostgresError):
                        raise _SpoiltError from error
                    raise
                # A connection from before a restart of the database: another one may do.
                if fresh or attempt == _ATTEMPTS:
                    raise

    async def _attempt(self, group: Sequence[Request]) -> None:
        connection, began = await self._connected(), asyncio.get_running_loop().time()
        try:
            if self._lane.writes:
                await _transact(connection, group)
            else:
                await greenlet_spawn(_run_all, group, PostgresTransaction(connection))
        except asyncpg.ReadOnlySQLTransactionError:
            # The session was begun at a standby, or while nothing was to be written: another one may be let.
            self._cut(connection)
            raise
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


def _refuse(group: Sequence[Request], error: Exception) -> None:
    for request in group:
        request.result, request.error = None, error


def _run_all(group: Sequence[Request], transaction: PostgresTransaction) -> None:
    """Run requests one after the other, in a greenlet, and keep what came of each.

    Raises:
        _SpoiltError, DRIVER_ERRORS: Nothing of it is to stay.
    """
    for request in group:
        request.error = None
        if request.future.done():
            continue
        transaction.begin()
        try:
            request.result = request.work(transaction)
            transaction.flush()
        except DRIVER_ERRORS:
            raise
        except Exception as error:
            request.error = error
            if transaction.changed:
                raise _SpoiltError from error


async def _transact(connection: asyncpg.Connection, group: Sequence[Request]) -> None:
    try:
        await connection.execute(_BEGIN)
        await greenlet_spawn(_run_all, group, PostgresTransaction(connection))
    except asyncio.CancelledError:
        raise  # the connection is cut
    except BaseException as error:
        if not connection.is_closed():
            await connection.execute("ROLLBACK")
        if isinstance(error, _SpoiltError) and len(group) == 1:
            return  # undone, and its own error is its answer
        raise
    try:
        status = await connection.execute("COMMIT")
    except (asyncpg.IntegrityConstraintViolationError, *_UNDONE):
        raise
    except DRIVER_ERRORS as error:
        raise _CommitError from error
    if status != "COMMIT":
        raise _CommitError(status)


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
        self._writer = Lane(url, 1, CALL_SECONDS, settings, writes=True)
        self._reader = Lane(url, READERS, CALL_SECONDS, settings)
        self._lister = Lane(url, LISTERS, LIST_SECONDS, settings)

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run an operation in a transaction, with others that came at the same time."""
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
