"""A store in memory, honest to the contract of `dropoff_tus.ports.store.Store`: leases, take-over, commits, sealing.

It leaves out cryptography and disks. Its data survives a "restart" (`reopened`), leases do not.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime

from dropoff_tus.checksum import running_hash
from dropoff_tus.errors import (
    BodyTimeoutError,
    ChecksumMismatchError,
    DropoffError,
    KeyMissingError,
    LengthFixedError,
    MaxSizeExceededError,
    MismatchedOffsetError,
    PolicyTamperedError,
    UploadDamagedError,
    UploadGoneError,
    UploadInterruptedError,
    UploadLockedError,
    UploadNotFoundError,
    UploadSizeExceededError,
)
from dropoff_tus.messages import AppendPlan
from dropoff_tus.model import Dropoff, Metadata, Mode, Role, StoredUpload
from dropoff_tus.policy import STEP_BYTES
from dropoff_tus.ports.clock import Clock
from dropoff_tus.ports.store import Body, Completion, NewUpload
from dropoff_tus.protocol import ending
from dropoff_tus.states import UploadState


@dataclass(eq=False)
class Kept:
    """All that is kept of one upload."""

    new: NewUpload
    last_commit_at: datetime
    length: int | None
    data: bytearray = field(default_factory=bytearray)
    final: bool = False
    ended: UploadState | None = None
    end_reason: str | None = None
    sealed: bool = False
    receipt: dict[str, bytes] | None = None
    times_completed: int = 0
    carries_digests: bool = True
    damaged: bool = False


@dataclass(eq=False)
class _Holder:
    stop: DropoffError | None = None
    body: Body | None = None
    position: int | None = None
    commit_asked: asyncio.Event = field(default_factory=asyncio.Event)
    committed: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)


class MemoryStore:
    """Implements `dropoff_tus.ports.store.Store`."""

    def __init__(self, clock: Clock, *, free: int = 1 << 50, digest: str = "sha256") -> None:
        """Start empty. `free` is what `free_bytes` answers, `digest` the configured one or ""."""
        self.clock, self.free, self.digest = clock, free, digest
        self.kept: dict[str, Kept] = {}
        self.refuse_creation: DropoffError | None = None
        self.refuse_completion: DropoffError | None = None
        self._holders: dict[str, _Holder] = {}
        self._joining = asyncio.Lock()

    def reopened(self) -> "MemoryStore":
        """Return what a new process would find: the same data, no leases, no running digests."""
        fresh = MemoryStore(self.clock, free=self.free, digest=self.digest)
        fresh.kept = self.kept
        for kept in fresh.kept.values():
            kept.carries_digests = False
        return fresh

    async def create(self, new: NewUpload) -> StoredUpload:
        """Make an upload with no bytes."""
        await asyncio.sleep(0)
        if self.refuse_creation is not None:
            raise self.refuse_creation
        assert new.id not in self.kept, "an upload was created twice"
        self.kept[new.id] = Kept(new, new.created_at, new.length)
        return self._stored(new.id)

    def verify_terms(self, drop: Dropoff) -> None:
        """Refuse what the tests say was tampered with."""
        if drop.signature == b"forged":
            raise PolicyTamperedError(f"drop-off {drop.id} was changed")

    async def stat(self, upload_id: str) -> StoredUpload:
        """Return the durable state."""
        await asyncio.sleep(0)
        return self._stored(upload_id)

    def _stored(self, upload_id: str) -> StoredUpload:
        kept = self.kept.get(upload_id)
        if kept is None:
            raise UploadNotFoundError("there is no such upload here")
        if kept.damaged:
            raise UploadDamagedError("it does not verify")
        new = kept.new
        return StoredUpload(
            id=new.id,
            drop_id=new.drop.id,
            role=new.role,
            mode=new.drop.terms.mode,
            created_at=new.created_at,
            last_commit_at=kept.last_commit_at,
            offset=self.content_bytes(upload_id) if kept.final else len(kept.data),
            length=kept.length,
            final=kept.final,
            ended=kept.ended,
            end_reason=kept.end_reason,
            parts=new.parts,
        )

    def content(self, upload_id: str) -> bytes:
        """Return an upload's bytes, or those of its parts in order."""
        kept = self.kept[upload_id]
        return b"".join(self.content(part) for part in kept.new.parts) + bytes(kept.data)

    def content_bytes(self, upload_id: str) -> int:
        """Return how many they are."""
        return len(self.content(upload_id))

    async def waiting(self, upload_ids: Sequence[str]) -> set[str]:
        """Return those that are neither whole nor ended nor damaged."""
        await asyncio.sleep(0)
        kept = {upload_id: self.kept[upload_id] for upload_id in upload_ids if upload_id in self.kept}
        return {
            upload_id
            for upload_id, found in kept.items()
            if not found.damaged
            and not found.final
            and found.ended is None
            and found.new.role is not Role.FINAL
            and len(found.data) != found.length
        }

    def may_be_held(self, upload_id: str) -> bool:
        """Tell whether somebody has the lease now."""
        return upload_id in self._holders

    async def receiving(self, upload_id: str) -> bool:
        """Tell whether somebody has the lease now: here there is one process."""
        await asyncio.sleep(0)
        return self.may_be_held(upload_id)

    async def settle(self, upload_id: str) -> None:
        """Ask a writer to commit. Here every writer is taken for quiet."""
        holder = self._holders.get(upload_id)
        if holder is None or holder.body is None:
            return
        holder.committed.clear()
        holder.commit_asked.set()
        holder.body.wake()
        done = [asyncio.ensure_future(event.wait()) for event in (holder.committed, holder.released)]
        await asyncio.wait(done, timeout=2, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.cancel()

    async def metadata(self, upload_id: str) -> Metadata | None:
        """Return the client's metadata unless it is sealed."""
        await asyncio.sleep(0)
        kept = self.kept[upload_id]
        return None if kept.sealed or kept.ended is not None else kept.new.metadata

    @asynccontextmanager
    async def lease(
        self,
        upload_id: str,
        *,
        offset: int | None = None,
        timeout_seconds: float = 10.0,
        idle: bool = False,
        reason: DropoffError | None = None,
    ) -> AsyncIterator["MemoryLease"]:
        """Take an upload over."""
        self._stored(upload_id)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        while (present := self._holders.get(upload_id)) is not None:
            if idle:
                raise UploadLockedError("the upload is in use")
            if offset is not None and present.position not in {None, offset}:
                raise MismatchedOffsetError("the upload is being written past that offset")
            present.stop = present.stop or reason or UploadInterruptedError("another request took this upload over")
            if present.body is not None:
                present.body.wake()
            try:
                await asyncio.wait_for(present.released.wait(), deadline - loop.time())
            except TimeoutError:
                raise UploadLockedError("the upload is in use") from None
        holder = self._holders[upload_id] = _Holder()
        try:
            yield MemoryLease(self, self.kept[upload_id], holder)
        finally:
            del self._holders[upload_id]
            holder.released.set()

    async def read(
        self, upload_id: str, *, start: int = 0, stop: int | None = None, identities: Sequence[str] = ()
    ) -> AsyncGenerator[bytes, None]:
        """Yield a finished upload's bytes."""
        if not self._stored(upload_id).final:
            raise UploadNotFoundError("it is not finished")
        if self.kept[upload_id].sealed and not identities:
            raise KeyMissingError("it is sealed")
        yield self.content(upload_id)[start:stop]

    async def shred_damaged(self, upload_id: str, state: UploadState, why: str, at: datetime) -> None:
        """End what does not verify."""
        await asyncio.sleep(0)
        assert why, "an end has a reason"
        kept = self.kept.get(upload_id)
        if kept is None:
            raise UploadNotFoundError("there is no such upload here")
        kept.ended, kept.last_commit_at, kept.damaged = kept.ended or state, at, False
        kept.end_reason = kept.end_reason or why
        kept.data, kept.receipt = bytearray(), None

    async def interrupt(self, upload_ids: Sequence[str], state: UploadState) -> None:
        """Stop running appends."""
        for upload_id in upload_ids:
            holder = self._holders.get(upload_id)
            if holder is not None:
                holder.stop = ending(state, "drop-off closed by the operator")
                if holder.body is not None:
                    holder.body.wake()

    async def url_receipt(self, upload_id: str, token: str) -> bytes | None:
        """Return the receipt's digests, unsigned."""
        kept = self.kept[upload_id]
        if kept.receipt is None or kept.new.token != token:
            return None
        return json.dumps({name: value.hex() for name, value in kept.receipt.items()}).encode()

    async def free_bytes(self) -> int:
        """Return the number the test gave."""
        return self.free

    def coming_bytes(self, *, without: str = "") -> dict[str, int]:
        """Return what is missing of those that receive."""
        coming: dict[str, int] = {}
        for upload_id, holder in self._holders.items():
            kept = self.kept.get(upload_id)
            if kept is not None and holder.body is not None and upload_id != without:
                missing = STEP_BYTES if kept.length is None else min(STEP_BYTES, kept.length - len(kept.data))
                coming[kept.new.drop.id] = coming.get(kept.new.drop.id, 0) + missing
        return coming

    @asynccontextmanager
    async def joining(self) -> AsyncIterator[None]:
        """Make concatenations one at a time."""
        async with self._joining:
            yield


class MemoryLease:
    """Implements `dropoff_tus.ports.store.Lease`. Made only by `MemoryStore.lease`."""

    def __init__(self, store: MemoryStore, kept: Kept, holder: _Holder) -> None:
        """Take hold of one upload."""
        self._store, self._kept, self._holder = store, kept, holder

    @property
    def upload(self) -> StoredUpload:
        """Return the state now."""
        return self._store._stored(self._kept.new.id)  # noqa: SLF001 - the lease is a part of the store

    async def declare_length(self, length: int, at: datetime) -> None:
        """Fix a deferred length."""
        if self._kept.length not in {None, length}:
            raise LengthFixedError("the length was declared before")
        self._kept.length, self._kept.last_commit_at = length, at

    async def append(
        self, body: Body, plan: AppendPlan, *, idle_timeout_seconds: float, hold_last: bool = False
    ) -> int:
        """Take a body; commit at its end, when asked to, and on every error that keeps bytes."""
        del hold_last  # a commit costs nothing here
        kept, holder = self._kept, self._holder
        if kept.ended is not None or kept.final:
            raise UploadGoneError("the upload takes no bytes")
        if len(kept.data) != plan.offset:
            raise MismatchedOffsetError(f"the upload is at {len(kept.data)}")
        pending = bytearray()
        holder.body, holder.position = body, plan.offset
        try:
            past = await self._receive(body, plan, pending, idle_timeout_seconds)
        except DropoffError:
            if plan.checksum is None:
                self._commit(pending)
            elif pending:
                kept.last_commit_at = self._store.clock.now()
            raise
        finally:
            holder.body = holder.position = None
        if plan.checksum is not None:
            value = running_hash(plan.checksum.algorithm)
            value.update(pending)
            if not plan.checksum.matches(value.digest()):
                kept.last_commit_at = self._store.clock.now()
                raise ChecksumMismatchError("the body does not match Upload-Checksum")
        self._commit(pending)
        if past:
            kind = MaxSizeExceededError if plan.past_limit == MaxSizeExceededError.code else UploadSizeExceededError
            raise kind("the body went past the end")
        return len(kept.data)

    async def _receive(self, body: Body, plan: AppendPlan, pending: bytearray, idle_timeout_seconds: float) -> bool:
        holder, loop = self._holder, asyncio.get_running_loop()
        buffer = memoryview(bytearray(65536))
        taken, received_at = 0, loop.time()
        while True:
            if holder.stop is not None:
                raise holder.stop
            room = min(len(buffer), plan.limit_bytes - taken)
            if room == 0 and plan.expected_bytes is not None:
                return False
            count = body.receive_into(buffer[: max(1, room)])
            if count == 0:
                return False
            if count is not None and room == 0:
                return True
            if count is not None:
                pending += buffer[:count]
                taken, received_at = taken + count, loop.time()
                holder.position = plan.offset + taken
                continue
            if holder.commit_asked.is_set():
                holder.commit_asked.clear()
                if plan.checksum is None:
                    self._commit(pending)
                holder.committed.set()
            if loop.time() - received_at >= idle_timeout_seconds:
                raise BodyTimeoutError("no byte came")
            await body.wait(idle_timeout_seconds)

    def _commit(self, pending: bytearray) -> None:
        if pending:
            self._kept.data += pending
            self._kept.last_commit_at = self._store.clock.now()
            pending.clear()

    async def digests(self, names: Sequence[str], *, read_back_bytes: int) -> dict[str, bytes] | None:
        """Return digests of the content, unless it would have to be read back and is too large."""
        await asyncio.sleep(0)
        wanted = {*names, self._store.digest} - {""}
        if not wanted:
            return {}
        content = self._store.content(self._kept.new.id)
        if (self._kept.new.parts or not self._kept.carries_digests) and len(content) > read_back_bytes:
            return None
        if self._kept.sealed:
            raise KeyMissingError("it is sealed")
        return {name: hashlib.new(name, content, usedforsecurity=False).digest() for name in wanted}

    async def begins_sealed(self) -> bool:
        """Tell whether the content begins as an age file does."""
        await asyncio.sleep(0)
        if self._kept.sealed:
            raise KeyMissingError("it is sealed")
        return self._store.content(self._kept.new.id).startswith(b"age-encryption.org/v1\n-> ")

    async def write_final(self, at: datetime) -> str:
        """Make the upload final; a concatenation needs final parts."""
        kept = self._kept
        if not kept.final:
            for part in kept.new.parts:
                assert self._store.kept[part].final, "a concatenation of an unfinished part"
            kept.final, kept.last_commit_at = True, at
            kept.length = self._store.content_bytes(kept.new.id)
        return hashlib.sha256(kept.new.id.encode()).hexdigest()

    async def complete(self, digests: dict[str, bytes], at: datetime) -> Completion:
        """Write the final record and the receipt, then seal."""
        await asyncio.sleep(0)
        if self._store.refuse_completion is not None:
            raise self._store.refuse_completion
        kept = self._kept
        final_hash = await self.write_final(at)
        if kept.new.role is not Role.PARTIAL:
            if kept.receipt is None:
                if kept.sealed:
                    raise KeyMissingError("no receipt is here, and none can be written")
                kept.receipt = dict(digests)
                kept.times_completed += 1
            if kept.new.drop.terms.mode is Mode.SEALED:
                for part in kept.new.parts:
                    self._store.kept[part].sealed = True
                kept.sealed = True
        return Completion(self._store.content_bytes(kept.new.id), f"receipt-{kept.new.id[:8]}", final_hash)

    async def end(self, state: UploadState, why: str, at: datetime) -> None:
        """Leave a tombstone, also of the parts of a concatenation."""
        assert why, "an end has a reason"
        for kept in (self._kept, *(self._store.kept[part] for part in self._kept.new.parts)):
            if kept.ended is None:
                kept.ended, kept.end_reason, kept.last_commit_at = state, why, at
            kept.data, kept.receipt = bytearray(), None
            kept.new = replace(kept.new, metadata=Metadata())
