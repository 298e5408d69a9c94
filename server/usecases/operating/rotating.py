"""Rotating the roots: the new recipients of each upload. Wrapping it is the store's.

Source: docs/reference/format.md, Rotation.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from dropoff_tus.errors import DropoffError
from dropoff_tus.ports.catalog import DropoffRows
from dropoff_tus.ports.store import Store


@dataclass(frozen=True, slots=True)
class Wrapping:
    """One upload, and the recipients of its envelope; `why` says why they are unknown."""

    upload_id: str
    recipients: tuple[str, ...] = ()
    why: str | None = None


class RootRotation:
    """Plans a rotation, upload by upload."""

    def __init__(self, store: Store, drops: DropoffRows, roots: Sequence[str]) -> None:
        """Take the ports, and the recipients of uploads whose drop-off has none of its own."""
        self._store, self._drops, self._roots = store, drops, tuple(roots)
        self._of_drops: dict[str, tuple[str, ...] | str] = {}
        """Recipients by drop-off, or why they are not known."""

    async def plan(self, upload_ids: Sequence[str]) -> AsyncIterator[Wrapping]:
        """Yield what is to be done with each of these, in order."""
        for upload_id in upload_ids:
            try:
                drop_id = (await self._store.stat(upload_id)).drop_id
            except DropoffError as error:
                yield Wrapping(upload_id, why=error.message)
                continue
            if drop_id not in self._of_drops:
                self._of_drops[drop_id] = await self._recipients_of(drop_id)
            found = self._of_drops[drop_id]
            yield Wrapping(upload_id, why=found) if isinstance(found, str) else Wrapping(upload_id, found)

    async def _recipients_of(self, drop_id: str) -> tuple[str, ...] | str:
        dropoff = await self._drops.dropoff(drop_id)
        if dropoff is None:
            return f"its drop-off {drop_id} is not in the catalog, so its recipients are unknown"
        try:
            self._store.verify_terms(dropoff)
        except DropoffError as error:
            return error.message
        return dropoff.terms.recipients or self._roots or "keys.root_recipients is empty"
