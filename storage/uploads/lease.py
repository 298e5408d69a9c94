"""A lease: the exclusive right to write one upload. Implements `dropoff_tus.ports.store.Lease`.

Source: docs/reference/format.md, Leases.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from dropoff_tus.errors import (
    DropoffError,
    LengthFixedError,
    MaxSizeExceededError,
    MismatchedOffsetError,
    UploadSizeExceededError,
)
from dropoff_tus.messages import AppendPlan
from dropoff_tus.model import Mode, Role, StoredUpload
from dropoff_tus.ports.store import Body, Completion
from dropoff_tus.states import UploadState
from storage.age import CHUNK_BYTES, AgeError, check_form
from storage.backing import SegmentEntry, SyncFailedError
from storage.uploads.append import Appender, Leased
from storage.uploads.base import refused
from storage.uploads.claims import Claims
from storage.uploads.log import LogState, next_record
from storage.uploads.reading import ReadBack, read_plain, reading_bytes, total_bytes
from storage.uploads.receipts import receipt_id, write_receipt
from storage.uploads.shredding import seal, shred, shred_part


class UploadLease:
    """A lease. Made only by `storage.uploads.leases`."""

    def __init__(self, leased: Leased, claims: Claims) -> None:
        """Take over what is held; `release` lets go of it."""
        self._leased, self._claims = leased, claims
        self._base, self._threads, self._committer = leased.base, leased.threads, leased.committer
        self._pending: list[SegmentEntry] = []

    @property
    def state(self) -> LogState:
        """Where the log stands."""
        return self._committer.state

    @property
    def upload(self) -> StoredUpload:
        """The upload's state now; with a last commit held back, as it will be."""
        stored = self.state.stored()
        if not self._pending:
            return stored
        return replace(stored, offset=self._pending[-1].offset + self._pending[-1].length)

    async def declare_length(self, length: int, at: datetime) -> None:
        """Fix a deferred length, durably."""
        if self.state.length == length:
            return
        if self.state.length is not None:
            message = "the length was declared before and stays; nothing was written"
            raise LengthFixedError(message)

        def work() -> None:
            with self._refusing():
                self._committer.record(next_record(self.state, "len", at, {"len": length}))

        await self._threads.run(work)

    async def append(
        self, body: Body, plan: AppendPlan, *, idle_timeout_seconds: float, hold_last: bool = False
    ) -> int:
        """Seal and commit a body; see the port."""
        if self.upload.offset != plan.offset:
            message = f"the upload is at {self.upload.offset}; nothing was written"
            raise MismatchedOffsetError(message)
        await self._commit_pending()
        appender = Appender(self._leased, body, plan, idle_timeout_seconds=idle_timeout_seconds, hold_last=hold_last)
        try:
            past = await appender.run()
        finally:
            self._pending = appender.pending
        if past:
            kind = MaxSizeExceededError if plan.past_limit == MaxSizeExceededError.code else UploadSizeExceededError
            raise kind("the body went past the end", fate="the bytes up to it are kept")
        return self.upload.offset

    async def _commit_pending(self) -> None:
        """Commit what was held back for a final record that is not coming now."""
        if self._pending:
            pending, self._pending = self._pending, []

            def work() -> None:
                with self._refusing():
                    self._committer.segments(pending)

            await self._threads.run(work)

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._committer.failed(error) from error

    # ---- finishing ------------------------------------------------------------------------------------------

    async def digests(self, names: Sequence[str], *, read_back_bytes: int) -> dict[str, bytes] | None:
        """Return plaintext digests of the whole upload; see the port."""
        wanted = self._base.wanted_digests(names)
        if not wanted:
            return {}
        carried = self._base.memory.digests(self.state.id, self.upload.offset).at(self.upload.offset, wanted)
        if carried is not None and not self.state.parts:
            return carried
        await self._commit_pending()
        if reading_bytes(self._base, self.state) > read_back_bytes:
            return None
        reading = ReadBack(self._base, self.state, wanted)
        try:
            while (found := await self._threads.run(reading.step)) is None:
                pass
        finally:
            reading.close()
        return found

    async def begins_sealed(self) -> bool:
        """Look at the beginning of the content; see the port."""
        await self._commit_pending()
        base, state = self._base, self.state

        def work() -> bool:
            head = b"".join(read_plain(base, state.id, stop=CHUNK_BYTES, unfinished_ok=True))
            try:
                check_form(head, size_bytes=total_bytes(base, state))
            except AgeError:
                return False
            return True

        return await self._threads.run(work)

    async def write_final(self, at: datetime) -> str:
        """Make the final record durable; see the port."""
        if not self.state.final:
            await self._threads.run_on_log(self.state.log_bytes, self._write_final, at)
        return str(self.state.final_hash)

    async def complete(self, digests: dict[str, bytes], at: datetime) -> Completion:
        """Write the final record and the receipt, and seal; see the port. Every step may be repeated."""

        def work() -> Completion:
            if not self.state.final:
                self._write_final(at)
            state = self.state
            with self._refusing():
                if state.role is not Role.PARTIAL:
                    write_receipt(self._base, state, digests)
                    if state.mode is Mode.SEALED:
                        seal(self._base, state)
            final_hash = str(state.final_hash)
            return Completion(state.offset, receipt_id(final_hash), final_hash)

        return await self._threads.run_on_log(0 if self.state.final else self.state.log_bytes, work)

    def _write_final(self, at: datetime) -> None:
        # Should it fail, nothing is added to the log; the next holder cuts the bytes that were held back.
        pending, self._pending = self._pending, []
        with self._refusing():
            self._committer.final(pending, at)

    async def end(self, state: UploadState, why: str, at: datetime) -> None:
        """Tombstone first, so that a crash is followed by the same end; then envelopes, then data."""

        def work() -> None:
            self._pending = []
            try:
                if self.state.ended is None:
                    if self.state.role is Role.PARTIAL and self.state.final:
                        # The catalog was asked before, which may have been changed.
                        self._claims.check_free(self.state.id)
                    self._committer.record(next_record(self.state, "end", at, {"state": state.value, "why": why}))
                shred(self._base, self.state.id)
                for part in self.state.parts:
                    shred_part(self._base, part, state, why, at)
            except SyncFailedError as error:
                raise self._committer.failed(error) from error
            except OSError as error:
                if self.state.ended is None:
                    raise self._committer.failed(error) from error
                text = (
                    f": upload {self.state.id} has ended, but not all of its keys and bytes could be "
                    f"removed ({error.strerror}); the same again goes on with it"
                )
                raise refused(error, text) from error

        await self._threads.run(work)

    async def release(self) -> None:
        """Keep what was held back, and let others write."""
        try:
            # The request that held it back has an error to answer already, and no answer named these bytes.
            with contextlib.suppress(DropoffError):
                await self._commit_pending()
        finally:
            self._leased.grip.close()
