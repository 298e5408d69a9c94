"""Ending uploads by time: first a plan of what is due, which changes nothing, then its execution.

The catalog tells where to look; the store's signed log says what is old, and is asked again under the lease.
"""

import logging
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from dropoff_tus import protocol
from dropoff_tus.errors import DropoffError, PartInUseError, PolicyTamperedError, UploadNotFoundError
from dropoff_tus.model import UploadRow
from dropoff_tus.states import ALIVE, UploadState
from server.usecases.ending import Ender
from server.usecases.finishing import Finisher
from server.usecases.ports import Ports

_log = logging.getLogger(__name__)
IDLE, PART, RETAINED = "idle for too long", "part without a final", "retention is over"


@dataclass(frozen=True, slots=True)
class Due:
    """An upload whose time is over: the fixed phrase that says why, and since when nothing may have come."""

    row: UploadRow
    why: str
    before: datetime


@dataclass(frozen=True, slots=True)
class ExpiryPlan:
    """All that is due, and what else was found.

    `lost` are rows of which the store has nothing, `whole` are uploads that only wait to be finished. `changed` are
    drop-offs that were changed in the database, so that their retention ends nothing: ids with the reason.
    """

    due: list[Due] = field(default_factory=list)
    lost: list[UploadRow] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)
    changed: list[tuple[str, str]] = field(default_factory=list)


class Expirer:
    """Ends what has been idle or was kept for long enough."""

    def __init__(self, ports: Ports, finisher: Finisher, ender: Ender) -> None:
        """Take the ports, and who finishes and who ends uploads."""
        self._ports, self._finisher, self._ender = ports, finisher, ender

    async def plan(self) -> ExpiryPlan:
        """Say what is due now."""
        plan, now = ExpiryPlan(), self._ports.trusted.now()
        after_seconds = self._ports.settings.expire_after_seconds
        if after_seconds:
            await self._add_idle(plan, now - timedelta(seconds=after_seconds))
            idle = {due.row.id for due in plan.due}
            parts = await self._ports.catalog.uploads(states=ALIVE, unclaimed=True)
            forgotten = protocol.forgotten_parts([row for row in parts if row.id not in idle], now, after_seconds)
            plan.due.extend(Due(row, PART, now - timedelta(seconds=after_seconds)) for row in forgotten)
        await self._add_retained(plan, now)
        return plan

    async def execute(self, plan: ExpiryPlan) -> set[str]:
        """End what is due, if it still is; return the ids of what ended or was forgotten."""
        for upload_id in plan.whole:
            self._finisher.finish_later(upload_id)
        gone = {row.id for row in plan.lost if await self._ender.forget_lost(row)}
        return gone | {due.row.id for due in plan.due if await self._end(due)}

    async def expire(self) -> int:
        """Plan and execute; return how many ended. None does while the clock is far ahead."""
        await self._ports.trusted.look()
        return len(await self.execute(await self.plan()))

    async def _add_idle(self, plan: ExpiryPlan, before: datetime) -> None:
        store = self._ports.store
        for row in await self._ports.catalog.uploads(states=[UploadState.OPEN], created_before=before):
            try:
                stored = await store.stat(row.id)
                if stored.whole:
                    if stored.ended is None:
                        plan.whole.append(row.id)
                elif stored.last_commit_at <= before and not await store.receiving(row.id):
                    plan.due.append(Due(row, IDLE, before))
            except UploadNotFoundError:
                plan.lost.append(row)
            except DropoffError as error:
                self._ender.passed_over(row, error)

    async def _add_retained(self, plan: ExpiryPlan, now: datetime) -> None:
        for drop in await self._ports.catalog.dropoffs():
            if not drop.terms.retain_seconds:
                continue
            try:
                self._ports.store.verify_terms(drop)
            except PolicyTamperedError as error:
                _log.error(
                    "a drop-off was changed in the database, so its retention shreds nothing",
                    extra={"drop_id": drop.id, "code": error.code},
                )
                plan.changed.append((drop.id, error.message))
                continue
            before = now - timedelta(seconds=drop.terms.retain_seconds)
            rows = await self._ports.catalog.uploads(
                drop_id=drop.id, states=[UploadState.COMPLETE], partials=False, created_before=before
            )
            kept_long = [row for row in rows if row.completed_at is not None and row.completed_at <= before]
            plan.due.extend(Due(row, RETAINED, before) for row in kept_long)

    async def _end(self, due: Due) -> bool:
        """End one upload, unless somebody has it now; then it is there the next time."""
        try:
            async with self._ports.store.lease(due.row.id, idle=True) as lease:
                stored = lease.upload
                fits = not stored.whole if due.why == IDLE else stored.final
                if not fits or stored.last_commit_at > due.before:
                    return False
                await self._ender.end(lease, UploadState.EXPIRED, due.why, due.row)
        except PartInUseError:
            return False
        except DropoffError as error:
            self._ender.passed_over(due.row, error)
            return False
        return True
