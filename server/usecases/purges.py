"""Purges that go on by themselves: begun over HTTP, waited for as long as each client likes, and asked for again.

A request joins the purge that runs. As long as no drop-off was changed, a later request gets the last result again,
with the same certificate. After a change, a failure or kept uploads it begins a new purge, which repeats nothing.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from dataclasses import dataclass

from dropoff_tus.errors import DropoffError, ServerShutdownError
from dropoff_tus.ports.catalog import DropoffRows
from server.usecases.ports import Advance
from server.usecases.purging import Purged, Purger

_log = logging.getLogger(__name__)
_REMEMBERED = 16


@dataclass(eq=False)
class Purge:
    """How far a purge is: `done` of `total` uploads were looked at. Both are 0 until they are counted."""

    total: int = 0
    done: int = 0
    outcome: Purged | None = None
    certificate: bytes | None = None
    """Once nothing is kept."""
    version: int | None = None
    """The catalog's, when it ended well."""

    def begin(self, total: int) -> Advance:
        """Note how many there are; return what counts them."""
        self.total = total

        def advance(count: int) -> None:
            self.done += count

        return advance


class Purges:
    """All purges of this process."""

    def __init__(self, purger: Purger, catalog: DropoffRows) -> None:
        """Start with none."""
        self._purger, self._catalog = purger, catalog
        self._purges: OrderedDict[str, tuple[Purge, asyncio.Task[None]]] = OrderedDict()
        self._asking = asyncio.Lock()

    async def ask(self, drop_id: str, wait_seconds: float) -> Purge:
        """Purge a drop-off, or go on with it, and return its progress after this long at most.

        Raises:
            DropoffNotFoundError: There is none.
            CatalogUnavailableError, ServerShutdownError: Ask again; it goes on where it was.
        """
        async with self._asking:
            found = self._purges.get(drop_id)
            if found is None or not await self._holds(*found):
                purge = Purge()
                # The audit names the client that begins it, even for acts after that client has gone.
                found = purge, asyncio.create_task(self._run(drop_id, purge))
                found[1].add_done_callback(_retrieve)
                self._purges[drop_id] = found
            self._purges.move_to_end(drop_id)
            self._forget()
        purge, task = found
        await asyncio.wait([task], timeout=wait_seconds)
        if task.cancelled():
            raise ServerShutdownError("the server is stopping; ask again after its start, and the purge goes on")
        if task.done():
            task.result()
        return purge

    async def close(self) -> None:
        """Stop; a request after the next start goes on."""
        tasks = [task for _, task in self._purges.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _holds(self, purge: Purge, task: asyncio.Task[None]) -> bool:
        """Tell whether a purge runs, or what came of it is what another would find."""
        if not task.done():
            return True
        return purge.version is not None and purge.version == await self._catalog.version()

    async def _run(self, drop_id: str, purge: Purge) -> None:
        try:
            purged = await self._purger.purge(drop_id, purge.begin)
            version = await self._catalog.version()
            if not purged.kept:
                certificate = self._purger.certificate(purged)
                await self._purger.record(purged, certificate)
                purge.certificate, purge.version = certificate, version
            purge.outcome = purged
        except DropoffError as error:
            _log.warning("a purge was cut off; ask again", extra={"drop_id": drop_id, "code": error.code})
            raise

    def _forget(self) -> None:
        """Keep what runs, and the last that ended."""
        ended = [drop_id for drop_id, (_, task) in self._purges.items() if task.done()]
        for drop_id in ended[:-_REMEMBERED]:
            del self._purges[drop_id]


def _retrieve(task: asyncio.Task[None]) -> None:
    """Look at how it ended: waiting requests get it, and it was logged in case nobody waits."""
    with contextlib.suppress(asyncio.CancelledError):
        task.exception()
