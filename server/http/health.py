"""Monitoring on a listener of its own: alive, ready, metrics. No label carries an id."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import get_args

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from dropoff_tus.errors import DropoffError
from dropoff_tus.outbox import Backlog, Outcome, SinkName
from dropoff_tus.ports.catalog import DropoffRows, Outbox
from dropoff_tus.ports.clock import Clock
from dropoff_tus.ports.store import Space
from server.clock import TrustedTime

_LOOK_SECONDS = 5.0


class Metrics:
    """The counters."""

    def __init__(self) -> None:
        """Make a registry of our own."""
        self.registry = CollectorRegistry()
        labels = ["route", "method", "status"]
        self._requests = Counter("dropoff_requests", "Requests answered.", labels, registry=self.registry)
        self._seconds = Histogram("dropoff_request_seconds", "Time to answer.", ["method"], registry=self.registry)
        self.running = Gauge("dropoff_requests_running", "Requests being answered.", registry=self.registry)
        self.clock_ahead = Gauge("dropoff_clock_ahead", "Whether nothing ends by time.", registry=self.registry)
        self.audit_broken = Gauge(
            "dropoff_audit_broken", "Whether the audit differs from the signed one.", registry=self.registry
        )
        self.audit_problem: str | None = None
        """Why no checkpoint of the audit is signed, or None."""
        self._catalog = Gauge("dropoff_catalog_up", "Whether the catalog answers.", registry=self.registry)
        self._deliveries = Counter(
            "dropoff_outbox_deliveries",
            "Attempts to deliver events, by their result.",
            ["sink", "result"],
            registry=self.registry,
        )
        self._pending = self._of_sinks("pending", "Events that wait for delivery.")
        self._dead = self._of_sinks("dead", "Events given up; see `dropoff-tus outbox list --dead`.")
        self._oldest = self._of_sinks("oldest_seconds", "Age of the oldest event that waits; 0 if none does.")
        for sink in SinkName:
            for result in get_args(Outcome):
                self._deliveries.labels(sink.value, result)
        # Of their labels: finding them costs more than counting.
        self._counters: dict[tuple[str, str, int], Counter] = {}
        self._timers: dict[str, Histogram] = {}

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answer; `route` and `method` are each one of a fixed set."""
        counter = self._counters.get((route, method, status))
        if counter is None:
            counter = self._counters[route, method, status] = self._requests.labels(route, method, str(status))
        timer = self._timers.get(method)
        if timer is None:
            timer = self._timers[method] = self._seconds.labels(method)
        counter.inc()
        timer.observe(seconds)

    def _of_sinks(self, name: str, text: str) -> Gauge:
        return Gauge(f"dropoff_outbox_{name}", text, ["sink"], registry=self.registry)

    def count_delivery(self, sink: SinkName, outcome: Outcome, events: int) -> None:
        """Count what came of events."""
        self._deliveries.labels(sink.value, outcome).inc(events)

    def show_backlog(self, backlog: Sequence[Backlog] | None, now: datetime) -> None:
        """Show what waits in the outbox; None if the catalog does not say, which is not the same as nothing."""
        self._catalog.set(backlog is not None)
        for gauge in (self._pending, self._dead, self._oldest):
            gauge.clear()
        if backlog is None:
            return
        of_sink = {found.sink: found for found in backlog}
        for sink in SinkName:
            found = of_sink.get(sink, Backlog(sink, 0, None, 0))
            self._pending.labels(sink.value).set(found.waiting)
            self._dead.labels(sink.value).set(found.dead)
            age = 0.0 if found.oldest_at is None else (now - found.oldest_at).total_seconds()
            self._oldest.labels(sink.value).set(max(0.0, age))


def monitoring_app(
    metrics: Metrics,
    store: Space,
    catalog: DropoffRows,
    outbox: Outbox,
    clock: Clock,
    trusted: TrustedTime,
    shortages: Callable[[], list[str]],
) -> web.Application:
    """Return the application of the monitoring listener; `shortages` names the volumes that take nothing more."""

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def look() -> list[str]:
        below = ["free disk space is below store.free_space_floor"] if await store.free_bytes() <= 0 else []
        return below + await asyncio.to_thread(shortages)

    async def readyz(_request: web.Request) -> web.Response:
        try:
            await catalog.version()
            # Beside the event loop, and not for ever: a file system that hangs would hold everything up.
            async with asyncio.timeout(_LOOK_SECONDS):
                missing = await look()
        except TimeoutError:
            return web.Response(status=503, text="not ready: the disk does not answer\n")
        except (DropoffError, OSError) as error:
            return web.Response(status=503, text=f"not ready: {type(error).__name__}\n")
        if missing:
            return web.Response(status=503, text=f"not ready: {'; '.join(missing)}\n")
        # Uploads are still received, so nobody is to be sent away, but monitoring should show it.
        problems = [problem for problem in (trusted.problem, metrics.audit_problem) if problem is not None]
        return web.Response(text=f"ready, but {'; '.join(problems)}\n" if problems else "ready\n")

    async def show(_request: web.Request) -> web.Response:
        try:
            backlog = await outbox.backlog()
        except DropoffError:
            backlog = None
        metrics.show_backlog(backlog, clock.now())
        metrics.clock_ahead.set(trusted.problem is not None)
        metrics.audit_broken.set(metrics.audit_problem is not None)
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", show)
    return app
