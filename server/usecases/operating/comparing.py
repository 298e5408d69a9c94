"""The findings of `store check` where store and catalog disagree. The store is the truth about bytes.

A running server moves both, one after the other, so a disagreement is looked at twice before it is reported. `survey`
finds only what a restored copy lacks, by names and without reading logs: a server does that at each start.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from dropoff_tus import protocol
from dropoff_tus.errors import DropoffError, UploadNotFoundError
from dropoff_tus.model import Role, StoredUpload, UploadRow
from dropoff_tus.ports.catalog import UploadRows
from dropoff_tus.ports.store import Here
from dropoff_tus.states import ACKNOWLEDGED, ENDED, UploadState

_SETTLED_SECONDS = 1.0
_PAGE_ROWS = 1000
STATS_AT_ONCE = 64
"""How many a thread looks at in one turn: some 20 ms."""
_YOUNG = timedelta(minutes=10)


class Stats(Protocol):
    """The store, where only the state of uploads is needed."""

    async def stat_all(self, upload_ids: Sequence[str]) -> list[StoredUpload | DropoffError]:
        """Return the durable state of uploads, not too many of them, or why one cannot be told."""
        ...


class ComparedStore(Stats, Protocol):
    """The store, as a comparison needs it."""

    async def upload_ids(self) -> list[str]:
        """Return all uploads that have a folder."""
        ...

    async def keyed_ids(self) -> set[str]:
        """Return all uploads of which there is an envelope."""
        ...

    def unsealed(self, stored: StoredUpload) -> bool:
        """Tell whether the server's envelope of a finished sealed upload is there again."""
        ...

    def here(self, upload_id: str) -> Here:
        """Tell which files of an upload there are."""
        ...


@dataclass(frozen=True, slots=True)
class Survey:
    """The finished uploads that the store lacks, with the reason, and those in the store that the catalog lacks."""

    lost: dict[str, str] = field(default_factory=dict)
    unknown: list[StoredUpload] = field(default_factory=list)

    @property
    def problem(self) -> str | None:
        """Say what is missing; None if nothing is."""
        found = [
            f"{len(self.lost)} finished uploads of the catalog are not in the store" if self.lost else "",
            f"{len(self.unknown)} uploads of the store are not in the catalog" if self.unknown else "",
        ]
        said = " and ".join(filter(None, found))
        return f"{said}: `dropoff-tus store check` names them" if said else None


async def survey(catalog: UploadRows, store: ComparedStore) -> Survey:
    """Look for what a restored catalog or store lacks, by names; beside running servers."""
    # In this order: the row of an upload is there before its files, and its files before it is complete.
    complete = [row async for row in all_rows(catalog, [UploadState.COMPLETE])]
    ids = await store.upload_ids()
    known = {row.id async for row in all_rows(catalog)}
    return Survey(await lost(catalog, store, complete), await _begun(store, (one for one in ids if one not in known)))


async def lost(catalog: UploadRows, store: ComparedStore, rows: Iterable[UploadRow]) -> dict[str, str]:
    """Return, by upload, what the store lacks of these, which the catalog called complete and still does."""
    there, keyed = set(await store.upload_ids()), await store.keyed_ids()
    found = {}
    for row in rows:
        if row.id in there and row.id in keyed:
            continue
        present = await catalog.upload(row.id)
        if present is not None and present.state is UploadState.COMPLETE:
            what = "its envelope is missing" if row.id in there else "the store lacks it"
            found[row.id] = f"the catalog calls it complete, but {what}: get it back from a backup"
    return found


async def all_rows(catalog: UploadRows, states: Sequence[UploadState] = ()) -> AsyncIterator[UploadRow]:
    """Yield all rows in pages, so that a long list holds nobody up."""
    after = None
    while page := await catalog.uploads(states=states, after=after, limit=_PAGE_ROWS):
        for row in page:
            yield row
        after = page[-1].created_at, page[-1].id


async def _begun(store: ComparedStore, ids: Iterable[str]) -> list[StoredUpload]:
    """Return which of these have bytes, or are finished, and have not ended."""
    return [
        stored
        async for _, stored in stats(store, ids)
        if isinstance(stored, StoredUpload) and stored.ended is None and (stored.offset or stored.final)
    ]


async def stats(store: Stats, ids: Iterable[str]) -> AsyncIterator[tuple[str, StoredUpload | DropoffError]]:
    """Yield the durable state of uploads by their ids, in order, or why it cannot be told."""
    waiting = list(ids)
    for start in range(0, len(waiting), STATS_AT_ONCE):
        some = waiting[start : start + STATS_AT_ONCE]
        for found in zip(some, await store.stat_all(some), strict=True):
            yield found


