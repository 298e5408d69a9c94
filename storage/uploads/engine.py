"""The store on local files: implements `dropoff_tus.ports.store.Store` by wiring the rooms below it.

The event loop only sequences; every file operation and all cryptography run in worker threads (`storage.threads`).

| room | does |
|---|---|
| `storage.uploads.base` | settings, keys, paths, what is known of uploads |
| `storage.uploads.creation` | a new upload's files |
| `storage.uploads.leases`, `storage.uploads.lease` | who may write; appending, committing, finishing, ending |
| `storage.uploads.reading` | plain bytes back |
| `storage.uploads.receipts`, `storage.uploads.shredding` | what finishing and ending leave, and what they take away |

Source: docs/format.md.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any, TypeVar

from dropoff_tus.errors import DropoffError, KeyMissingError
from dropoff_tus.ids import is_upload_id
from dropoff_tus.model import Dropoff, Metadata, Mode, StoredUpload
from dropoff_tus.ports.store import NewUpload
from dropoff_tus.states import UploadState
from storage.files.durable import Disk
from storage.files.layout import Layout
from storage.keyring.keys import ServerKeys
from storage.threads import Threads
from storage.uploads import creation, receipts, shredding
from storage.uploads.base import StoreBase, StoreSettings
from storage.uploads.chain import Chain
from storage.uploads.lease import FileLease
from storage.uploads.leases import Leases
from storage.uploads.log import LogState
from storage.uploads.reading import open_own_envelope, read_plain
from storage.uploads.recovery import not_found

__all__ = ["FileStore", "StoreSettings"]

T = TypeVar("T")
_SURVEYORS = 4
"""Threads of a start: while one waits for the disk, another verifies."""


class FileStore:
    """Uploads as age segments and signed logs in two folders."""

    def __init__(
        self, settings: StoreSettings, keys: ServerKeys, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """Take settings and keys. The folders are there: `storage.files.marker` makes them, or refuses others."""
        self._base = StoreBase(settings, keys, clock)
        self._pools = Threads(sync=settings.durability == "fsync")
        self._leases = Leases(self._base, self._pools)

    @property
    def base(self) -> StoreBase:
        """The base of the store, for its maintenance beside the ports."""
        return self._base

    @property
    def layout(self) -> Layout:
        """Where the files lie."""
        return self._base.layout

    @property
    def disk(self) -> Disk:
        """How they are written."""
        return self._base.disk

    # ---- life -----------------------------------------------------------------------------------------------

    async def stop_appends(self) -> None:
        """Stop running appends: each commits and raises ServerShutdownError. New ones are refused."""
        await self._leases.stop()

    async def close(self) -> None:
        """Stop what runs, and let the threads go."""
        await self.stop_appends()
        self._leases.close()
        self._pools.close()

    def announce(self) -> bool:
        """Say that a server runs on this store, until it is closed or the process dies.

        Returns:
            Whether no other did at that moment: then whoever was creating an upload before it is dead.
        """
        return self._leases.announce()

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Run file work in a thread."""
        return await self._pools.run(work, *arguments)

    # ---- creating -------------------------------------------------------------------------------------------

    async def create(self, new: NewUpload) -> StoredUpload:
        """Make an upload with no bytes; see the port."""
        return await self.run(creation.create, self._base, new)

    def verify_terms(self, drop: Dropoff) -> None:
        """Refuse terms that were not signed; see the port."""
        self._base.keys.verify_terms(drop)

    async def forget(self, upload_id: str) -> None:
        """Remove every file of an upload that holds nothing acknowledged, or of a tombstone."""
        self._base.known.forget(upload_id)
        await self.run(creation.remove_files, self._base, self.layout.of(upload_id))

    async def cut_off(self, upload_id: str, before: datetime) -> bool:
        """Tell whether a creation died before it wrote the log, before a time: nothing here was ever acknowledged."""
        return await self.run(creation.is_cut_off, self.layout.of(upload_id), before)

    async def begun(self, upload_id: str) -> bool:
        """Tell whether an upload has bytes or records beyond its creation, acknowledged or not."""
        state = await self.run(self.load, upload_id)
        return bool(state.data_bytes) or state.log_bytes > state.create_bytes

    async def leftovers(self, upload_id: str) -> bool:
        """Tell whether of an upload more is here than the tombstone of one that has ended, whatever its log says."""

        def work() -> bool:
            base = self._base
            return shredding.leftovers(base, upload_id) or shredding.is_longer_than_tombstone(base, upload_id)

        return await self.run(work)

    async def unsealed(self, upload_id: str) -> bool:
        """Tell whether an envelope to the server lies beside a sealed upload that is finished, or a part of it."""
        return await self.run(lambda: shredding.unsealed(self._base, self.load(upload_id)))

    async def claimed_drop(self, upload_id: str) -> str | None:
        """Return the drop-off that an upload's log names, without believing it."""
        return await self.run(shredding.claimed_drop, self._base, upload_id)

    async def tombstone(self, upload_id: str) -> dict[str, Any]:
        """Return what the log still says of an upload that has ended."""
        return await self.run(shredding.tombstone, self._base, upload_id)

    # ---- knowing --------------------------------------------------------------------------------------------

    async def stat(self, upload_id: str) -> StoredUpload:
        """Return the durable state; see the port."""
        return (await self.run(self.load, upload_id)).stored()

    def load(self, upload_id: str) -> LogState:
        """Return the log's state, in the calling thread."""
        return self._base.load(upload_id)

    def chain(self, upload_id: str, *, every_signature: bool = False) -> Chain:
        """Read and verify a whole log, in the calling thread."""
        return self._base.chain(upload_id, every_signature=every_signature)

    async def waiting(self, upload_ids: Sequence[str]) -> set[str]:
        """Tell quickly who plainly waits for bytes; see the port."""

        def work(some: Sequence[str]) -> set[str]:
            return {upload_id for upload_id in some if self._base.waits(upload_id)}

        # A thread takes many: handing over one by one would take as long as the reading.
        shares = [upload_ids[start::_SURVEYORS] for start in range(_SURVEYORS)]
        return set().union(*await asyncio.gather(*(self.run(work, share) for share in shares if share)))

    async def upload_ids(self) -> list[str]:
        """Return the ids of all folders, in order."""

        def work() -> list[str]:
            return sorted(p.name for p in self.layout.uploads.glob("??/*") if is_upload_id(p.name))

        return await self.run(work)

    async def metadata(self, upload_id: str) -> Metadata | None:
        """Return the client's metadata, or None; see the port."""
        known = self._base.known.get(upload_id)
        if known is not None and known.metadata is not None and known.state.mode is Mode.MANAGED:
            return known.metadata

        def work() -> Metadata | None:
            state = self.load(upload_id)
            if known is not None and known.metadata is not None:
                if not state.final or self.layout.of(upload_id).ingest_envelope.exists():
                    return known.metadata
                # Another process sealed it: this one is not to know it any longer either.
                known.metadata = known.receipt_identity = None
            try:
                return open_own_envelope(self._base, state).metadata
            except KeyMissingError:
                return None

        return await self.run(work)

    # ---- writing --------------------------------------------------------------------------------------------

    def lease(
        self,
        upload_id: str,
        *,
        offset: int | None = None,
        timeout_seconds: float = 10.0,
        idle: bool = False,
        reason: DropoffError | None = None,
    ) -> AbstractAsyncContextManager[FileLease]:
        """Take an upload over; see the port."""
        return self._leases.lease(upload_id, offset=offset, timeout_seconds=timeout_seconds, idle=idle, reason=reason)

    async def receiving(self, upload_id: str) -> bool:
        """Tell whether anybody has the lease now; see the port."""
        return await self._leases.receiving(upload_id)

    def joining(self) -> AbstractAsyncContextManager[None]:
        """Make concatenations one at a time; see the port."""
        return self._leases.joining()

    def held(self, upload_id: str) -> bool:
        """Tell whether a request of this process has the lease now."""
        return self._leases.held(upload_id)

    async def settle(self, upload_id: str) -> None:
        """Let a quiet writer commit; see the port."""
        await self._leases.settle(upload_id)

    async def shred_damaged(self, upload_id: str, state: UploadState, why: str, at: datetime) -> None:
        """End and shred what does not verify; see the port."""

        def work() -> None:
            try:
                shredding.shred_damaged(self._base, upload_id, state, why, at)
            except OSError as error:
                raise self._base.failed(upload_id, error) from error

        if not is_upload_id(upload_id):
            raise not_found()
        await self.run(work)

    async def interrupt(self, upload_ids: Sequence[str], state: UploadState) -> None:
        """Stop running appends; see the port."""
        self._leases.interrupt(upload_ids, state)

    # ---- reading --------------------------------------------------------------------------------------------

    async def read(
        self, upload_id: str, *, start: int = 0, stop: int | None = None, identities: Sequence[str] = ()
    ) -> AsyncGenerator[bytes, None]:
        """Yield plain bytes of a finished upload; see the port."""
        pieces = read_plain(self._base, upload_id, start=start, stop=stop, identities=tuple(identities))
        try:
            while (piece := await self._pools.run_reading(_next_piece, pieces)) is not None:
                yield piece
        finally:
            pieces.close()

    async def receipt(self, upload_id: str, identities: Sequence[str] = ()) -> dict[str, Any] | None:
        """Return a receipt's payload, or None where it is not there or cannot be read here."""
        return await self.run(receipts.read_receipt, self._base, upload_id, identities)

    async def signed_receipt(self, upload_id: str, identities: Sequence[str] = ()) -> bytes | None:
        """Return a receipt's signed line, or None as `receipt`."""
        return await self.run(receipts.read_signed_receipt, self._base, upload_id, identities)

    async def url_receipt(self, upload_id: str, token: str) -> bytes | None:
        """Return the signed receipt for whoever has the upload's URL, or None."""
        return await self.run(receipts.read_url_receipt, self._base, upload_id, token)

    # ---- keys and space -------------------------------------------------------------------------------------

    async def free_bytes(self) -> int:
        """Return what is free above the floor."""

        def work() -> int:
            # Of another volume it would say nothing; and while the store is away nothing is admitted or called ready.
            self._base.check_roots()
            return self._base.free_bytes()

        return await self.run(work)

    def coming_bytes(self, *, without: str = "") -> dict[str, int]:
        """Return what uploads that receive will take soon; see the port."""
        return self._leases.coming_bytes(without)


def _next_piece(pieces: Iterator[bytes]) -> bytes | None:
    return next(pieces, None)
