"""Leases: the exclusive right to write one upload, within the process by an object and across processes by `flock`.

A newcomer asks the present holder to stop; the holder commits what it has and lets go. The holder's event loop waits on
the body, a worker thread receives, seals and writes; signals reach it by waking the body.

Source: docs/format.md, Leases.
"""

import asyncio
import errno
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto
from typing import Any

from dropoff_tus.checksum import running_hash
from dropoff_tus.errors import (
    BodyTimeoutError,
    ChecksumMismatchError,
    DropoffError,
    LengthFixedError,
    MaxSizeExceededError,
    MismatchedOffsetError,
    StorageFailedError,
    StorageFullError,
    TooManySegmentsError,
    UploadGoneError,
    UploadSizeExceededError,
)
from dropoff_tus.messages import AppendPlan
from dropoff_tus.model import Mode, Role, StoredUpload, UploadState
from dropoff_tus.ports import Body, Completion
from storage.base import StoreBase
from storage.creation import sync_creation
from storage.durable import SyncFailedError, failpoint
from storage.log import (
    MAX_SEGMENTS,
    LogState,
    Record,
    SegmentEntry,
    check_signs,
    damaged,
    jump,
    next_record,
    segments_record,
    sign_line,
)
from storage.pools import Pools
from storage.reading import digests_read_back, final_parts, total_bytes
from storage.receipts import receipt_id, write_receipts
from storage.recovery import read_chain
from storage.segment import BATCH_BYTES, ROLL_BYTES, SegmentWriter, buffers
from storage.shredding import seal, shred, shred_part

ROLL_SECONDS = 10.0
_SLICE_SECONDS = 0.05
"""How long a worker thread stays with one upload before others get their turn."""
QUIET_SECONDS = 1.0
"""A holder that received nothing for so long commits when HEAD asks."""


@dataclass(eq=False)
class Holder:
    """What other requests see of a lease's holder, on the event loop."""

    position: int | None = None
    """The offset it would have if it stopped now; None while it takes no bytes."""
    uncommitted: bool = False
    received_at: float = field(default_factory=time.monotonic)
    checksummed: bool = False
    body: Body | None = None
    stop: DropoffError | None = None
    commit_asked: list[asyncio.Future[None]] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def ask_stop(self, error: DropoffError) -> None:
        """Ask to commit, raise error and let go; the first asker's error stays."""
        if self.stop is None:
            self.stop = error
        if self.body is not None:
            self.body.wake()

    def ask_commit(self) -> asyncio.Future[None]:
        """Ask to commit and go on; the future is done when that is durable or the holder has let go."""
        future = asyncio.get_running_loop().create_future()
        self.commit_asked.append(future)
        if self.body is not None:
            self.body.wake()
        return future

    def answer_commits(self) -> None:
        """Tell everyone who asked for a commit that it is done."""
        for future in self.commit_asked:
            if not future.done():
                future.set_result(None)
        self.commit_asked.clear()


class _Progress(Enum):
    """How a worker's turn ended."""

    WAITING = auto()
    ENDED = auto()
    PAST_LIMIT = auto()


