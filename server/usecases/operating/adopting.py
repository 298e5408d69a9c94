"""`store adopt`: takes back uploads that the store has and the catalog lacks, after an older catalog was restored.

The signed log says what each is, and of which drop-off. One that is finished becomes complete, as of then; one that has
all its bytes is finished now; any other is open again, so its client can go on. A drop-off that is gone too is made
again under its id, closed and with a code that nobody has.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dropoff_tus.errors import DropoffError, KeyMissingError
from dropoff_tus.ids import PROBE_DROP_ID
from dropoff_tus.model import DropTerms, Role, StoredUpload
from dropoff_tus.ports.store import Store
from dropoff_tus.states import UploadState
from server.usecases.dropoffs import Dropoffs
from server.usecases.operating.comparing import ComparedStore, survey
from server.usecases.ports import Rows
from server.usecases.uploads import Uploads

_LEASE_SECONDS = 5.0
_ORDER = (Role.PARTIAL, Role.REGULAR, Role.FINAL)


class AdoptedStore(Store, ComparedStore, Protocol):
    """The store, as adopting needs it."""


@dataclass(frozen=True, slots=True)
class Adoption:
    """The uploads that were taken back, with their states; the drop-offs made for them; the others, with the reason."""

    uploads: list[tuple[StoredUpload, UploadState | None]] = field(default_factory=list)
    drops: list[str] = field(default_factory=list)
    kept: list[tuple[str, str]] = field(default_factory=list)


class Adopter:
    """Takes uploads back."""

    def __init__(self, store: AdoptedStore, uploads: Uploads, dropoffs: Dropoffs) -> None:
        """Take the store, and the use cases of its uploads and of drop-offs."""
        self._store, self._dropoffs, self._finisher = store, dropoffs, uploads.finisher
        self._catalog: Rows = uploads.ports.catalog

    async def plan(self) -> list[StoredUpload]:
        """Return what the catalog lacks, parts before the concatenations that have them."""
        found = (await survey(self._catalog, self._store)).unknown
        return sorted(
            (one for one in found if one.drop_id != PROBE_DROP_ID), key=lambda one: (_ORDER.index(one.role), one.id)
        )

    async def execute(self, planned: Sequence[StoredUpload], *, dry_run: bool = False) -> Adoption:
        """Take these back; of a dry run only say which drop-offs would be made."""
        done = Adoption()
        for stored in planned:
            try:
                if stored.drop_id not in done.drops and await self._catalog.dropoff(stored.drop_id) is None:
                    done.drops.append(stored.drop_id)
                    if not dry_run:
                        await self._make_again(stored)
                done.uploads.append((stored, None if dry_run else await self._take_back(stored)))
            except DropoffError as error:
                done.kept.append((stored.id, _told(stored, error)))
        return done

    async def _make_again(self, stored: StoredUpload) -> None:
        terms = DropTerms(f"Taken back: {stored.drop_id}", stored.mode)
        await self._dropoffs.create(terms, drop_id=stored.drop_id)
        await self._catalog.set_closed(stored.drop_id, closed=True)

    async def _take_back(self, stored: StoredUpload) -> UploadState:
        async with self._store.lease(stored.id, timeout_seconds=_LEASE_SECONDS) as lease:
            return await self._finisher.take_back(lease, checked=self._store.here(stored.id).receipt)


def _told(stored: StoredUpload, error: DropoffError) -> str:
    """Say why an upload is not complete, and how it is read all the same."""
    if isinstance(error, KeyMissingError) and stored.whole:
        return f"{error.message}: `dropoff-tus upload export {stored.id} --identity FILE` reads it with a root identity"
    return error.message
