"""SQLite: one thread that writes, with group commit, and one for long questions; short ones are asked at once.

The writer takes all that is queued, runs it in one `BEGIN IMMEDIATE` transaction, commits once, and only then answers.
With WAL and synchronous=FULL an answer is durable, and a commit's sync is shared by all that came while the one before
it ran. A request that raises undoes only itself: the group is then run again with a savepoint for each, whose cost
groups without errors are spared. If the commit fails, all of the group hear that the catalog is unavailable, refusals
too, since they may rest on what was undone.

A short question is a few rows by their key: microseconds on the event loop, less than handing it to a thread would
take. In WAL mode it waits for no writer, in whatever process, and it sees what was committed last. In the rare moments
in which it would have to wait (another process recovers the log) it goes to the thread for the long ones.

Statements are SQLAlchemy Core's, compiled once and run on the driver's cursor: a Core connection would take several
times the CPU for each, which the event loop would miss, since all threads share one interpreter.
"""

import asyncio
import contextlib
import errno
import functools
import logging
import os
import queue
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from sqlalchemy import UpdateBase
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from dropoff_tus.errors import CatalogFullError, CatalogUnavailableError
from storage.catalog.statements import Statement
from storage.catalog.transaction import Request, Transaction

T = TypeVar("T")

_log = logging.getLogger(__name__)
_DIALECT = SQLiteDialect_pysqlite(paramstyle="named")
_GROUP = 256
"""Requests of one commit at most, so that none waits for long."""

BUSY_SECONDS = 5.0
"""How long to wait for another process before the catalog counts as unavailable."""

LOOK_SECONDS = 1.0
"""How often to look whether the file is where it was: with each operation it would cost some of them a tenth."""

_PRAGMAS = (
    "journal_mode = WAL",
    "foreign_keys = ON",
    "trusted_schema = OFF",
    "secure_delete = ON",  # some builds leave what was changed or deleted in the room it took
    "temp_store = MEMORY",  # there may be no folder for temporary files, on a read-only root, say
    "wal_autocheckpoint = 4000",
    "journal_size_limit = 67108864",
)


def connect(path: Path, *, mode: Literal["rw", "ro"] = "rw", durable: bool = True) -> sqlite3.Connection:
    """Open a database that exists; transactions are the caller's. Never makes a file.

    Args:
        path: The file.
        mode: Whether to write.
        durable: Whether a commit is synced. Without, a power cut loses the newest ones, and the file stays sound.

    Raises:
        sqlite3.Error: It cannot be opened.
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,  # the driver begins nothing on its own
        check_same_thread=False,  # opened by one thread, handed to another
    )
    connection.row_factory = sqlite3.Row
    try:
        if mode == "rw":
            for pragma in (*_PRAGMAS, f"synchronous = {'FULL' if durable else 'NORMAL'}"):
                connection.execute(f"PRAGMA {pragma}").fetchall()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@functools.lru_cache(maxsize=512)
def compiled(statement: Statement) -> str:
    """Return a statement's SQL, with `:name` for each value. Found again by identity: statements are built once."""
    return str(statement.compile(dialect=_DIALECT))