class FileLease:
    """A lease on local files. Made by `storage.leases` alone."""

    def __init__(self, base: StoreBase, pools: Pools, holder: Holder, state: LogState, log: int, data: int) -> None:
        """Take over open descriptors; `close` closes them."""
        self._base, self._pools, self._holder = base, pools, holder
        self._log, self._data = log, data
        self.state = state
        self._writer: SegmentWriter | None = None
        self._writer_started = 0.0
        self._held = b""
        self._closed: list[SegmentEntry] = []
        self._received = 0
        known = base.known.get(state.id)
        # Empty when they were not carried from the first byte.
        self._hashes = known.hashes if known is not None else {}
        self._checksum: Any = None

    @property
    def upload(self) -> StoredUpload:
        """The upload's state now."""
        return self.state.stored()

    async def declare_length(self, length: int, at: datetime) -> None:
        """Fix a deferred length, durably."""
        if self.state.length == length:
            return
        if self.state.length is not None:
            message = "the length was declared before and stays; nothing was written"
            raise LengthFixedError(message)
        await self._pools.run(lambda: self._commit_record(next_record(self.state, "len", at, {"len": length})))

    # ---- appending ------------------------------------------------------------------------------------------

    async def append(self, body: Body, plan: AppendPlan, *, idle_timeout_seconds: float) -> int:
        """Seal and commit a body; see the port."""
        if self.state.offset != plan.offset:
            message = f"the upload is at {self.state.offset}; nothing was written"
            raise MismatchedOffsetError(message)
        holder = self._holder
        saved = None
        if plan.checksum is not None:
            self._checksum = running_hash(plan.checksum.algorithm)
            saved = {name: value.copy() for name, value in self._hashes.items()}
        holder.body, holder.checksummed = body, plan.checksum is not None
        holder.position, holder.received_at = self.state.offset, time.monotonic()
        try:
            past = await self._pump(body, plan, idle_timeout_seconds)
        except asyncio.CancelledError:
            await self._settle_after_cut(plan, saved)
            raise
        except DropoffError:
            # Nothing is pending after a disk error; after any other, what came is kept unless a checksum was to hold.
            await self._settle_after_cut(plan, saved)
            raise
        finally:
            holder.body, holder.position, holder.uncommitted = None, None, False
            holder.answer_commits()
            self._checksum = None
        if past:
            message = "the body went past the end; the bytes up to it are kept"
            kind = MaxSizeExceededError if plan.past_limit == MaxSizeExceededError.code else UploadSizeExceededError
            raise kind(message)
        return self.state.offset

    async def _pump(self, body: Body, plan: AppendPlan, idle_timeout_seconds: float) -> bool:
        """Move the body until it ends. True if it went past the limit."""
        holder = self._holder
        await body.wait(idle_timeout_seconds)
        while True:
            progress = await self._pools.run_sealing(self._turn, body, plan)
            now = time.monotonic()
            if progress is _Progress.WAITING:
                await self._attend(plan, now, idle_timeout_seconds)
                age = now - self._writer_started if self._writer is not None else 0.0
                quiet = now - holder.received_at
                await body.wait(max(0.01, min(ROLL_SECONDS - age, idle_timeout_seconds - quiet)))
                continue
            return progress is _Progress.PAST_LIMIT

    async def _attend(self, plan: AppendPlan, now: float, idle_timeout_seconds: float) -> None:
        """Between two turns: obey signals and clocks."""
        holder = self._holder
        if plan.checksum is None:
            due = self._writer is not None and now - self._writer_started >= ROLL_SECONDS
            if due or holder.commit_asked or holder.stop is not None:
                await self._pools.run(self._end_segment_and_commit)
        holder.answer_commits()
        if holder.stop is not None:
            raise holder.stop
        if now - holder.received_at >= idle_timeout_seconds:
            if plan.checksum is None:
                await self._pools.run(self._end_segment_and_commit)
            kept = "its bytes were discarded" if plan.checksum is not None else "what arrived is kept"
            message = f"no byte came for {idle_timeout_seconds:.0f} s; {kept}, resume with HEAD"
            raise BodyTimeoutError(message)

    async def _settle_after_cut(self, plan: AppendPlan, saved: dict[str, Any] | None) -> None:
        """Keep what came before a cut, unless a checksum was to hold for the whole."""
        if plan.checksum is not None:
            await asyncio.shield(self._pools.run(self._discard, saved))
        else:
            await asyncio.shield(self._pools.run(self._end_segment_and_commit))

    def _turn(self, body: Body, plan: AppendPlan) -> _Progress:
        """In a worker: receive, seal and write for a while; commit when the body has ended."""
        until = time.monotonic() + _SLICE_SECONDS
        try:
            while True:
                progress = self._fill(body, plan)
                if progress is not None:
                    break
                if time.monotonic() > until or self._holder.stop is not None:
                    return _Progress.WAITING
        except OSError as error:
            raise self._failed(error) from error
        if progress is not _Progress.WAITING:
            if plan.checksum is not None and not plan.checksum.matches(self._checksum.digest()):
                message = f"the body does not match Upload-Checksum; its bytes are discarded, resume at {plan.offset}"
                raise ChecksumMismatchError(message)
            self._end_segment_and_commit()
        return progress

    def _fill(self, body: Body, plan: AppendPlan) -> _Progress | None:
        """Receive up to one batch and seal it. None means: go on."""
        buffer = buffers.plain
        held = len(self._held)
        buffer[:held] = self._held
        taken = self.position - plan.offset
        room = min(BATCH_BYTES, ROLL_BYTES - self._segment_bytes(), plan.limit_bytes - taken)
        filled, outcome = held, None
        cut: DropoffError | None = None
        while room > 0:
            try:
                count = body.receive_into(buffer[filled : filled + room])
            except DropoffError as error:
                cut = error
                break
            if count is None:
                outcome = _Progress.WAITING
                break
            if count == 0:
                outcome = _Progress.ENDED
                break
            filled, room = filled + count, room - count
        else:
            if taken + filled - held >= plan.limit_bytes:
                try:
                    outcome = self._probe_end(body, plan, taken + filled - held)
                except DropoffError as error:
                    cut = error
        if filled > held:
            self._absorb(buffer, held, filled)
        if cut is not None:
            raise cut
        return outcome

    def _probe_end(self, body: Body, plan: AppendPlan, taken: int) -> _Progress:
        """At the limit: has the body ended, or does it go on?"""
        if plan.expected_bytes is not None and taken >= plan.expected_bytes:
            return _Progress.ENDED
        count = body.receive_into(memoryview(bytearray(1)))
        if count is None:
            return _Progress.WAITING
        return _Progress.PAST_LIMIT if count else _Progress.ENDED

    def _absorb(self, buffer: memoryview, held: int, filled: int) -> None:
        """Hash, seal and write what was received after the held back bytes."""
        fresh = buffer[held:filled]
        if self._writer is None:
            state, waiting = self.state, self._closed
            if state.segments + len(waiting) >= MAX_SEGMENTS:
                message = f"the upload has {MAX_SEGMENTS} pieces; create it anew and send larger chunks"
                raise TooManySegmentsError(message)
            last = waiting[-1] if waiting else None
            self._writer = SegmentWriter(
                state.recipient,
                index=state.segments + len(waiting),
                offset=last.offset + last.length if last else state.offset,
                data_offset=last.data_offset + last.data_length if last else state.data_bytes,
            )
            self._writer_started = time.monotonic()
        writer = self._writer
        writer.plain_bytes += len(fresh)
        full = writer.plain_bytes >= ROLL_BYTES
        sealed = writer.write(self._base.disk, self._data, buffer[:filled], last=full)
        self._held = bytes(buffer[sealed:filled])
        for value in self._hashes.values():
            value.update(fresh)
        if self._checksum is not None:
            self._checksum.update(fresh)
        self._holder.received_at = time.monotonic()
        self._holder.uncommitted = True
        if not self._holder.checksummed:
            self._holder.position = self.position
        if full:
            self._closed.append(writer.entry())
            self._writer, self._held = None, b""
            if self._checksum is None:
                self._commit_segments()

    def _segment_bytes(self) -> int:
        return self._writer.plain_bytes if self._writer is not None else 0

    @property
    def position(self) -> int:
        """The offset if everything received were durable."""
        waiting = sum(entry.length for entry in self._closed)
        return self.state.offset + waiting + self._segment_bytes()

    # ---- committing -----------------------------------------------------------------------------------------

    def _end_segment_and_commit(self) -> None:
        """Seal what is held back and make everything received durable."""
        try:
            if self._writer is not None:
                self._writer.write(self._base.disk, self._data, memoryview(self._held), last=True)
                self._closed.append(self._writer.entry())
                self._writer, self._held = None, b""
            self._commit_segments()
        except OSError as error:
            raise self._failed(error) from error

    def _commit_segments(self) -> None:
        if not self._closed:
            return
        failpoint("before-data-sync")
        self._base.disk.sync_file(self._data)
        failpoint("after-data-sync")
        gained = sum(entry.length for entry in self._closed)
        self._commit_record(segments_record(self.state, self._closed, self._base.now()))
        self._closed = []
        self._holder.uncommitted = False
        self._note_progress(gained)

    def _commit_record(self, record: Record) -> None:
        """Append one line: the commit. The upload's first one makes its folders and envelopes durable before."""
        base, state = self._base, self.state
        if record["t"] != "end":
            check_signs(base.keys.signing, state)
        if state.log_bytes == state.create_bytes:
            sync_creation(base, state)
        line = sign_line(record, base.keys.signing)
        try:
            base.disk.write_at(self._log, line, state.log_bytes)
        except OSError:
            # A partial line must not stay in front of the next one.
            base.disk.truncate(self._log, state.log_bytes)
            raise
        failpoint("after-log-write")
        base.disk.sync_file(self._log)
        failpoint("after-log-sync")
        self.state = jump(state, record, line, state.log_bytes + len(line))
        base.known.update(self.state, self._hashes)

    def _note_progress(self, gained_bytes: int) -> None:
        """Count bytes that are on disk although still reserved."""
        unfinished, state = self._base.unfinished, self.state
        unfinished[state.id] = unfinished.get(state.id, state.offset - gained_bytes) + gained_bytes

    def _distrust(self) -> None:
        """Refuse the upload, whose disk state is unknown, until a restart has read it anew."""
        self._base.distrusted.add(self.state.id)
        self._base.known.forget(self.state.id)

    def _discard(self, saved: dict[str, Any] | None) -> None:
        """Throw away everything since the last commit; its keys are never used again."""
        self._writer, self._held, self._closed = None, b"", []
        if saved is not None:
            self._hashes = saved
            self._base.known.update(self.state, self._hashes)
        self._base.disk.truncate(self._data, self.state.data_bytes)

    def _failed(self, error: OSError) -> DropoffError:
        """Turn a disk error into a refusal, keeping what was durable."""
        self._writer, self._held, self._closed = None, b"", []
        # The running hashes may hold bytes that are lost now: read back at the end instead.
        self._hashes = {}
        self._base.known.update(self.state, self._hashes)
        kept = f"what was acknowledged before (up to {self.state.offset}) is safe"
        if isinstance(error, SyncFailedError):
            self._distrust()
            return StorageFailedError(f"the disk did not confirm a write; {kept}")
        try:
            self._base.disk.truncate(self._data, self.state.data_bytes)
        except OSError:
            self._distrust()
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return StorageFullError(f"the disk is full; {kept}")
        return StorageFailedError(f"the disk failed; {kept}")

    # ---- finishing ------------------------------------------------------------------------------------------

    async def digests(self, names: Sequence[str], *, read_back_bytes: int) -> dict[str, bytes] | None:
        """Return plaintext digests of the whole upload; see the port."""
        wanted = self._base.wanted_digests(names)
        if not wanted:
            return {}
        if wanted <= self._hashes.keys() and not self.state.parts:
            return {name: self._hashes[name].digest() for name in wanted}
        if total_bytes(self._base, self.state) > read_back_bytes:
            return None
        return await self._pools.run(digests_read_back, self._base, self.state, wanted)

    async def write_final(self, at: datetime) -> str:
        """Make the final record durable; see the port."""
        if not self.state.final:
            await self._pools.run(self._write_final, at)
        return str(self.state.final_hash)

    def _verify_before_final(self) -> None:
        """Walk the chain before the final record is written."""
        chain = read_chain(self._log, self.state.id, self._base.keys.signing, every_signature=False)
        if chain.state.last_hash != self.state.last_hash or chain.state.offset != self.state.offset:
            raise damaged(self.state.id, "its log is not the one that was written")

    def _write_final(self, at: datetime) -> None:
        try:
            parts = final_parts(self._base, self.state)
            length = sum(part[2] for part in parts) if self.state.parts else self.state.offset
            self._verify_before_final()
            self._commit_record(next_record(self.state, "final", at, {"len": length, "parts": parts}))
        except OSError as error:
            raise self._failed(error) from error

    async def complete(self, digests: dict[str, bytes], at: datetime) -> Completion:
        """Write the final record and the receipt, and seal; see the port."""
        await self.write_final(at)
        return await self._pools.run(self._finish_files, digests)

    def _finish_files(self, digests: dict[str, bytes]) -> Completion:
        """After the final record: receipt, then seal. Every step may be repeated."""
        state = self.state
        if state.role is not Role.PARTIAL:
            write_receipts(self._base, state, digests)
            if state.mode is Mode.SEALED:
                seal(self._base, state)
        self._base.unfinished.pop(state.id, None)
        final_hash = str(state.final_hash)
        return Completion(state.offset, receipt_id(final_hash), final_hash)

    async def end(self, state: UploadState, why: str, at: datetime) -> None:
        """Tombstone first, so that a crash is followed by the same end; then envelopes, then data."""

        def work() -> None:
            try:
                if self.state.ended is None:
                    self._commit_record(next_record(self.state, "end", at, {"state": state.value, "why": why}))
                shred(self._base, self.state)
                for part in self.state.parts:
                    shred_part(self._base, part, state, why, at)
            except OSError as error:
                raise self._failed(error) from error

        await self._pools.run(work)

    def gone(self) -> UploadGoneError | None:
        """Return the error for an upload that has ended."""
        if self.state.ended is None:
            return None
        return UploadGoneError(f"the upload was {self.state.ended.value}; create a new one")

    def close(self) -> None:
        """Close the descriptors; the kernel lets go of the lock."""
        os.close(self._data)
        os.close(self._log)
