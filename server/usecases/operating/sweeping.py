"""`store sweep`: removes expired and retained uploads, leftovers of ended ones, and empty, unknown ones.

First a plan, which changes nothing, then its execution. It may run beside a server: each upload is looked at again
under its lease, and what nobody knows has to be old, since a creation in progress could look like it. Finished uploads
go only when their drop-off keeps them no longer, begun and unreadable ones never, whatever the catalog says: they may
be all there is.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from dropoff_tus.errors import DropoffError
from dropoff_tus.model import StoredUpload
from dropoff_tus.ports.store import StoreInventory
from dropoff_tus.states import UploadState
from server.usecases.expiring import RETAINED, ExpiryPlan
from server.usecases.operating.comparing import all_rows, stats
from server.usecases.ports import Begin
from server.usecases.uploads import Uploads

_LEASE_SECONDS = 5.0


class Why(StrEnum):
    """Why an upload goes."""

    EXPIRED = "expired"
    RETENTION = "retention"
    LEFTOVER = "leftover"
    ORPHAN = "orphan"


@dataclass(frozen=True, slots=True)
class Item:
    """One upload that goes."""

    upload_id: str
    why: Why


@dataclass(frozen=True, slots=True)
class Sweep:
    """The removed and the kept uploads, ids with the reason."""

    items: list[Item] = field(default_factory=list)
    kept: list[tuple[str, str]] = field(default_factory=list)
    expiry: ExpiryPlan = field(default_factory=ExpiryPlan)


class Sweeper:
    """Sweeps the store."""

    def __init__(self, store: StoreInventory, uploads: Uploads, min_age_seconds: float) -> None:
        """Take the store, the use cases of its uploads, and how old has to be what nobody knows."""
        self._store, self._rows, self._expirer = store, uploads.ports.catalog, uploads.expirer
        self._clock, self._trusted = uploads.ports.clock, uploads.ports.trusted
        self._min_age = timedelta(seconds=min_age_seconds)

    async def plan(self, begin: Begin) -> Sweep:
        """Say what would go now; `begin` gets the number of uploads to look at, and makes their counter."""
        plan = Sweep(expiry=await self._expirer.plan())
        plan.kept.extend(plan.expiry.changed)
        for due in plan.expiry.due:
            plan.items.append(Item(due.row.id, Why.RETENTION if due.why == RETAINED else Why.EXPIRED))
        taken = {item.upload_id for item in plan.items}
        ids = await self._store.upload_ids()
        # After the store, so that what is created meanwhile has its row.
        states = {row.id: row.state async for row in all_rows(self._rows)}
        advance = begin(len(ids))
        async for upload_id, stored in stats(self._store, ids):
            if upload_id not in taken:
                await self._judge(upload_id, stored, states.get(upload_id), plan)
            advance(1)
        return plan

    async def execute(self, plan: Sweep) -> Sweep:
        """Remove the planned ones; those in use, or changed by the time of their lease, stay."""
        done = Sweep(kept=list(plan.kept))
        ended = await self._expirer.execute(plan.expiry)
        for item in plan.items:
            try:
                by_time = item.why in {Why.EXPIRED, Why.RETENTION}
                gone = item.upload_id in ended if by_time else await self._remove(item)
            except DropoffError as error:
                done.kept.append((item.upload_id, error.message))
                continue
            if gone:
                done.items.append(item)
            else:
                done.kept.append((item.upload_id, "it changed meanwhile, or is in use"))
        return done

    async def _judge(
        self, upload_id: str, stored: StoredUpload | DropoffError, state: UploadState | None, plan: Sweep
    ) -> None:
        """Add one upload to `items`, or with the reason to `kept`; one that is in order to none."""
        if isinstance(stored, DropoffError):
            if await self._was_cut_off(upload_id):
                plan.items.append(Item(upload_id, Why.ORPHAN))
            else:
                plan.kept.append((upload_id, f"unreadable, never removed: {stored.message}"))
            return
        complete = state is UploadState.COMPLETE
        if stored.ended is not None:
            if complete or await self._store.leftovers(upload_id):
                plan.items.append(Item(upload_id, Why.LEFTOVER))
        elif state is None:
            reason = await self._reason_to_keep(stored)
            if reason is None:
                plan.items.append(Item(upload_id, Why.ORPHAN))
            else:
                plan.kept.append((upload_id, reason))
        elif complete and self._store.unsealed(stored):
            plan.items.append(Item(upload_id, Why.LEFTOVER))

    async def _was_cut_off(self, upload_id: str) -> bool:
        before = self._trusted.now() - self._min_age
        return await self._rows.upload(upload_id) is None and await self._store.cut_off(upload_id, before)

    async def _reason_to_keep(self, stored: StoredUpload) -> str | None:
        """Say why an upload that the catalog does not know is not removed; None if it may be."""
        if stored.whole:
            return "finished, never removed"
        if stored.offset or await self._store.begun(stored.id):
            return "begun, never removed"
        return "younger than --min-age" if stored.created_at > self._trusted.now() - self._min_age else None

    async def _remove(self, item: Item) -> bool:
        """Remove what is left over or nobody's; tell whether it was still so."""
        if item.why is Why.ORPHAN and await self._was_cut_off(item.upload_id):
            await self._store.forget(item.upload_id)
            return True
        async with self._store.lease(item.upload_id, timeout_seconds=_LEASE_SECONDS) as lease:
            stored, now = lease.upload, self._clock.now()
            row = await self._rows.upload(item.upload_id)
            if item.why is Why.ORPHAN:
                if row is not None or stored.ended is not None or await self._reason_to_keep(stored) is not None:
                    return False
                await self._store.forget(item.upload_id)
            elif stored.ended is not None:
                await lease.end(stored.ended, "repeated by the operator", now)
                await self._rows.set_state(item.upload_id, stored.ended, now)
            elif row is not None and row.state is UploadState.COMPLETE and self._store.unsealed(stored):
                # Its receipt is there; it only has to be sealed again.
                await lease.complete({}, now)
            else:
                return False
        return True