async def compare(
    catalog: UploadRows, store: ComparedStore, upload_id: str | None, checked: Mapping[str, StoredUpload]
) -> dict[str, str]:
    """Return every disagreement by upload, of one upload or of all.

    Args:
        catalog: One side.
        store: The other one.
        upload_id: Which; None means all.
        checked: Where uploads stood that a check of the store found right, so that they are not all read again.
    """
    if upload_id is not None:
        rows = {upload_id: await catalog.upload(upload_id)}
    else:
        ids = {*await store.upload_ids()} | await store.keyed_ids()
        # After the store, so that what is created meanwhile has its row.
        rows = {**dict.fromkeys(ids), **{row.id: row async for row in all_rows(catalog)}}
    suspects = [one for one, stored in checked.items() if one in rows and _disagreement(rows[one], store, one, stored)]
    unread = sorted(rows.keys() - checked.keys())
    suspects += [one async for one, stored in stats(store, unread) if _disagreement(rows[one], store, one, stored)]
    if suspects:
        await asyncio.sleep(_SETTLED_SECONDS)
    found = {}
    async for one, stored in stats(store, sorted(suspects)):
        if problem := _disagreement(await catalog.upload(one), store, one, stored):
            found[one] = problem
    return found


def _disagreement(
    row: UploadRow | None, store: ComparedStore, upload_id: str, found: StoredUpload | DropoffError
) -> str | None:
    if isinstance(found, DropoffError) and not isinstance(found, UploadNotFoundError):
        return None  # the check of the store itself tells that
    stored = found if isinstance(found, StoredUpload) else None
    if row is None:
        return _unknown_to_catalog(store, upload_id, stored)
    problem = None
    if row.state in ACKNOWLEDGED:
        problem = _whole(store, row, stored)
        if problem is None and row.state is UploadState.COMPLETE and stored is not None and store.unsealed(stored):
            problem = "it is sealed, but the server's envelope is back; run `dropoff-tus store sweep`"
    elif row.state not in ENDED:
        problem = _unfinished(store, row, stored)
    elif stored is not None and stored.ended is None:
        problem = f"the catalog calls it {row.state.value}, but its bytes are still in the store"
    return (protocol.disagreement(row, stored) if stored is not None else None) or problem


def _whole(store: ComparedStore, row: UploadRow, stored: StoredUpload | None) -> str | None:
    """Judge an upload that the catalog calls complete."""
    calls = f"the catalog calls it {row.state.value}, but"
    problem = None
    if stored is None:
        problem = f"{calls} the store lacks it: get it back from a backup"
    elif stored.ended is not None:
        problem = f"{calls} it was {stored.ended.value} in the store; run `dropoff-tus store sweep`"
    elif not stored.final:
        problem = f"{calls} it is not finished in the store: was an older copy restored?"
    elif row.state is UploadState.COMPLETE and row.role is not Role.PARTIAL:
        problem = None if store.here(row.id).receipt else "its receipt is missing"
    return problem


def _unfinished(store: ComparedStore, row: UploadRow, stored: StoredUpload | None) -> str | None:
    """Judge an upload that the catalog waits for."""
    if stored is None:
        # The row comes first, and a creation may be on its way.
        old = row.created_at < datetime.now(UTC) - _YOUNG
        return (
            "the catalog waits for it, but the store lacks it; the server forgets it when it expires" if old else None
        )
    if stored.ended is not None:
        return f"it was {stored.ended.value} in the store, but the catalog waits for it; restart the server"
    here = store.here(row.id)
    missing = stored.mode not in here.own_envelopes
    if stored.whole and missing and not (stored.final and here.receipt):
        return (
            "all its bytes are here, but the server's envelope is missing, so it stays unfinished; `dropoff-tus "
            f"upload export {row.id} --identity FILE` reads it with a root identity"
        )
    if stored.final:
        return "it is finished in the store, but the catalog does not say so; restart the server"
    if missing:
        return "the server's envelope is missing, so it cannot go on; put it back, or the folder keys.ingest_dir"
    return None


def _unknown_to_catalog(store: ComparedStore, upload_id: str, stored: StoredUpload | None) -> str | None:
    if stored is None:
        if store.here(upload_id).folder:
            return None  # the check of the store itself tells that
        return "there are keys of it, but neither store nor catalog has it: is the store whole?"
    if stored.ended is not None:
        return None
    if stored.final:
        return (
            f"it is finished, but the catalog does not know it; `dropoff-tus upload export {upload_id}` reads it, "
            "`dropoff-tus store adopt` takes it back"
        )
    if stored.offset or stored.whole:
        return (
            f"it has begun ({stored.offset} bytes), but the catalog does not know it; `dropoff-tus store adopt` takes "
            "it back"
        )
    return "it holds nothing and the catalog does not know it; `dropoff-tus store sweep` removes it"