class SqliteTransaction:
    """Implements `transaction.Transaction` on the driver's cursor."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._cursor = connection.cursor()

    def rows(self, statement: Statement, **values: object) -> Sequence[sqlite3.Row]:
        """Run a statement and return all its rows: one read halfway would hold on to its view of the database."""
        return self._run(statement, values).fetchall()

    def run(self, statement: Statement, **values: object) -> int:
        """Run a statement and return how many rows it changed."""
        return self._run(statement, values).rowcount

    def post(self, statement: UpdateBase, **values: object) -> None:
        """Run it at once, which costs no more."""
        self._run(statement, values)

    def _run(self, statement: Statement, values: dict[str, object]) -> sqlite3.Cursor:
        return self._cursor.execute(compiled(statement), values)


_OF_THE_DISK = ("SQLITE_CANTOPEN", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY")
_PROBE_BYTES = 64 << 10
"""More than SQLite needs to begin: a page of each of its files, and 32 KiB of shared memory."""


def unavailable(error: sqlite3.Error, path: Path) -> CatalogUnavailableError:
    """Make the refusal for a database that does not answer, the original chained; its text is only for the log."""
    name = str(getattr(error, "sqlite_errorname", type(error).__name__))
    cause = why_not_written(error, path)
    code = None if cause is None else errno.errorcode.get(cause.errno or 0)
    _log.error("the catalog does not answer: %s", name, extra={"errno": code, "path": str(path)})
    refusal = CatalogUnavailableError("the catalog does not answer; try again shortly")
    if name.startswith("SQLITE_FULL") or code in {"ENOSPC", "EDQUOT"}:
        refusal = CatalogFullError("the disk is full, so the catalog cannot be written; try again shortly")
    elif name.startswith("SQLITE_READONLY") or code == "EROFS":
        refusal = CatalogUnavailableError(
            "the catalog cannot be written, its file or disk is read-only; try again shortly"
        )
    refusal.__cause__ = error
    return refusal


def why_not_written(error: sqlite3.Error, path: Path) -> OSError | None:
    """Find out by a file beside it what the system says where the database names no more than its own error.

    Returns:
        The error, with the folder's path; None if it is none of the disk's, or a file can be written there.
    """
    if not str(getattr(error, "sqlite_errorname", "")).startswith(_OF_THE_DISK):
        return None
    try:
        with tempfile.TemporaryFile(dir=path.absolute().parent) as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())  # noqa: TID251 - of a quota, some file systems say so only here
    except OSError as cause:
        cause.filename = str(path.absolute().parent)
        return cause
    return None


class OpenedFile:
    """The file that is open. Deleted or replaced it stays open, and nobody else would see what is written to it."""

    def __init__(self, path: Path) -> None:
        """Remember which file is at the path now."""
        self._path = path
        self._known = self._present()
        self._look_at = 0.0

    def check(self) -> None:
        """Refuse to work on another file than every other process does; looked at every LOOK_SECONDS.

        Raises:
            CatalogUnavailableError: There is none at the path, or another one.
        """
        now = time.monotonic()
        if now < self._look_at:
            return
        if self._present() == self._known:
            self._look_at = now + LOOK_SECONDS
            return
        _log.error("the catalog's file was moved, deleted or replaced: put it back, or stop, put one there and start")
        raise CatalogUnavailableError("the catalog does not answer; try again shortly")

    def _present(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino


class Lane:
    """A thread with a connection and a queue. Runs what is queued in groups; answers a group at a time."""

    def __init__(self, name: str, connection: sqlite3.Connection, path: Path) -> None:
        """Take over a connection to the file at path. Call on the running loop, which gets the answers."""
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._transaction = SqliteTransaction(connection)
        self._queue: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._closed = False
        # A daemon, so that a program that forgets to close can end; answered changes are durable anyway.
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[Transaction], T]) -> T:
        """Queue an operation and wait for its answer.

        A caller cancelled before its turn has changed nothing; one cancelled later may have.

        Raises:
            CatalogUnavailableError: The database does not answer, or the catalog is closed.
        """
        if self._closed:
            raise CatalogUnavailableError("the catalog is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(Request(work, future))
        return await future

    def stop(self) -> None:
        """Take nothing more. The thread runs what is queued, closes its connection and ends."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)

    async def stopped(self) -> None:
        """Return once the thread has ended."""
        await asyncio.to_thread(self._thread.join)

    # ---- in the thread ----------------------------------------------------------------------------------------

    def _serve(self) -> None:
        more = True
        while more:
            group, more = self._take()
            if group:
                self._run_group(group)
                # The loop may have been closed by someone who did not wait; there is nobody left to tell.
                with contextlib.suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(_answer, group)
        self._connection.close()

    def _take(self) -> tuple[list[Request], bool]:
        """Wait for a request and take all that are queued; False once there will be no more."""
        group: list[Request] = []
        request = self._queue.get()
        while request is not None:
            if not request.future.cancelled():
                group.append(request)
            if len(group) == _GROUP:
                return group, True
            try:
                request = self._queue.get_nowait()
            except queue.Empty:
                return group, True
        return group, False

    def _run_group(self, group: list[Request]) -> None:
        """Run each request by itself: a reader needs no transaction, its statements are one each."""
        for request in group:
            self._attempt(request)

    def _attempt(self, request: Request) -> None:
        """Run a request and keep what came of it."""
        request.result = request.error = None
        try:
            request.result = request.work(self._transaction)
        except sqlite3.IntegrityError as error:
            request.error = error  # this request broke a constraint: a mistake of ours, and the database is well
        except sqlite3.Error as error:
            request.error = unavailable(error, self._path)
        except BaseException as error:  # noqa: BLE001 - the thread must go on, and the caller hears of it
            request.error = error


