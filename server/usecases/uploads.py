"""The use cases: create, append, head, terminate. They sequence; `dropoff_tus` decides, the ports do.

Order of effects. Creation: the catalog first (it may refuse), then the store. Finishing and ending: the store
first (it is the truth about bytes), then the catalog, which `reconcile` repairs after a crash between the two.
A PATCH in the middle of an upload of known length asks no database.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

from dropoff_tus import concat, policy, protocol
from dropoff_tus.errors import (
    DropoffError,
    DropoffFullError,
    InvalidConcatError,
    MaxSizeExceededError,
    PartNotFoundError,
    QuotaError,
    UploadFinishingError,
    UploadGoneError,
    UploadNotFoundError,
    UploadSizeExceededError,
)
from dropoff_tus.ids import is_token, upload_id
from dropoff_tus.messages import Appended, AppendPlan, Create, Created, Patch, Status, Terminated
from dropoff_tus.model import Dropoff, Grant, Role, StoredUpload, UploadRow, Usage
from dropoff_tus.ports.catalog import Catalog
from dropoff_tus.ports.clock import Clock
from dropoff_tus.ports.store import Body, Lease, NewUpload, Store
from dropoff_tus.states import ENDED, UploadState
from server.usecases import reconcile
from server.usecases.ending import Ender
from server.usecases.finishing import READ_BACK_BYTES, RETRY_SECONDS, Finisher
from server.usecases.reserving import Reservations
from server.usecases.trusted_time import TrustedTime

ReconcileReport = reconcile.ReconcileReport


@dataclass(frozen=True, slots=True)
class UploadSettings:
    """What the configuration says of uploads. 0 means no limit, or never."""

    max_upload_bytes: int = 0
    expire_after_seconds: float = 7 * 86400.0
    terminate_finished: bool = False
    body_idle_timeout_seconds: float = 60.0


class Uploads:
    """All that a tus client can ask for, over the ports."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        clock: Clock,
        new_token: Callable[[], str],
        final_token: Callable[[Sequence[str]], str],
        settings: UploadSettings,
        retry_seconds: Sequence[float] = RETRY_SECONDS,
        read_back_bytes: int = READ_BACK_BYTES,
    ) -> None:
        """Take the ports, the source of tokens, the token of a concatenation by its parts', and settings.

        The last two say when finishing is repeated, and up to which size it reads back while the client waits.
        """
        self._store, self._catalog, self._clock = store, catalog, clock
        self._new_token, self._final_token, self._settings = new_token, final_token, settings
        self.trusted_time = TrustedTime(catalog, clock)
        self._finisher = Finisher(store, catalog, clock, retry_seconds, read_back_bytes)
        self._reservations = Reservations(store, catalog, settings.max_upload_bytes)
        self._ender = Ender(
            store,
            catalog,
            clock,
            self.trusted_time,
            self._finisher,
            expire_after_seconds=settings.expire_after_seconds,
            terminate_finished=settings.terminate_finished,
        )

    async def close(self) -> None:
        """Stop background work; what is not done is done by `reconcile` at the next start."""
        await self._finisher.close()

    # ---- creating ---------------------------------------------------------------------------------------------

    async def create(self, grant: Grant, drop_url: str, request: Create, body: Body | None) -> Created:
        """Create an upload, with its first bytes if they came along.

        Args:
            grant: The proven right to.
            drop_url: The drop-off's URL, ending in a slash; the upload's is this and its token.
            request: What was asked.
            body: The bytes, where request.body says that some come along.

        Raises:
            DropoffError: Whatever refuses it. Then nothing of it lingers, unless every byte had come.
        """
        if request.role is Role.FINAL:
            return await self._concatenate(grant.dropoff, drop_url, request)
        token = self._new_token()
        row = self._new_row(grant.dropoff, token, request, request.length)
        row = await self._admit(row, request)
        stored = await self._create_stored(row, token, request, grant.dropoff)
        created = Created(drop_url + token, stored.id, expires_at=self._expires_at(stored))
        if request.body is None and not stored.whole:
            return created
        async with self._store.lease(stored.id, offset=0) as lease:
            if request.body is not None and body is not None:
                await self._first_bytes(lease, request, body)
            receipt = await self._finisher.finish(lease) if lease.upload.whole else False
            upload = lease.upload
        return replace(
            created,
            offset=upload.offset if request.body is not None else None,
            expires_at=self._expires_at(upload),
            receipt=f"{created.location}/receipt" if receipt else None,
        )

    def _new_row(self, drop: Dropoff, token: str, request: Create, length: int | None) -> UploadRow:
        return UploadRow(
            id=upload_id(token),
            drop_id=drop.id,
            role=request.role,
            mode=drop.policy.mode,
            state=UploadState.OPEN,
            created_at=self._clock.now(),
            length=length,
            reserved_bytes=length or 0,
        )

    async def _admit(self, row: UploadRow, request: Create, parts: Sequence[str] = ()) -> UploadRow:
        """Let the drop-off's policy decide, and reserve, in one transaction."""
        space = policy.Space(self._store.free_bytes(), self._store.coming_bytes())
        asked = policy.Request(row.role, row.length, row.reserved_bytes, request.metadata)
        server_max = self._settings.max_upload_bytes

        def decide(dropoff: Dropoff, usage: Usage) -> None:
            policy.admit(dropoff, usage, asked, now=row.created_at, server_max_bytes=server_max, space=space)
            if request.body is not None:
                limit = policy.max_upload_bytes(server_max, dropoff.limits)
                protocol.plan_body(0, row.length, request.body, limit)

        try:
            return await self._catalog.add_upload(row, decide, parts=parts)
        except (DropoffFullError, QuotaError):
            # Creations whose answer was lost hold what they reserved until they expire.
            if not await self._ender.expire_lost(row.drop_id):
                raise
        return await self._catalog.add_upload(row, decide, parts=parts)

    async def _create_stored(
        self, row: UploadRow, token: str, request: Create, drop: Dropoff, parts: tuple[str, ...] = ()
    ) -> StoredUpload:
        new = NewUpload(
            id=row.id,
            token=token,
            drop_id=drop.id,
            role=row.role,
            policy=drop.policy,
            metadata=request.metadata,
            created_at=row.created_at,
            length=row.length,
            parts=parts,
            digests=tuple(digest.algorithm for digest in request.digests),
        )
        try:
            return await self._store.create(new)
        except BaseException:
            # Should this fail too, expiry and reconcile find a row without an upload and drop it.
            with suppress(DropoffError):
                await self._catalog.drop_upload(row.id)
            raise

    async def _first_bytes(self, lease: Lease, request: Create, body: Body) -> None:
        """Append what came with a creation. The client has no URL yet, so a failed creation leaves nothing."""
        if request.body is None:
            return
        plan = protocol.plan_body(0, lease.upload.length, request.body, self._settings.max_upload_bytes)
        try:
            if lease.upload.length is None:
                body = await self._reservations.prepare(lease.upload, plan, body)
            await self._append(lease, body, plan)
        except DropoffError as error:
            if not lease.upload.whole:
                error.fate = "this upload is undone and nothing of it is kept, create it anew"
                with suppress(DropoffError):
                    await self._ender.end(lease, UploadState.TERMINATED, "creation failed")
            raise

    # ---- concatenating ----------------------------------------------------------------------------------------

    async def _concatenate(self, drop: Dropoff, drop_url: str, request: Create) -> Created:
        """Make a final of partials; the same parts in the same order again are the same upload."""
        token = self._final_token(request.parts)
        parts = tuple(upload_id(part) for part in request.parts)
        location = drop_url + token
        async with self._store.joining():
            row = await self._catalog.upload(upload_id(token))
            if row is None:
                length = await self.parts_bytes(drop, request.parts)
                row = await self._admit(self._new_row(drop, token, request, length), request, parts)
            elif row.drop_id != drop.id:
                raise PartNotFoundError("a part of the concatenation is no upload of this drop-off")
            elif protocol.is_success(row.state):
                receipt = row.state is UploadState.COMPLETE
                return Created(location, row.id, receipt=f"{location}/receipt" if receipt else None)
            try:
                await self._store.stat(row.id)
            except UploadNotFoundError:
                await self._create_stored(row, token, request, drop, parts)
        async with self._store.lease(row.id) as lease:
            receipt = await self._finisher.finish(lease)
        return Created(location, row.id, receipt=f"{location}/receipt" if receipt else None)

    async def parts_bytes(self, drop: Dropoff, tokens: Sequence[str]) -> int:
        """Add up the parts. Whether they may be claimed is the catalog's to say, in its transaction."""
        total = 0
        for token in tokens:
            try:
                stored = await self._stat(drop.id, token)
            except UploadNotFoundError:
                raise PartNotFoundError("a part of the concatenation is no upload of this drop-off") from None
            except UploadGoneError as error:
                message = f"a part of the concatenation is gone, upload it anew: {error.message}"
                raise UploadGoneError(message) from None
            if stored.role is not Role.PARTIAL or not stored.final:
                raise InvalidConcatError("every part must be a finished partial upload (Upload-Concat: partial)")
            if stored.mode is not drop.policy.mode:
                # What can read the whole has to read each part, and sealing takes every part's key away.
                raise InvalidConcatError("the drop-off's mode was changed since this part began; upload the parts anew")
            total += stored.offset
        return total

    # ---- going on ---------------------------------------------------------------------------------------------

    async def append(self, drop_id: str, token: str, request: Patch, body: Body, upload_url: str = "") -> Appended:
        """Append a body at the durable offset, and finish the upload if that was all of it.

        Raises:
            DropoffError: Whatever refuses or ends it; what arrived is durable, unless the error says otherwise.
        """
        if not is_token(token):
            raise protocol.absent()
        found, server_max = upload_id(token), self._settings.max_upload_bytes
        if self._store.held(found):
            # A hopeless request must not interrupt a healthy one.
            protocol.decide_patch(await self._stat(drop_id, token), request, server_max)
        receipt = False
        try:
            async with self._store.lease(found, offset=request.offset) as lease:
                self._check_owned(drop_id, lease.upload)
                plan = protocol.decide_patch(lease.upload, request, server_max)
                if not plan.ignore_body:
                    protocol.check_offset(lease.upload, plan)
                    protocol.check_pieces(lease.upload, plan)
                    if lease.upload.length is None:
                        # Under the lease: who declares a length settles what is reserved, and another may be writing.
                        body = await self._reservations.prepare(lease.upload, plan, body)
                    if plan.declare_length is not None:
                        await lease.declare_length(plan.declare_length, self._clock.now())
                    await self._append(lease, body, plan)
                upload = lease.upload
                if plan.ignore_body and protocol.is_success(state := await self._state(found)):
                    receipt = state is UploadState.COMPLETE and upload.role is not Role.PARTIAL
                elif upload.whole:
                    receipt = await self._finisher.finish(lease)
                    upload = lease.upload
        except UploadNotFoundError:
            raise await self._absent_or_gone(drop_id, found) from None
        url = f"{upload_url}/receipt" if receipt and upload_url else None
        return Appended(upload.offset, self._expires_at(upload), url)

    async def _append(self, lease: Lease, body: Body, plan: AppendPlan) -> None:
        """Append under the lease. Should the upload be whole in spite of an error, it is finished all the same."""
        try:
            await lease.append(
                body, plan, idle_timeout_seconds=self._settings.body_idle_timeout_seconds, hold_last=True
            )
        except (UploadSizeExceededError, MaxSizeExceededError):
            # A body that went past the end: every byte that belongs to the upload is here.
            if lease.upload.whole:
                await self._finisher.finish(lease)
            raise
        except DropoffError:
            if lease.upload.whole:
                self._finisher.finish_later(lease.upload.id)
            raise

    # ---- asking -----------------------------------------------------------------------------------------------

    async def head(self, drop_id: str, token: str) -> Status:
        """Say where an upload stands, after a quiet writer has committed.

        Raises:
            UploadFinishingError: All bytes are here, but it may still be rejected.
            UploadNotFoundError, UploadGoneError: It is not here, or not any more.
        """
        if is_token(token):
            await self._store.settle(upload_id(token))
        stored = await self._stat(drop_id, token)
        try:
            protocol.decide_head(stored, await self._state(stored.id) if stored.whole else None)
        except UploadFinishingError:
            self._finisher.finish_later(stored.id)
            raise
        metadata = await self._store.metadata(stored.id)
        shown = concat.render(stored.role, stored.parts)
        return Status(stored.offset, stored.length, metadata, self._expires_at(stored), shown)

    async def terminate(self, drop_id: str, token: str) -> Terminated:
        """End an upload for its client.

        Raises:
            TerminateFinishedError: It is finished, and the operator does not allow it.
            UploadNotFoundError, UploadGoneError, UploadLockedError: As ever.
        """
        await self._ender.terminate(await self._stat(drop_id, token))
        return Terminated()

    async def _stat(self, drop_id: str, token: str) -> StoredUpload:
        """Return an upload of this drop-off that is there, not ended and not expired."""
        if not is_token(token):
            raise protocol.absent()
        found, receiving = upload_id(token), False
        try:
            stored = await self._store.stat(found)
            if protocol.is_overdue(stored, self.trusted_time.now(), self._settings.expire_after_seconds):
                receiving = await self._store.receiving(found)
                # A writer may have committed, and let go, since it was looked at.
                stored = await self._store.stat(found)
        except UploadNotFoundError:
            raise await self._absent_or_gone(drop_id, found) from None
        self._check_owned(drop_id, stored, receiving=receiving)
        return stored

    async def _state(self, found: str) -> UploadState | None:
        row = await self._catalog.upload(found)
        return None if row is None else row.state

    async def _absent_or_gone(self, drop_id: str, found: str) -> DropoffError:
        """Return what to say of an upload that the store does not have."""
        row = await self._catalog.upload(found)
        if row is not None and row.drop_id == drop_id and row.state in ENDED:
            return protocol.gone(row.state)
        return protocol.absent()

    def _check_owned(self, drop_id: str, stored: StoredUpload, *, receiving: bool = False) -> None:
        """Refuse an upload of another drop-off, one that has ended and one that is expired."""
        if stored.drop_id != drop_id:
            raise protocol.absent()
        now, after = self.trusted_time.now(), self._settings.expire_after_seconds
        protocol.check_present(stored, now, after, receiving=receiving)

    def _expires_at(self, stored: StoredUpload) -> datetime | None:
        """Return when an upload that is there expires, if nothing more comes."""
        now, after = self.trusted_time.now(), self._settings.expire_after_seconds
        if protocol.is_overdue(stored, now, after):
            # It is there since somebody receives for it; it is idle from then on, not from its last commit.
            stored = replace(stored, last_commit_at=now)
        return protocol.expires_at(stored, after)

    # ---- for the operator and the clock -------------------------------------------------------------------------

    async def expire(self) -> int:
        """End what has been idle for too long; return how many were ended. None is while the clock is far ahead."""
        await self.trusted_time.look()
        return await self._ender.expire()

    async def end_open(self, drop_id: str) -> int:
        """End everything unfinished of a drop-off: `drop close --now`; return how many are open still."""
        return await self._ender.end_open(drop_id)

    async def delete(self, row_id: str) -> None:
        """Shred an upload for the operator, finished or not."""
        await self._ender.delete(row_id)

    async def delete_damaged(self, row_id: str) -> bool:
        """Shred an upload for the operator also if it does not verify; return whether that was so."""
        return await self._ender.delete_damaged(row_id)

    async def reconcile(self, lost_before: datetime | None = None) -> ReconcileReport:
        """Repair the catalog from the store after a crash, and finish what was to be finished.

        Args:
            lost_before: What was created until then, and is not in the store, never will be; None: all of it.
        """
        before = lost_before or self._clock.now()
        return await reconcile.reconcile(self._store, self._catalog, self._finisher, self._ender, before)
