"""SQLite: one thread that writes, with group commit, and one for long questions; short ones are asked at once.

The writer takes all that waits, runs it in one `BEGIN IMMEDIATE` transaction, commits once, and only then answers.
With WAL and synchronous=FULL an answer is durable, and a commit's sync is shared by all that came while the one before
it ran. Each operation has a savepoint, so one that raises undoes only itself. If the commit fails, all of the group
hear that the catalog is unavailable, refusals too, since they may rest on what was undone.

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
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from dropoff_tus.errors import CatalogFullError, CatalogUnavailableError
from storage.catalog.transaction import Statement, Transaction

T = TypeVar("T")

_log = logging.getLogger(__name__)
_DIALECT = SQLiteDialect_pysqlite(paramstyle="named")
_GROUP = 256
"""Requests of one commit at most, so that none waits for long."""

BUSY_SECONDS = 5.0
"""How long to wait for another process before the catalog counts as unavailable."""

_LOOK_AGAIN_SECONDS = 0.001

LOOK_SECONDS = 1.0
"""How often to look whether the file is where it was: with each operation it would cost some of them a tenth."""

_PRAGMAS = (
    "journal_mode = WAL",
    "foreign_keys = ON",
    "trusted_schema = OFF",
    "secure_delete = ON",  # some builds leave what was changed or deleted in the room it took
    "temp_store = MEMORY",  # there may be no folder for temporary files, as on a read-only root
    "wal_autocheckpoint = 4000",
    "journal_size_limit = 67108864",
)


def connect(
    path: Path, *, mode: Literal["rw", "ro"] = "rw", durable: bool = True, wait_seconds: float | None = None
) -> sqlite3.Connection:
    """Open a database that exists; transactions are the caller's. Never makes a file.

    Args:
        path: The file.
        mode: Whether to write.
        durable: Whether a commit is synced. Without, a power cut loses the newest ones, and the file stays sound.
        wait_seconds: How long to wait for another process, if not as long as BUSY_SECONDS says.

    Raises:
        sqlite3.Error: It cannot be opened.
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_SECONDS if wait_seconds is None else wait_seconds,
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


@dataclass(slots=True, eq=False)
class _Request:
    """An operation that waits for its turn to write, and what came of it."""

    work: Callable[[Transaction], Any]
    future: asyncio.Future[Any]
    result: object = None
    error: BaseException | None = None

    def resolve(self) -> None:
        """Give the caller the result, on the event loop; a caller that went away needs none."""
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.result)
        elif isinstance(self.error, StopIteration):  # which a future does not take
            self.future.set_exception(RuntimeError("an operation raised StopIteration"))
        else:
            self.future.set_exception(self.error)


class _Writer:
    """A connection that writes; everything here runs in its thread."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection, self._path = connection, path
        self._transaction = SqliteTransaction(connection)

    def run(self, group: Sequence[_Request]) -> None:
        """Run requests in one transaction and keep what came of each."""
        try:
            self._begin()
            for request in group:
                if not request.future.cancelled():
                    self._attempt(request)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            # Also when the database undid everything on its own (disk full): then there is no savepoint any more.
            refusal = unavailable(error, self._path)
            for request in group:
                request.result, request.error = None, refusal
            if self._connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")

    def _begin(self) -> None:
        """Begin when no other process writes, asked every millisecond: SQLite's own way sleeps for up to 100."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(_LOOK_AGAIN_SECONDS)
            else:
                return

    def _attempt(self, request: _Request) -> None:
        execute = self._connection.execute
        execute("SAVEPOINT request")
        try:
            request.result = request.work(self._transaction)
        except BaseException as error:  # noqa: BLE001 - the thread must go on, and the caller hears of it
            request.error = error
            # A broken constraint is a mistake of ours, and the database is well.
            if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
                request.error = unavailable(error, self._path)
            execute("ROLLBACK TO request")
        execute("RELEASE request")


class SqliteEngine:
    """Implements `transaction.Engine`."""

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        """Open three connections to a database that exists and is migrated. Call on the running loop.

        Raises:
            sqlite3.Error: It cannot be opened.
        """
        self._path, self._file = path, OpenedFile(path)
        self._loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            opened = [
                stack.enter_context(contextlib.closing(connect(path, durable=durable, wait_seconds=seconds)))
                for seconds in (0, 0, BUSY_SECONDS)
            ]
            for connection in opened[1:]:
                connection.execute("PRAGMA query_only = ON").fetchall()
            stack.pop_all()
        self._connections = opened
        self._writer = _Writer(opened[0], path)
        self._near, self._listing = SqliteTransaction(opened[1]), SqliteTransaction(opened[2])
        self._threads = [ThreadPoolExecutor(1, f"catalog-{name}") for name in ("writer", "lister")]
        self._waiting: list[_Request] = []
        self._writing: asyncio.Task[None] | None = None
        self._closed = False

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run an operation on the writer's thread.

        A caller cancelled before its turn has changed nothing; one cancelled later may have.
        """
        self._check()
        request = _Request(work, self._loop.create_future())
        self._waiting.append(request)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all())
        return cast("T", await request.future)

    async def settled(self, work: Callable[[Transaction], T]) -> T:
        """Run a question as the only writer."""
        return await self.write(work)

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run a short question here and now."""
        self._check()
        try:
            return work(self._near)
        except sqlite3.Error:
            return await self.read_many(work)  # to wait, or to fail as everything does

    async def read_many(self, work: Callable[[Transaction], T]) -> T:
        """Run a long question on a thread of its own."""
        self._check()
        try:
            return await self._loop.run_in_executor(self._threads[1], work, self._listing)
        except sqlite3.Error as error:
            raise unavailable(error, self._path) from error

    async def close(self) -> None:
        """Finish what was asked and close."""
        self._closed = True
        if self._writing is not None:
            await asyncio.wait([self._writing])
        # One after the other, the writer last: the last connection copies the log into the file and removes it, and two
        # that close at once each take the other for one still open.
        writer, near, lister = self._connections
        near.close()
        for thread, connection in ((self._threads[1], lister), (self._threads[0], writer)):
            await self._loop.run_in_executor(thread, connection.close)
            thread.shutdown()

    def _check(self) -> None:
        if self._closed:
            raise CatalogUnavailableError("the catalog is closed")
        self._file.check()

    async def _write_all(self) -> None:
        while group := self._waiting[:_GROUP]:
            del self._waiting[:_GROUP]
            await self._loop.run_in_executor(self._threads[0], self._writer.run, group)
            for request in group:
                request.resolve()
