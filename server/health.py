"""Monitoring on a listener of its own: alive, ready, metrics. No label carries an id."""

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from dropoff_tus.errors import DropoffError
from dropoff_tus.ports import Catalog, Store


class Metrics:
    """What is counted."""

    def __init__(self) -> None:
        """Make a registry of our own."""
        self.registry = CollectorRegistry()
        self.requests = Counter("dropoff_requests", "Requests answered.", ["method", "status"], registry=self.registry)
        self.seconds = Histogram("dropoff_request_seconds", "Time to answer.", ["method"], registry=self.registry)
        self.running = Gauge("dropoff_requests_running", "Requests being answered.", registry=self.registry)


def monitoring_app(metrics: Metrics, store: Store, catalog: Catalog) -> web.Application:
    """Return the application of the monitoring listener."""

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        try:
            await catalog.version()
            full = store.free_bytes() <= 0
        except (DropoffError, OSError) as error:
            return web.Response(status=503, text=f"not ready: {type(error).__name__}\n")
        if full:
            return web.Response(status=503, text="not ready: free disk space is below store.free_space_floor\n")
        return web.Response(text="ready\n")

    async def show(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", show)
    return app
