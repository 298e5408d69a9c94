"""SQLite behind one writer thread with group commit.

Requests queue; the thread takes all that wait, runs each in a savepoint of one transaction, commits once, and only then
answers. A request that raises undoes its own savepoint and harms no other. WAL and synchronous=FULL: what was answered
survives a power cut. Reads run in the same thread, outside any transaction of their own making, because they take
microseconds and then see every write before them.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from dropoff_tus.errors import CatalogUnavailableError
from dropoff_tus.model import Dropoff, UploadRow, UploadState, Usage
from dropoff_tus.ports import Decide
from storage.catalog import statements

T = TypeVar("T")
_Work = Callable[[Connection], Any]
_BATCH = 256
BUSY_TIMEOUT_SECONDS = 5


def make_engine(url: str) -> Engine:
    """Return an engine for one SQLite file with our settings on every connection."""
    engine = create_engine(make_url(url), connect_args={"timeout": BUSY_TIMEOUT_SECONDS, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:  # noqa: ANN401 - sqlite3's own
        connection.isolation_level = None  # we say BEGIN IMMEDIATE ourselves
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def unavailable(error: Exception) -> CatalogUnavailableError:
    """Make the refusal for a database that does not answer. The original is chained, not quoted."""
    return CatalogUnavailableError(f"the catalog does not answer ({type(error).__name__}); try again shortly")


class SqliteCatalog:
    """Implements `dropoff_tus.ports.Catalog`."""

    def __init__(self, url: str) -> None:
        """Start the writer thread."""
        self._engine = make_engine(url)
        self._queue: queue.SimpleQueue[tuple[_Work, Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="catalog", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Answer what is queued, then stop."""
        self._queue.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)
        self._engine.dispose()

    async def _run(self, work: Callable[[Connection], T]) -> T:
        future: Future[T] = Future()
        self._queue.put((work, future))
        # Shielded: a caller that goes away must not take its transaction's answer with it.
        return await asyncio.shield(asyncio.wrap_future(future))

    # ---- the writer thread ------------------------------------------------------------------------------------

    def _write(self) -> None:
        stopping = False
        while not stopping:
            batch: list[tuple[_Work, Future[Any]]] = []
            item = self._queue.get()
            while True:
                if item is None:
                    stopping = True
                    break
                batch.append(item)
                if len(batch) >= _BATCH:
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            if batch:
                self._commit(batch)

    def _commit(self, batch: Sequence[tuple[_Work, Future[Any]]]) -> None:
        answers: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            with self._engine.begin() as connection:
                for work, future in batch:
                    answers.append((future, *self._attempt(connection, work)))
        except Exception as error:  # noqa: BLE001 - whatever it is, every caller must hear of it
            refusal = unavailable(error)
            refusal.__cause__ = error
            answers = [(future, None, refusal) for _, future in batch]
        for future, value, failure in answers:
            with contextlib.suppress(Exception):  # a cancelled future takes no answer
                if failure is None:
                    future.set_result(value)
                else:
                    future.set_exception(failure)

    @staticmethod
    def _attempt(connection: Connection, work: _Work) -> tuple[Any, BaseException | None]:
        savepoint = connection.begin_nested()
        try:
            value = work(connection)
            savepoint.commit()
        except SQLAlchemyError:
            # The transaction itself may be broken (disk full, corrupt): let the whole batch fail.
            raise
        except Exception as error:  # noqa: BLE001 - a refusal, or a bug of the caller's
            savepoint.rollback()
            return None, error
        return value, None

    # ---- the port ---------------------------------------------------------------------------------------------

    async def add_dropoff(self, dropoff: Dropoff) -> None:
        """Insert a drop-off."""
        await self._run(lambda c: statements.add_dropoff(c, dropoff))

    async def dropoff(self, drop_id: str) -> Dropoff | None:
        """Return one drop-off."""
        return await self._run(lambda c: statements.dropoff(c, drop_id))

    async def dropoffs(self) -> list[Dropoff]:
        """Return all drop-offs."""
        return await self._run(statements.all_dropoffs)

    async def usage(self, drop_id: str) -> Usage:
        """Return what a drop-off's uploads take."""
        return await self._run(lambda c: statements.usage(c, drop_id))

    async def set_closed(self, drop_id: str, *, closed: bool, end_open: bool = False) -> bool:
        """Close or reopen."""
        return await self._run(lambda c: statements.set_closed(c, drop_id, closed, end_open))

    async def set_code(self, drop_id: str, code_mac: bytes | None) -> bool:
        """Replace the code."""
        return await self._run(lambda c: statements.set_code(c, drop_id, code_mac))

    async def version(self) -> int:
        """Return the change counter."""
        return await self._run(statements.version)

    async def add_upload(self, row: UploadRow, decide: Decide, *, parts: Sequence[str] = ()) -> UploadRow:
        """Create an upload."""
        return await self._run(lambda c: statements.add_upload(c, row, decide, parts))

    async def reserve(self, upload_id: str, reserved_bytes: int, decide: Decide, *, length: int | None = None) -> None:
        """Change a reservation."""
        await self._run(lambda c: statements.reserve(c, upload_id, reserved_bytes, decide, length))

    async def drop_upload(self, upload_id: str) -> None:
        """Forget an upload."""
        await self._run(lambda c: statements.drop_upload(c, upload_id))

    async def complete_upload(self, upload_id: str, size_bytes: int, at: datetime) -> bool:
        """Mark an upload complete."""
        return await self._run(lambda c: statements.complete_upload(c, upload_id, size_bytes, at))

    async def set_state(self, upload_id: str, state: UploadState, at: datetime) -> bool:  # noqa: ARG002 - the port's
        """Move an upload to a state."""
        return await self._run(lambda c: statements.set_state(c, upload_id, state))

    async def upload(self, upload_id: str) -> UploadRow | None:
        """Return one upload."""
        return await self._run(lambda c: statements.upload(c, upload_id))

    async def uploads(
        self,
        *,
        drop_id: str | None = None,
        states: Sequence[UploadState] = (),
        partials: bool = True,
        created_before: datetime | None = None,
        unclaimed: bool = False,
    ) -> list[UploadRow]:
        """Return uploads, filtered."""
        return await self._run(
            lambda c: statements.list_uploads(c, drop_id, states, partials, created_before, unclaimed)
        )

    async def parts(self, final_id: str) -> list[UploadRow]:
        """Return a final's partials."""
        return await self._run(lambda c: statements.parts(c, final_id))