class WriterLane(Lane):
    """The lane whose groups are transactions."""

    def _run_group(self, group: list[Request]) -> None:
        execute = self._connection.execute
        try:
            execute("BEGIN IMMEDIATE")
            for request in group:
                before = self._connection.total_changes
                self._attempt(request)
                if self._is_spoilt(request, before):
                    self._undo()
                    if len(group) == 1:
                        return
                    execute("BEGIN IMMEDIATE")
                    self._run_apart(group)
                    break
            execute("COMMIT")
        except sqlite3.Error as error:
            # Also when the database undid everything on its own (disk full): the next savepoint finds no transaction.
            refusal = unavailable(error, self._path)
            for request in group:
                request.result, request.error = None, refusal
            self._undo()

    def _is_spoilt(self, request: Request, before: int) -> bool:
        """Tell whether a request has left something to be undone; a refusal has hardly ever changed a row."""
        if request.error is None:
            return False
        broken = isinstance(request.error, sqlite3.Error | CatalogUnavailableError)
        return broken or self._connection.total_changes != before

    def _run_apart(self, group: list[Request]) -> None:
        """Run each request so that it can be undone by itself."""
        execute = self._connection.execute
        for request in group:
            execute("SAVEPOINT request")
            self._attempt(request)
            if request.error is not None:
                execute("ROLLBACK TO request")
            execute("RELEASE request")

    def _undo(self) -> None:
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")


def _answer(group: list[Request]) -> None:
    for request in group:
        request.answer()


class SqliteEngine:
    """Implements `catalog.Engine`."""

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        """Open three connections to a database that exists and is migrated.

        Raises:
            sqlite3.Error: It cannot be opened.
        """
        self._file = OpenedFile(path)
        connections: list[sqlite3.Connection] = []
        try:
            connections.extend(connect(path, durable=durable) for _ in range(3))
        except sqlite3.Error:
            for connection in connections:
                connection.close()
            raise
        for connection in connections[1:]:
            connection.execute("PRAGMA query_only = ON").fetchall()
        self._writer = WriterLane("catalog-writer", connections[0], path)
        connections[1].execute("PRAGMA busy_timeout = 0").fetchall()
        self._near_connection, self._near = connections[1], SqliteTransaction(connections[1])
        self._closed = False
        self._lister = Lane("catalog-lister", connections[2], path)

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run an operation on the writer's thread."""
        self._file.check()
        return await self._writer.run(work)

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run a short question here and now."""
        self._file.check()
        if not self._closed:
            try:
                return work(self._near)
            except sqlite3.Error:
                pass  # to wait, or to fail as everything does
        return await self._lister.run(work)

    async def read_many(self, work: Callable[[Transaction], T]) -> T:
        """Run a long question on a thread of its own."""
        self._file.check()
        return await self._lister.run(work)

    async def close(self) -> None:
        """Finish what is queued and close."""
        # One after the other, the writer last: the last connection copies the log into the file and removes it, and two
        # that close at once each take the other for one still open.
        self._closed = True
        self._near_connection.close()
        for lane in (self._lister, self._writer):
            lane.stop()
            await lane.stopped()
