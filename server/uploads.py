"""The use cases: create, append, head, terminate, expire. They sequence; `dropoff_tus` decides, the ports do.

Order of effects. Creation: catalog first (it may refuse), then the store. Finishing and ending: store first (it is the
truth about bytes), then the catalog, which `reconcile` repairs from the store after a crash between the two.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from dropoff_tus import policy, protocol
from dropoff_tus.errors import (
    ChecksumMismatchError,
    DropoffError,
    DropoffFullError,
    QuotaError,
    UploadFinishingError,
    UploadNotFoundError,
)
from dropoff_tus.ids import is_token, upload_id
from dropoff_tus.messages import Appended, AppendPlan, Create, Created, Patch, Status, Terminated
from dropoff_tus.model import Dropoff, Grant, Limits, Metadata, Mode, Role, StoredUpload, UploadRow, UploadState, Usage
from dropoff_tus.ports import Body, Catalog, Clock, Lease, NewUpload, Store
from server.finishing import Finisher

_log = logging.getLogger(__name__)
_LOST_CREATION_SECONDS = 600
_TAKEN_BACK = frozenset({UploadState.TERMINATED, UploadState.EXPIRED, UploadState.REJECTED, UploadState.DELETED})
_UNFINISHED = (UploadState.OPEN, UploadState.FINISHING, UploadState.CHECKING)


@dataclass(frozen=True, slots=True)
class UploadSettings:
    """What the configuration says of uploads. 0 means no limit, or never."""

    max_upload_bytes: int = 0
    expire_after_seconds: float = 7 * 86400.0
    terminate_finished: bool = False
    body_idle_timeout_seconds: float = 60.0


@dataclass(slots=True)
class ReconcileReport:
    """What `reconcile` did. `problems` are (upload id, error code)."""

    finished: int = 0
    dropped: int = 0
    ended: int = 0
    problems: list[tuple[str, str]] | None = None


class ReservingBody:
    """A body of an upload with a deferred length: takes no byte that is not reserved, and reserves ahead in steps."""

    def __init__(self, body: Body, left_bytes: int, more: Callable[[], Awaitable[int]]) -> None:
        """Wrap a body. `more` reserves the next step and returns its size, or refuses."""
        self._body, self._left, self._more = body, left_bytes, more
        self._ahead = bytearray(1)
        self._has_ahead = False

    async def wait(self, timeout_seconds: float) -> None:
        """Wait for bytes, or reserve more for one that came."""
        if self._has_ahead and not self._left:
            self._left = await self._more()
        else:
            await self._body.wait(timeout_seconds)

    def wake(self) -> None:
        """Pass on."""
        self._body.wake()

    def receive_into(self, buffer: memoryview) -> int | None:
        """Receive what is reserved; at the edge, only find out whether the body goes on."""
        if not self._left:
            if self._has_ahead:
                return None
            count = self._body.receive_into(memoryview(self._ahead))
            self._has_ahead = bool(count)
            return None if count else count
        if self._has_ahead:
            buffer[0] = self._ahead[0]
            self._has_ahead = False
            self._left -= 1
            return 1
        count = self._body.receive_into(buffer[: self._left])
        self._left -= count or 0
        return count


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
    ) -> None:
        """Take the ports and settings."""
        self._store, self._catalog, self._clock = store, catalog, clock
        self._new_token, self._final_token, self._settings = new_token, final_token, settings
        self._finisher = Finisher(store, catalog, clock)

    async def close(self) -> None:
        """Stop background work; what is not done is done by `reconcile` at the next start."""
        await self._finisher.close()

    # ---- creating ---------------------------------------------------------------------------------------------

    async def create(self, grant: Grant, drop_url: str, request: Create, body: Body | None) -> Created:
        """Create an upload, with its first bytes if they came along."""
        drop = grant.dropoff
        limit = policy.max_upload_bytes(self._settings.max_upload_bytes, drop.limits)
        plan: AppendPlan | None = None
        if request.body is not None:
            plan = protocol.plan_body(0, request.length, request.body, limit)
        final = request.role is Role.FINAL
        token = self._final_token(request.parts) if final else self._new_token()
        new_id = upload_id(token)
        part_ids = tuple(upload_id(part) for part in request.parts)
        row = UploadRow(
            id=new_id,
            drop_id=drop.id,
            role=request.role,
            mode=drop.policy.mode,
            state=UploadState.OPEN,
            created_at=self._clock.now(),
            length=request.length,
            reserved_bytes=request.length or 0,
        )
        row = await self._admit(row, request, part_ids)
        if final and row.state is not UploadState.OPEN:
            return Created(drop_url + token, new_id)
        stored = await self._store_new(row, token, request, drop, part_ids)
        return await self._begin(stored, token, drop_url, plan, body)

    async def _admit(self, row: UploadRow, request: Create, part_ids: tuple[str, ...]) -> UploadRow:
        space = policy.Space(self._store.free_bytes(), self._store.unfinished_bytes())
        asked = policy.Request(row.role, row.length, row.reserved_bytes, request.metadata)
        now = row.created_at

        def decide(dropoff: Dropoff, usage: Usage) -> None:
            policy.admit(dropoff, usage, asked, now=now, server_max_bytes=self._settings.max_upload_bytes, space=space)

        try:
            return await self._catalog.add_upload(row, decide, parts=part_ids)
        except (DropoffFullError, QuotaError):
            if not await self._expire_lost(row.drop_id):
                raise
            return await self._catalog.add_upload(row, decide, parts=part_ids)

    async def _expire_lost(self, drop_id: str) -> int:
        """Expire creations whose answer was lost: no byte, and idle for ten minutes."""
        before = self._clock.now() - timedelta(seconds=_LOST_CREATION_SECONDS)
        rows = await self._catalog.uploads(drop_id=drop_id, states=[UploadState.OPEN], created_before=before)
        count = 0
        for row in rows:
            with suppress(DropoffError):
                stored = await self._store.stat(row.id)
                if stored.offset == 0 and stored.last_commit_at < before and not stored.whole:
                    count += await self._end(row.id, UploadState.EXPIRED, "lost creation")
        return count

    async def _store_new(
        self, row: UploadRow, token: str, request: Create, drop: Dropoff, part_ids: tuple[str, ...]
    ) -> StoredUpload:
        if row.role is Role.FINAL:
            with suppress(UploadNotFoundError):
                return await self._store.stat(row.id)
        new = NewUpload(
            id=row.id,
            token=token,
            drop_id=drop.id,
            role=row.role,
            policy=drop.policy,
            metadata=request.metadata,
            created_at=row.created_at,
            length=request.length,
            parts=part_ids,
            digests=tuple(digest.algorithm for digest in request.digests),
        )
        try:
            return await self._store.create(new)
        except BaseException:
            await self._catalog.drop_upload(row.id)
            raise

    async def _begin(
        self, stored: StoredUpload, token: str, drop_url: str, plan: AppendPlan | None, body: Body | None
    ) -> Created:
        created = Created(drop_url + token, stored.id, expires_at=self._expires_at(stored))
        done_at_once = stored.length == 0 or stored.role is Role.FINAL
        if plan is None and not done_at_once:
            return created
        async with self._store.lease(stored.id, offset=None if stored.role is Role.FINAL else 0) as lease:
            if plan is not None and body is not None:
                try:
                    body = await self._reserving(lease.upload, plan, body)
                    await self._append(lease, body, plan)
                except ChecksumMismatchError:
                    # The client has no URL yet: nothing of this creation may linger.
                    await self._end_leased(lease, UploadState.TERMINATED, "checksum mismatch on creation")
                    raise
            receipt = None
            if lease.upload.whole or stored.role is Role.FINAL:
                receipt = await self._finisher.finish(lease, token)
            upload = lease.upload
        return replace(
            created,
            offset=upload.offset if plan is not None else None,
            expires_at=self._expires_at(upload),
            receipt=f"{created.location}/receipt" if receipt else None,
        )

    # ---- going on ---------------------------------------------------------------------------------------------

    async def append(self, drop_id: str, token: str, request: Patch, body: Body, upload_url: str = "") -> Appended:
        """Append a body. In the middle of an upload of known length no database is asked."""
        stored = await self._stat(drop_id, token)
        limits = Limits()
        if stored.length is None:
            drop = await self._catalog.dropoff(drop_id)
            limits = drop.limits if drop is not None else limits
        limit = policy.max_upload_bytes(self._settings.max_upload_bytes, limits)
        plan = protocol.decide_patch(stored, request, limit)
        if plan.ignore_body and stored.final:
            return Appended(stored.offset)
        async with self._store.lease(stored.id, offset=request.offset) as lease:
            protocol.check_present(lease.upload, self._clock.now(), self._settings.expire_after_seconds)
            plan = protocol.decide_patch(lease.upload, request, limit)
            if not plan.ignore_body:
                if lease.upload.offset != plan.offset:
                    raise protocol.mismatch(lease.upload)
                body = await self._reserving(lease.upload, plan, body)
                await self._append(lease, body, plan)
            receipt = None
            if lease.upload.whole and not lease.upload.final:
                receipt = await self._finisher.finish(lease, token)
            upload = lease.upload
        url = f"{upload_url}/receipt" if receipt and upload_url else None
        return Appended(upload.offset, self._expires_at(upload), url)

    async def _append(self, lease: Lease, body: Body, plan: AppendPlan) -> None:
        if plan.declare_length is not None and lease.upload.length is None:
            await lease.declare_length(plan.declare_length, self._clock.now())
        await lease.append(body, plan, idle_timeout_seconds=self._settings.body_idle_timeout_seconds)

    async def _reserving(self, upload: StoredUpload, plan: AppendPlan, body: Body) -> Body:
        """For a deferred length: settle the reservation if it becomes known now, else reserve ahead of the bytes."""
        if upload.length is not None:
            return body
        row = await self._catalog.upload(upload.id)
        reserved = row.reserved_bytes if row is not None else 0
        if plan.declare_length is not None:
            await self._reserve(upload.id, reserved, plan.declare_length, length=plan.declare_length)
            return body
        goal = plan.offset + plan.limit_bytes

        async def more() -> int:
            nonlocal reserved
            step = min(policy.DEFERRED_STEP_BYTES, goal - reserved)
            try:
                await self._reserve(upload.id, reserved, reserved + step)
            except QuotaError:
                drop = await self._catalog.dropoff(upload.drop_id)
                usage = await self._catalog.usage(upload.drop_id)
                left = (drop.limits.max_total_bytes - usage.bytes) if drop is not None else 0
                if left <= 0:
                    raise
                step = min(step, left)
                await self._reserve(upload.id, reserved, reserved + step)
            reserved += step
            return step

        return ReservingBody(body, max(0, reserved - plan.offset), more)

    async def _reserve(self, row_id: str, present: int, total: int, *, length: int | None = None) -> None:
        space = policy.Space(self._store.free_bytes(), self._store.unfinished_bytes())

        def decide(dropoff: Dropoff, usage: Usage) -> None:
            if total > present:
                policy.check_quota(dropoff.limits, usage, total)
                policy.check_space(total, usage, space)

        await self._catalog.reserve(row_id, total, decide, length=length)

    # ---- asking -----------------------------------------------------------------------------------------------

    async def head(self, drop_id: str, token: str) -> Status:
        """Say where an upload stands, after a quiet writer has committed."""
        if is_token(token):
            await self._store.settle(upload_id(token))
        stored = await self._stat(drop_id, token)
        if stored.whole or stored.final or stored.role is Role.FINAL:
            row = await self._catalog.upload(stored.id)
            if row is None:
                raise _absent()
            if row.state in _TAKEN_BACK:
                raise protocol.gone(row.state)
            if row.state in {UploadState.OPEN, UploadState.FINISHING}:
                self._finisher.finish_later(stored.id, token)
                message = "all bytes are here and the server is finishing; ask again shortly"
                raise UploadFinishingError(message)
        metadata: Metadata | None = None
        if not (stored.final and stored.mode is Mode.SEALED and stored.role is not Role.PARTIAL):
            metadata = await self._store.metadata(stored.id)
        concat = stored.role.value if stored.role is not Role.REGULAR else None
        return Status(stored.offset, stored.length, metadata, self._expires_at(stored), concat)

    async def terminate(self, drop_id: str, token: str) -> Terminated:
        """End an upload for its client."""
        stored = await self._stat(drop_id, token)
        protocol.check_delete(stored, terminate_finished=self._settings.terminate_finished)
        async with self._store.lease(stored.id) as lease:
            if lease.upload.ended is not None:
                raise protocol.gone(lease.upload.ended)
            protocol.check_delete(lease.upload, terminate_finished=self._settings.terminate_finished)
            await self._end_leased(lease, UploadState.TERMINATED, "by the client")
        return Terminated()

    async def _stat(self, drop_id: str, token: str) -> StoredUpload:
        """Return an upload of this drop-off that is there, not ended and not expired."""
        if not is_token(token):
            raise _absent()
        found = upload_id(token)
        try:
            stored = await self._store.stat(found)
        except UploadNotFoundError:
            row = await self._catalog.upload(found)
            if row is not None and row.drop_id == drop_id and row.state in _TAKEN_BACK:
                raise protocol.gone(row.state) from None
            raise
        if stored.drop_id != drop_id:
            raise _absent()
        protocol.check_present(stored, self._clock.now(), self._settings.expire_after_seconds)
        return stored

    def _expires_at(self, stored: StoredUpload) -> datetime | None:
        return protocol.expires_at(stored, self._settings.expire_after_seconds)

    # ---- ending -----------------------------------------------------------------------------------------------

    async def end_open(self, drop_id: str) -> None:
        """End everything unfinished of a drop-off: `drop close --now`."""
        rows = await self._catalog.uploads(drop_id=drop_id, states=[UploadState.OPEN])
        await self._store.interrupt([row.id for row in rows], UploadState.TERMINATED)
        for row in rows:
            with suppress(DropoffError):
                await self._end(row.id, UploadState.TERMINATED, "drop-off closed by the operator")

    async def expire(self) -> int:
        """End what has been idle for too long; returns how many. Then let go of ingest keys nothing needs."""
        count = 0
        now = self._clock.now()
        if self._settings.expire_after_seconds:
            before = now - timedelta(seconds=self._settings.expire_after_seconds)
            rows = await self._catalog.uploads(states=[UploadState.OPEN], created_before=before)
            rows += await self._catalog.uploads(states=[UploadState.COMPLETE], created_before=before, unclaimed=True)
            for row in rows:
                with suppress(DropoffError):
                    stored = await self._store.stat(row.id)
                    if stored.last_commit_at < before and not (stored.whole and row.state is UploadState.OPEN):
                        count += await self._end(row.id, UploadState.EXPIRED, "idle for too long")
        unfinished = await self._catalog.uploads(states=_UNFINISHED)
        unfinished += await self._catalog.uploads(states=[UploadState.COMPLETE], unclaimed=True)
        needed = {row.created_at.date().isoformat() for row in unfinished if row.mode is Mode.SEALED}
        await self._store.retire_epochs(needed)
        return count

    async def delete(self, row_id: str) -> None:
        """Shred an upload for the operator, finished or not."""
        async with self._store.lease(row_id, timeout_seconds=5) as lease:
            await self._end_leased(lease, UploadState.DELETED, "by the operator")

    async def _end(self, row_id: str, state: UploadState, why: str) -> int:
        async with self._store.lease(row_id) as lease:
            await self._end_leased(lease, state, why)
        return 1

    async def _end_leased(self, lease: Lease, state: UploadState, why: str) -> None:
        await lease.end(state, why, self._clock.now())
        await self._catalog.set_state(lease.upload.id, state, self._clock.now())

    # ---- after a crash ----------------------------------------------------------------------------------------

    async def reconcile(self) -> ReconcileReport:
        """Repair the catalog from the store, and finish what was to be finished. One bad upload stops nothing."""
        report = ReconcileReport(problems=[])
        for row in await self._catalog.uploads(states=_UNFINISHED):
            try:
                await self._reconcile_one(row, report)
            except asyncio.CancelledError:
                raise
            except DropoffError as error:
                assert report.problems is not None  # noqa: S101 - set above
                report.problems.append((row.id, error.code))
                _log.warning("reconcile left an upload as it is", extra={"upload_id": row.id, "code": error.code})
        return report

    async def _reconcile_one(self, row: UploadRow, report: ReconcileReport) -> None:
        try:
            stored = await self._store.stat(row.id)
        except UploadNotFoundError:
            await self._catalog.drop_upload(row.id)
            report.dropped += 1
            return
        if stored.ended is not None:
            await self._end(row.id, stored.ended, "repeated after a crash")
            report.ended += 1
        elif stored.final or stored.whole or stored.role is Role.FINAL:
            async with self._store.lease(row.id) as lease:
                await self._finisher.finish(lease, None)
            report.finished += 1


def _absent() -> UploadNotFoundError:
    return UploadNotFoundError("there is no such upload here; create it with POST")
