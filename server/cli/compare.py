"""The findings of `store check` where store and catalog disagree. The store is the truth about bytes.

A running server moves both, one after the other, so a disagreement is looked at twice before it is reported.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from dropoff_tus import protocol
from dropoff_tus.errors import DropoffError, UploadDamagedError, UploadNotFoundError
from dropoff_tus.model import Role, StoredUpload, UploadRow
from dropoff_tus.states import ACKNOWLEDGED, ENDED, UploadState
from storage.uploads.check import Finding

if TYPE_CHECKING:
    from storage.catalog import SqlCatalog
    from storage.open import FileStore

_SETTLED_SECONDS = 1.0
_YOUNG = timedelta(minutes=10)


async def compare(catalog: SqlCatalog, store: FileStore, upload_id: str | None) -> list[Finding]:
    """Return every disagreement, of one upload or of all."""
    if upload_id is not None:
        ids = {upload_id}
    else:
        ids = {row.id for row in await catalog.uploads()} | set(await store.upload_ids())
        ids |= await store.run(_ids_with_keys, store)
    suspects = [one for one in sorted(ids) if await _disagreement(catalog, store, one) is not None]
    if suspects:
        await asyncio.sleep(_SETTLED_SECONDS)
    findings = [Finding(one, await _disagreement(catalog, store, one)) for one in suspects]
    return [finding for finding in findings if finding.problem is not None]


def _ids_with_keys(store: FileStore) -> set[str]:
    found = [*store.layout.keys_dir.glob("??/*.age"), *store.layout.ingest_dir.glob("*.age")]
    return {path.name.partition(".")[0] for path in found}


async def _disagreement(catalog: SqlCatalog, store: FileStore, upload_id: str) -> str | None:
    row = await catalog.upload(upload_id)
    try:
        stored: StoredUpload | None = await store.stat(upload_id)
    except UploadNotFoundError:
        stored = None
    except (UploadDamagedError, DropoffError):
        return None  # the check of the store itself tells that
    if row is None:
        return _unknown_to_catalog(store, upload_id, stored)
    problem = None
    if row.state in ACKNOWLEDGED:
        problem = _whole(store, row, stored)
        if problem is None and row.state is UploadState.COMPLETE and await store.unsealed(upload_id):
            problem = "it is sealed, but the server's envelope is back; run `dropoff-tus store sweep`"
    elif row.state not in ENDED:
        problem = _unfinished(store, row, stored)
    elif stored is not None and stored.ended is None:
        problem = f"the catalog calls it {row.state.value}, but its bytes are still in the store"
    return (protocol.disagreement(row, stored) if stored is not None else None) or problem


def _whole(store: FileStore, row: UploadRow, stored: StoredUpload | None) -> str | None:
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
        problem = None if store.layout.of(row.id).receipt.exists() else "its receipt is missing"
    return problem


def _unfinished(store: FileStore, row: UploadRow, stored: StoredUpload | None) -> str | None:
    """Judge an upload that the catalog waits for."""
    if stored is None:
        # The row comes first, and a creation may be on its way.
        old = row.created_at < datetime.now(UTC) - _YOUNG
        return (
            "the catalog waits for it, but the store lacks it; the server forgets it when it expires" if old else None
        )
    if stored.ended is not None:
        return f"it was {stored.ended.value} in the store, but the catalog waits for it; restart the server"
    if stored.final:
        return "it is finished in the store, but the catalog does not say so; restart the server"
    if not store.layout.of(row.id).own_envelope(stored.mode).exists():
        return "the server's envelope is missing, so it cannot go on; put it back, or the folder keys.ingest_dir"
    return None


def _unknown_to_catalog(store: FileStore, upload_id: str, stored: StoredUpload | None) -> str | None:
    if stored is None:
        if store.layout.of(upload_id).folder.exists():
            return None  # the check of the store itself tells that
        return "there are keys of it, but neither store nor catalog has it: is the store whole?"
    if stored.ended is not None:
        return None
    if stored.final:
        return f"it is finished, but the catalog does not know it; `dropoff-tus upload export {upload_id}` reads it"
    if stored.offset or stored.whole:
        return f"it has begun ({stored.offset} bytes), but the catalog does not know it"
    return "it holds nothing and the catalog does not know it; `dropoff-tus store sweep` removes it"
