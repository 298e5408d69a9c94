"""The engine: implements `dropoff_tus.ports.store.Store` on whatever `storage.backing` there is.

The event loop only sequences; every call of the backing and all cryptography run in worker threads (`storage.threads`).

| module | does |
|---|---|
| `base`, `memory` | the base of all: backing, keys, memory of uploads |
| `creation` | a new upload |
| `leases`, `lease` | who may write; appending, committing, finishing, ending |
| `reading` | plain bytes back |
| `receipts`, `shredding` | what finishing and ending leave, and what they take away |

Source: docs/reference/format.md.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from dropoff_tus.errors import DropoffError, KeyMissingError, UploadNotFoundError
from dropoff_tus.ids import is_upload_id
from dropoff_tus.model import Dropoff, Metadata, Mode, StoredUpload
from dropoff_tus.ports.store import Here, NewUpload, Seen
from dropoff_tus.states import UploadState
from storage.backing import KeyFile
from storage.threads import Threads
from storage.uploads import creation, receipts, shredding
from storage.uploads.base import StoreBase
from storage.uploads.chain import Chain
from storage.uploads.leases import Leases
from storage.uploads.log import LogState
from storage.uploads.reading import read_plain, secrets_with
from storage.uploads.recovery import not_found

_SURVEYORS = 4
"""Threads of a start: while one waits for the disk, another verifies."""


class Engine(Leases):
    """Uploads as age segments and signed logs. It inherits the leases."""

    def __init__(self, base: StoreBase, threads: Threads) -> None:
        """Take the backing and the keys, and threads of its own."""
        super().__init__(base, threads)
        self.run = threads.run
        """Runs blocking work in a thread."""

    @property
    def base(self) -> StoreBase:
        """The base of the engine, for the store's maintenance beside the ports."""
        return self._base

    # ---- life -----------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Stop what runs, and let the threads go."""
        await self.stop_appends()
        self._base.leasing.close()
        self._threads.close()

    def announce(self) -> bool:
        """Say that a server runs on this store, and answer others, until it is closed or the process dies.

        Returns:
            Whether no other did at that moment: then whoever was creating an upload before it is dead.
        """
        leasing = self._base.leasing
        alone = leasing.announce()
        leasing.neighbours.open(self.answer)
        return alone

    # ---- creating -------------------------------------------------------------------------------------------

    async def create(self, new: NewUpload) -> StoredUpload:
        """Make an upload with no bytes; see the port."""
        return await self.run(creation.create, self._base, new)

    def verify_terms(self, drop: Dropoff) -> None:
        """Refuse terms that were not signed; see the port."""
        self._base.keys.verify_terms(drop)

    # ---- knowing --------------------------------------------------------------------------------------------

    async def stat(self, upload_id: str) -> StoredUpload:
        """Return the durable state; see the port."""
        return (await self.run(self.load, upload_id)).stored()

    async def stat_all(self, upload_ids: Sequence[str]) -> list[StoredUpload | DropoffError]:
        """Return the durable state of uploads, or why one cannot be told, in one turn of one thread; as `look`."""

        def stat(upload_id: str) -> StoredUpload | DropoffError:
            try:
                return self.load(upload_id).stored()
            except DropoffError as error:
                return error

        return await self.run(lambda: [stat(upload_id) for upload_id in upload_ids])

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
        """Return the ids of all uploads, in order."""
        return await self.run(self._base.chains.ids)

    def here(self, upload_id: str) -> Here:
        """Tell which files of an upload there are."""
        key_files = self._base.key_files
        own = frozenset(mode for mode in Mode if key_files.has(upload_id, KeyFile.own(mode)))
        return Here(self._base.chains.has(upload_id), key_files.has(upload_id, KeyFile.RECEIPT), own)

    async def look(self, upload_ids: Sequence[str], identities: Sequence[str] = ()) -> list[Seen]:
        """Return what can be known of uploads, in one turn of one thread.

        Args:
            upload_ids: Which; not too many, since the thread does nothing else meanwhile.
            identities: age identities that open what the server cannot; without them the server's own are used.
        """
        return await self.run(lambda: [self._look(upload_id, identities) for upload_id in upload_ids])

    def _look(self, upload_id: str, identities: Sequence[str]) -> Seen:
        seen = Seen()
        try:
            # A list only tells. It would wait for the disk at each upload if it made sure of what is durable.
            state = self._base.load(upload_id, durable=False)
            seen = Seen(state.stored())
            if state.ended is None:
                secrets = secrets_with(self._base, state, identities)
                seen = replace(seen, metadata=secrets.metadata)
                found = receipts.open_receipt(self._base, state, secrets.receipt_key) if state.final else None
                seen = seen if found is None else replace(seen, signed_receipt=found[0], receipt=found[1])
        except DropoffError as error:
            return replace(seen, problem=error)
        return seen

    async def metadata(self, upload_id: str) -> Metadata | None:
        """Return the client's metadata, or None; see the port."""
        memory = self._base.memory
        secrets, known = memory.secrets(upload_id), memory.state(upload_id)
        if secrets is not None and known is not None and known.mode is Mode.MANAGED:
            return secrets.metadata

        def work() -> Metadata | None:
            state = self.load(upload_id)
            if secrets is not None:
                if not state.final or self._base.key_files.has(upload_id, KeyFile.INGEST):
                    return secrets.metadata
                # Another process sealed it: this one is not to know it any longer either.
                memory.forget_secrets(upload_id)
            try:
                return secrets_with(self._base, state, ()).metadata
            except KeyMissingError:
                return None

        return await self.run(work)

    # ---- reading --------------------------------------------------------------------------------------------

    async def read(
        self,
        upload_id: str,
        *,
        start: int = 0,
        stop: int | None = None,
        identities: Sequence[str] = (),
        unfinished_ok: bool = False,
    ) -> AsyncGenerator[bytes, None]:
        """Yield plain bytes of a finished upload, or of one that has all its bytes (`unfinished_ok`); see the port."""
        pieces = read_plain(
            self._base,
            upload_id,
            start=start,
            stop=stop,
            identities=tuple(identities),
            unfinished_ok=unfinished_ok,
        )
        try:
            while (piece := await self._threads.run_reading(_next_piece, pieces)) is not None:
                yield piece
        finally:
            pieces.close()

    async def read_whole(self, upload_ids: Sequence[str], identities: Sequence[str] = ()) -> list[bytes | DropoffError]:
        """Return the verified plain bytes of small finished uploads, or why one cannot be read; as `look`."""

        def work() -> list[bytes | DropoffError]:
            return [self._whole(upload_id, tuple(identities)) for upload_id in upload_ids]

        return await self._threads.run_reading(work)

    def _whole(self, upload_id: str, identities: tuple[str, ...]) -> bytes | DropoffError:
        try:
            return b"".join(read_plain(self._base, upload_id, identities=identities))
        except DropoffError as error:
            return error

    async def receipt(self, upload_id: str, identities: Sequence[str] = ()) -> dict[str, Any] | None:
        """Return a receipt's payload, or None where it is not there or cannot be read here."""
        return (await self._receipt(upload_id, identities) or (b"", None))[1]

    async def signed_receipt(self, upload_id: str, identities: Sequence[str] = ()) -> bytes | None:
        """Return a receipt's signed line, or None as `receipt`."""
        return (await self._receipt(upload_id, identities) or (None, {}))[0]

    async def _receipt(self, upload_id: str, identities: Sequence[str]) -> tuple[bytes, dict[str, Any]] | None:
        def work() -> tuple[bytes, dict[str, Any]] | None:
            with contextlib.suppress(UploadNotFoundError):
                return receipts.read_receipt(self._base, self.load(upload_id), identities)
            return None

        return await self.run(work)

    async def url_receipt(self, upload_id: str, token: str) -> bytes | None:
        """Return the signed receipt for whoever has the upload's URL, or None."""
        return await self.run(receipts.read_url_receipt, self._base, upload_id, token)

    # ---- what is left of an upload --------------------------------------------------------------------------

    async def shred_damaged(self, upload_id: str, state: UploadState, why: str, at: datetime) -> None:
        """End and shred what does not verify; see the port."""

        def work() -> None:
            with self._base.refusing(upload_id):
                shredding.shred_damaged(self._base, upload_id, state, why, at)

        if not is_upload_id(upload_id):
            raise not_found()
        await self.run(work)

    async def forget(self, upload_id: str) -> None:
        """Remove everything of an upload that holds nothing acknowledged, or of a tombstone."""
        self._base.memory.forget(upload_id)
        await self.run(self._base.chains.remove, upload_id)

    async def cut_off(self, upload_id: str, before: datetime) -> bool:
        """Tell whether a creation died before it wrote the log, before a time: nothing here was ever acknowledged."""
        return await self.run(self._base.chains.is_cut_off, upload_id, before)

    async def begun(self, upload_id: str) -> bool:
        """Tell whether an upload has bytes or records beyond its creation, acknowledged or not."""
        return not (await self.run(self.load, upload_id)).is_new

    async def leftovers(self, upload_id: str) -> bool:
        """Tell whether of an upload more is here than the tombstone of one that has ended, whatever its log says."""

        def work() -> bool:
            base = self._base
            return shredding.leftovers(base, upload_id) or shredding.is_longer_than_tombstone(base, upload_id)

        return await self.run(work)

    def unsealed(self, stored: StoredUpload) -> bool:
        """Tell whether an envelope to the server lies beside a sealed upload that is finished, or a part of it."""
        return shredding.unsealed(self._base, stored)

    async def claimed_drop(self, upload_id: str) -> str | None:
        """Return the drop-off that an upload's log names, without believing it."""
        return await self.run(shredding.claimed_drop, self._base, upload_id)

    async def tombstone(self, upload_id: str) -> dict[str, Any]:
        """Return what the log still says of an upload that has ended."""
        return await self.run(shredding.tombstone, self._base, upload_id)

    # ---- space ----------------------------------------------------------------------------------------------

    async def free_bytes(self) -> int:
        """Return what is free above the floor."""

        def work() -> int:
            # Of another volume it would say nothing; and while the store is away nothing is admitted or called ready.
            self._base.chains.check_there()
            return self._base.segments.free_bytes()

        return await self.run(work)


def _next_piece(pieces: Iterator[bytes]) -> bytes | None:
    return next(pieces, None)
