"""`drop close --now`, from whatever process: a watch on the catalog that ends what is open, until nothing is left."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Container
from typing import Protocol

from dropoff_tus.errors import DropoffError
from dropoff_tus.ids import is_drop_id
from dropoff_tus.ports.catalog import DropoffRows

_log = logging.getLogger(__name__)
_MAX_LOOKS = 32


class Marks(Protocol):
    """Ids of drop-offs, kept outside the database."""

    def add(self, marked: str, /) -> None:
        """Mark one, durably; again is harmless."""
        ...

    def discard(self, marked: str, /) -> None:
        """Take a mark off again, if there is one."""
        ...


async def set_closed(catalog: DropoffRows, ended: Marks, drop_id: str, *, closed: bool, end_open: bool = False) -> bool:
    """Close or reopen a drop-off; with `end_open` a running server also ends what is being uploaded, in seconds.

    The mark comes first: without it a server takes no row's word that uploads are to be ended.

    Returns:
        Whether there is such a drop-off.
    """
    if not is_drop_id(drop_id) or await catalog.dropoff(drop_id) is None:
        return False
    if closed and end_open:
        await asyncio.to_thread(ended.add, drop_id)
    elif not closed:
        await asyncio.to_thread(ended.discard, drop_id)
    return await catalog.set_closed(drop_id, closed=closed, end_open=end_open)


class ClosingWatch:
    """Notices drop-offs whose uploads are to be ended, and repeats what failed."""

    def __init__(self, catalog: DropoffRows, marked: Container[str], end_open: Callable[[str], Awaitable[int]]) -> None:
        """Take the catalog, what `set_closed` marked, and what ends open uploads and returns how many are left."""
        self._catalog, self._marked, self._end_open = catalog, marked, end_open
        self._seen_version: int | None = None
        self._unended: set[str] = set()
        self._running: dict[str, asyncio.Task[None]] = {}
        # How many looks to wait for the next attempt, and how many were waited for the last one.
        self._waiting: dict[str, int] = {}
        self._waited: dict[str, int] = {}

    async def look(self) -> None:
        """Look once. Cheap while nothing has changed and nothing is left to do.

        Uploads are ended beside the caller: an upload in use elsewhere must not keep the next drop-off waiting.

        Raises:
            CatalogUnavailableError: Look again later.
        """
        version = await self._catalog.version()
        if version != self._seen_version:
            # One that was opened again keeps what it still has.
            self._unended = {
                drop.id for drop in await self._catalog.dropoffs() if drop.ended and drop.id in self._marked
            }
            self._seen_version = version
            self._waiting.clear()
            self._waited.clear()
        for drop_id in self._unended - self._running.keys():
            if self._waiting.get(drop_id, 0) > 0:
                self._waiting[drop_id] -= 1
                continue
            self._running[drop_id] = asyncio.create_task(self._end(drop_id))

    async def stop(self) -> None:
        """Stop; the next start begins again."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _end(self, drop_id: str) -> None:
        try:
            if await self._end_open(drop_id):
                # An upload that is damaged will never be ended: ask less and less often, and keep the log readable.
                self._waiting[drop_id] = self._waited.get(drop_id, 0)
                self._waited[drop_id] = min(_MAX_LOOKS, 2 * self._waiting[drop_id] + 1)
            else:
                self._unended.discard(drop_id)
        except DropoffError as error:
            _log.warning("uploads could not be ended", extra={"drop_id": drop_id, "code": error.code})
        finally:
            del self._running[drop_id]
