"""Monitoring on a listener of its own: alive, ready, metrics. No label carries an id."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from dropoff_tus.errors import DropoffError
from dropoff_tus.ports.catalog import Catalog, Outbox
from dropoff_tus.states import ENDED
from server.http.metrics import CatalogView, MachineView, Metrics, added_up
from server.usecases.uploads import Uploads

_LOOK_SECONDS = 5.0
_MOST_DAMAGED = 100
"""So many are asked for again at a scrape."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Looks at the machine. The first two may block for as long as a file system likes, so they run in a thread."""

    shortages: Callable[[], list[str]]
    """Names the volumes that take nothing more."""
    view: Callable[[], MachineView]
    connections: Callable[[], tuple[int, int]]
    """How many there are, and may be."""


async def _healthz(_request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


@dataclass(frozen=True, slots=True)
class Monitoring:
    """Answers what monitoring asks."""

    metrics: Metrics
    catalog: Catalog
    outbox: Outbox
    uploads: Uploads
    machine: Machine
    siblings: Callable[[], Awaitable[list[str]]] | None = None
    """Reads the metrics of the other workers, if there are any."""

    def app(self) -> web.Application:
        """Return the application of the monitoring listener."""
        app = web.Application()
        app.router.add_get("/healthz", _healthz)
        app.router.add_get("/readyz", self.readyz)
        app.router.add_get("/metrics", self.show)
        return app

    async def readyz(self, _request: web.Request) -> web.Response:
        """Say whether uploads can be received."""
        try:
            await self.catalog.version()
            # Beside the event loop, and not for ever: a file system that hangs would hold everything up.
            async with asyncio.timeout(_LOOK_SECONDS):
                missing = await self._shortages()
        except TimeoutError:
            return web.Response(status=503, text="not ready: the disk does not answer\n")
        except (DropoffError, OSError) as error:
            return web.Response(status=503, text=f"not ready: {type(error).__name__}\n")
        if missing:
            return web.Response(status=503, text=f"not ready: {'; '.join(missing)}\n")
        # Uploads are still received, so nobody is to be sent away, but monitoring should show it.
        found = (self.uploads.trusted_time.problem, self.metrics.audit_problem, self.metrics.store_problem)
        problems = [problem for problem in found if problem is not None]
        return web.Response(text=f"ready, but {'; '.join(problems)}\n" if problems else "ready\n")

    async def _shortages(self) -> list[str]:
        free_bytes = await self.uploads.ports.store.free_bytes()
        below = ["free disk space is below store.free_space_floor"] if free_bytes <= 0 else []
        return below + await asyncio.to_thread(self.machine.shortages)

    async def show(self, _request: web.Request) -> web.Response:
        """Show the metrics, of all workers."""
        text = await self._text()
        if self.siblings is not None:
            text = await asyncio.to_thread(added_up, [text.decode(), *await self.siblings()])
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def show_to_sibling(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Show this worker's own metrics to another one."""
        with contextlib.suppress(OSError):
            writer.write(await self._text())
            await writer.drain()
        writer.close()

    async def _text(self) -> bytes:
        uploads, metrics = self.uploads, self.metrics
        seen, now = await self._see_catalog(), uploads.ports.clock.now()
        metrics.show_catalog(seen, now)
        metrics.show_machine(await self._see_machine())
        metrics.show_uploads(uploads.ports.counts, *uploads.finisher.waiting(), now)
        metrics.show_server(*self.machine.connections(), clock_ahead=uploads.trusted_time.problem is not None)
        # It counts the open descriptors.
        text: bytes = await asyncio.to_thread(generate_latest, metrics.registry)
        return text

    async def _see_catalog(self) -> CatalogView | None:
        damaged = self.uploads.ports.counts.damaged
        try:
            # What an operator ended since needs nobody's attention any more.
            for upload_id in list(damaged)[:_MOST_DAMAGED]:
                row = await self.catalog.upload(upload_id)
                if row is not None and row.state in ENDED:
                    damaged.discard(upload_id)
            return CatalogView(await self.outbox.backlog(), await self.catalog.tally(), await self.catalog.runs())
        except DropoffError:
            return None

    async def _see_machine(self) -> MachineView | None:
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                return await asyncio.to_thread(self.machine.view)
        except (TimeoutError, OSError):
            return None
