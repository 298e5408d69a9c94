"""The application's services and background loops, from the first request to the last."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

from dropoff_tus.audit import AuditBrokenError
from dropoff_tus.errors import DropoffError
from server.clock import SystemClock
from server.deliveries import open_deliveries, open_pre_create, secrets_of
from server.http import appkeys
from server.http.metrics import Metrics
from server.repeats import repeats
from server.resources import give_memory_back
from server.services import Services, open_services, settle_restore
from server.usecases.api_tokens import ApiTokenGuard
from server.usecases.auth import Auth
from server.usecases.closing import ClosingWatch
from server.usecases.ending import lost_before
from server.usecases.operating.comparing import survey
from server.usecases.operating.purging import PurgeJobs
from server.usecases.wrong_credentials import WrongCredentials

_log = logging.getLogger(__name__)
_EXPIRE_EVERY_SECONDS = 60.0
_POLL_EVERY_SECONDS = 2.0
_DELIVER_EVERY_SECONDS = 1.0
_AUDIT_EVERY_SECONDS = 60.0
_TRIM_EVERY_SECONDS = 15.0
_SURVEY_EVERY_SECONDS = 3600.0


async def services(app: web.Application) -> AsyncIterator[None]:
    """Open everything before the first request, and close it after the last. For `cleanup_ctx`."""
    config = app[appkeys.CONFIG]
    app[appkeys.METRICS] = metrics = Metrics()
    secrets = secrets_of(config)
    async with (
        open_services(config) as opened,
        open_deliveries(config, secrets, opened, metrics.count_delivery) as deliveries,
        open_pre_create(config, secrets) as pre_create,
    ):
        if pre_create is not None:
            app[appkeys.PRE_CREATE] = pre_create
        app[appkeys.STORE] = opened.store
        app[appkeys.CATALOG] = opened.catalog
        app[appkeys.OUTBOX] = opened.catalog.outbox
        app[appkeys.UPLOADS] = opened.uploads
        app[appkeys.DROPOFFS] = opened.dropoffs
        app[appkeys.ENDED_DROPS] = opened.ended
        purge_jobs = app[appkeys.PURGE_JOBS] = PurgeJobs(opened.purger, opened.catalog)
        wrong_per_hour = config.limits.wrong_codes_per_hour
        wrong = app[appkeys.WRONG_CREDENTIALS] = WrongCredentials(opened.catalog)
        app[appkeys.AUTH] = Auth(opened.catalog, opened.keys.code_mac, opened.keys.verify_terms, wrong_per_hour, wrong)
        app[appkeys.API_TOKENS] = ApiTokenGuard(
            opened.catalog, opened.keys.api_token_mac, SystemClock(), wrong_per_hour, wrong, opened.revoked
        )

        async def stop(_app: web.Application) -> None:
            # In this order: an upload that is checked in the background would hold its lease until it is read.
            await purge_jobs.stop()
            await opened.uploads.finisher.stop()
            await opened.store.stop_appends()
            with contextlib.suppress(DropoffError):
                await wrong.record()

        app.on_shutdown.append(stop)
        began = SystemClock().now()
        # Where another server runs, it may be creating what the store does not have yet.
        report = await opened.uploads.reconciler.reconcile(began if opened.store.announce() else lost_before(began))
        _log.info(
            "reconciled",
            extra={
                "finished": report.finished,
                "dropped": report.dropped,
                "ended": report.ended,
                "problems": len(report.problems or ()),
            },
        )
        # After it, and before the first delivery: what it finished anew was told by whoever had finished it, perhaps.
        await settle_restore(config, opened.catalog)
        watch = ClosingWatch(opened.catalog, opened.ended, opened.uploads.ender.end_open)

        async def look_after_audit() -> None:
            repeats.tell()
            await wrong.record()
            try:
                await opened.checkpoints.sign()
            except AuditBrokenError:
                if opened.checkpoints.problem != metrics.audit_problem:
                    _log.error(opened.checkpoints.problem)
            metrics.audit_problem = opened.checkpoints.problem

        loops = [
            asyncio.create_task(_repeat(_SURVEY_EVERY_SECONDS, lambda: _look_for_losses(opened, metrics))),
            asyncio.create_task(_repeat(_AUDIT_EVERY_SECONDS, look_after_audit)),
            asyncio.create_task(_repeat(_EXPIRE_EVERY_SECONDS, opened.uploads.expirer.expire)),
            asyncio.create_task(_repeat(_POLL_EVERY_SECONDS, watch.look)),
            asyncio.create_task(_repeat(_TRIM_EVERY_SECONDS, lambda: asyncio.to_thread(give_memory_back))),
            *(asyncio.create_task(_repeat(_DELIVER_EVERY_SECONDS, sink.look)) for sink in deliveries),
        ]
        yield
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        await watch.stop()
        repeats.tell()


async def _look_for_losses(opened: Services, metrics: Metrics) -> None:
    """Tell what catalog and store lack of each other: after a restore, or where files were removed."""
    found = (await survey(opened.catalog, opened.store)).problem
    if found is not None and found != metrics.store_problem:
        _log.error(found)
    metrics.store_problem = found


async def _repeat(seconds: float, work: Callable[[], Awaitable[object]]) -> None:
    while True:
        try:
            await work()
        except DropoffError as error:
            _log.debug("background work is repeated", extra={"code": error.code})
        except Exception:  # noqa: BLE001 - one failure must not end what watches over closing and expiry
            _log.exception("background work failed")
        await asyncio.sleep(seconds)
