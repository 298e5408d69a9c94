"""What `store sweep` removes: what expired, was kept long enough, is left of ended uploads, or empty and unknown.

It may run beside the server: each upload is looked at again under its lease, and what nobody knows has to be old, since
a creation in progress could look like it. Finished uploads go only when their drop-off keeps them no longer, begun and
unreadable ones never, whatever the catalog says: they may be all there is.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from dropoff_tus import protocol
from dropoff_tus.errors import DropoffError, PolicyTamperedError
from dropoff_tus.model import StoredUpload
from dropoff_tus.states import ALIVE, UploadState
from server.cli.output import steps

if TYPE_CHECKING:
    from server.services import Services
    from server.settings.config import Config

_LEASE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Item:
    """One upload to be removed: `why` is expired, retention, leftover or orphan."""

    upload_id: str
    why: str


@dataclass(frozen=True, slots=True)
class Sweep:
    """What goes or went, and what had to stay: ids with the reason. And why nothing goes by time, if so."""

    items: list[Item]
    kept: list[tuple[str, str]]
    clock_problem: str | None


async def plan(services: Services, config: Config, min_age_seconds: float) -> Sweep:
    """Say what `sweep` would remove now; changes nothing."""
    now = services.uploads.trusted_time.now()
    kept: list[tuple[str, str]] = []
    items = await _expired(services, config, now) + await _retained(services, now, kept)
    taken = {item.upload_id for item in items}
    ids = await services.store.upload_ids()
    with steps("look", len(ids)) as advance:
        for upload_id in ids:
            if upload_id not in taken:
                await _judge(services, upload_id, min_age_seconds, items, kept)
            advance(1)
    return Sweep(items, kept, services.uploads.trusted_time.problem)


async def _judge(
    services: Services, upload_id: str, min_age_seconds: float, items: list[Item], kept: list[tuple[str, str]]
) -> None:
    """Add one upload to what goes or, with the reason, to what has to stay; what is in order is neither."""
    try:
        stored = await services.store.stat(upload_id)
    except DropoffError as error:
        if await _was_cut_off(services, upload_id, min_age_seconds):
            items.append(Item(upload_id, "orphan"))
        else:
            kept.append((upload_id, f"unreadable, never removed: {error.message}"))
        return
    if stored.ended is not None:
        row = await services.catalog.upload(upload_id)
        if await services.store.leftovers(upload_id) or (row is not None and row.state is UploadState.COMPLETE):
            items.append(Item(upload_id, "leftover"))
    elif await services.catalog.upload(upload_id) is None:
        reason = _reason_to_keep(services, stored, services.uploads.trusted_time.now(), min_age_seconds)
        if reason is None:
            items.append(Item(upload_id, "orphan"))
        else:
            kept.append((upload_id, reason))
    elif await _was_unsealed(services, upload_id):
        items.append(Item(upload_id, "leftover"))


async def _was_cut_off(services: Services, upload_id: str, min_age_seconds: float) -> bool:
    """Tell whether a creation died before it wrote the log, long ago: what is here was never acknowledged."""
    paths = services.store.layout.of(upload_id)
    before = services.uploads.trusted_time.now().timestamp() - min_age_seconds

    def is_beginning() -> bool:
        if any(path.exists() for path in (paths.torn_log, paths.damaged_log, paths.receipt)):
            return False
        there = [path.stat() for path in (paths.folder, *paths.key_files) if path.exists()]
        empty = not any(path.stat().st_size for path in (paths.log, paths.data) if path.exists())
        return empty and all(found.st_mtime <= before for found in there)

    return await services.catalog.upload(upload_id) is None and await services.store.run(is_beginning)


async def _was_unsealed(services: Services, upload_id: str) -> bool:
    """Tell whether a sealed upload that is complete has its envelope to the server again, or a part of it has."""
    if not await services.store.unsealed(upload_id):
        return False
    row = await services.catalog.upload(upload_id)
    return row is not None and row.state is UploadState.COMPLETE


async def sweep(services: Services, config: Config, min_age_seconds: float) -> Sweep:
    """Remove what `plan` says; what cannot be had, or is no longer so under its lease, stays."""
    planned = await plan(services, config, min_age_seconds)
    done: list[Item] = []
    kept = list(planned.kept)
    await services.uploads.expirer.expire()
    for item in planned.items:
        try:
            if item.why in {"expired", "retention"}:
                row = await services.catalog.upload(item.upload_id)
                gone = row is None or row.state is UploadState.EXPIRED
            elif item.why == "orphan" and await _was_cut_off(services, item.upload_id, min_age_seconds):
                await services.store.forget(item.upload_id)
                gone = True
            else:
                gone = await _remove(services, item, min_age_seconds)
        except DropoffError as error:
            kept.append((item.upload_id, error.message))
            continue
        if gone:
            done.append(item)
        else:
            kept.append((item.upload_id, "it changed meanwhile, or is in use"))
    return Sweep(done, kept, planned.clock_problem)


async def _expired(services: Services, config: Config, now: datetime) -> list[Item]:
    if not config.tus.expire_after:
        return []
    before = now - timedelta(seconds=config.tus.expire_after)
    idle: set[str] = set()
    for row in await services.catalog.uploads(states=[UploadState.OPEN], created_before=before):
        with suppress(DropoffError):
            stored = await services.store.stat(row.id)
            if stored.last_commit_at <= before and not stored.whole and not await services.store.receiving(row.id):
                idle.add(row.id)
    parts = await services.catalog.uploads(states=ALIVE, unclaimed=True)
    parts = protocol.forgotten_parts([row for row in parts if row.id not in idle], now, config.tus.expire_after)
    return [Item(upload_id, "expired") for upload_id in (*sorted(idle), *(row.id for row in parts))]


async def _retained(services: Services, now: datetime, kept: list[tuple[str, str]]) -> list[Item]:
    """Return the finished uploads whose drop-off keeps them no longer; of one that was changed, its id goes to kept."""
    items: list[Item] = []
    for drop in await services.catalog.dropoffs():
        if not drop.terms.retain_seconds:
            continue
        try:
            services.store.verify_terms(drop)
        except PolicyTamperedError as error:
            kept.append((drop.id, error.message))
            continue
        before = now - timedelta(seconds=drop.terms.retain_seconds)
        rows = await services.catalog.uploads(
            drop_id=drop.id, states=[UploadState.COMPLETE], partials=False, created_before=before
        )
        items += [Item(row.id, "retention") for row in rows if row.completed_at and row.completed_at <= before]
    return items


def _reason_to_keep(services: Services, stored: StoredUpload, now: datetime, min_age_seconds: float) -> str | None:
    """Say why an upload that the catalog does not know is not removed; None if it may be."""
    if stored.whole:
        return "finished, never removed"
    state = services.store.load(stored.id)
    if stored.offset or state.data_bytes or state.log_bytes > state.create_bytes:
        return "begun, never removed"
    if stored.created_at > now - timedelta(seconds=min_age_seconds):
        return "younger than --min-age"
    return None


async def _remove(services: Services, item: Item, min_age_seconds: float) -> bool:
    async with services.store.lease(item.upload_id, timeout_seconds=_LEASE_SECONDS) as lease:
        stored = lease.upload
        if item.why == "leftover":
            if stored.ended is None and await _was_unsealed(services, item.upload_id):
                # Its receipt is there; what is left to do is to seal it again.
                await lease.complete({}, datetime.now(UTC))
                return True
            if stored.ended is None:
                return False
            await lease.end(stored.ended, "repeated by the operator", datetime.now(UTC))
            await services.catalog.set_state(item.upload_id, stored.ended, datetime.now(UTC))
            return True
        unknown = await services.catalog.upload(item.upload_id) is None
        if not unknown or stored.ended is not None:
            return False
        if _reason_to_keep(services, stored, services.uploads.trusted_time.now(), min_age_seconds) is not None:
            return False
        await services.store.forget(item.upload_id)
        return True
