"""The leases: taking over, asking holders to stop or to commit, opening and recovering an upload's files.

A newcomer asks the present holder to stop; the holder commits what it has and lets go. Between processes the backing
says who may write.

Source: docs/reference/format.md, Leases, Recovery.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

from dropoff_tus.errors import (
    DropoffError,
    KeyMissingError,
    MismatchedOffsetError,
    ServerShutdownError,
    StorageFailedError,
    UploadEndingError,
    UploadInterruptedError,
    UploadLockedError,
)
from dropoff_tus.policy import STEP_BYTES
from dropoff_tus.protocol import BYTES_GO, ending
from dropoff_tus.states import UploadState
from storage.backing import Grip, KeyFile
from storage.neighbours import Answer, Question, Verb
from storage.threads import Threads
from storage.uploads.append import Leased
from storage.uploads.base import StoreBase
from storage.uploads.claims import Claims
from storage.uploads.commit import Committer, check_creation
from storage.uploads.holder import QUIET_SECONDS, Holder
from storage.uploads.lease import UploadLease
from storage.uploads.log import LogState, check_signs
from storage.uploads.reading import own_secrets
from storage.uploads.recovery import not_found

_LOCK_POLL_SECONDS = 0.05
_SETTLE_SECONDS = 2.0
_SETTLE_POLL_SECONDS = 0.02
_STOP_SECONDS = 10.0
_JOINING_SECONDS = 10.0
_ASK_SECONDS = 2.0
"""So long another server's answer is waited for, before its lock is tried again."""


class Leases:
    """All leases of this process."""

    def __init__(self, base: StoreBase, threads: Threads) -> None:
        """Start with none."""
        self._base, self._threads, self._claims = base, threads, Claims(base)
        self._holders: dict[str, Holder] = {}
        self._closing = False
        self._joining = asyncio.Lock()

    def held(self, upload_id: str) -> bool:
        """Tell whether a request of this process has the lease now."""
        return upload_id in self._holders

    def may_be_held(self, upload_id: str) -> bool:
        """Tell whether anybody may have the lease now; see the port."""
        return self.held(upload_id) or self._base.leasing.neighbours.any()

    def coming_bytes(self, *, without: str = "") -> dict[str, int]:
        """Return what uploads that receive will take soon, by drop-off; see the port."""
        coming: dict[str, int] = {}
        for upload_id, holder in self._holders.items():
            state = self._base.memory.state(upload_id)
            if holder.body is None or state is None or upload_id == without:
                continue
            drop = state.create["drop"]
            missing = STEP_BYTES if state.length is None else state.length - state.offset
            coming[drop] = coming.get(drop, 0) + min(missing, STEP_BYTES)
        return coming

    async def receiving(self, upload_id: str) -> bool:
        """Tell whether anybody has the lease now; see the port."""

        def work() -> bool:
            with self._base.refusing(upload_id):
                return self._base.leasing.is_held(upload_id)

        return self.held(upload_id) or await self._threads.run(work)

    # ---- asking holders -------------------------------------------------------------------------------------

    async def stop_appends(self) -> None:
        """Stop running appends: each commits and raises ServerShutdownError. New leases are refused."""
        self._closing = True
        holders = list(self._holders.values())
        for holder in holders:
            holder.ask_stop(ServerShutdownError("the server is stopping"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                for holder in holders:
                    await holder.released.wait()

    async def interrupt(self, upload_ids: Sequence[str], state: UploadState) -> None:
        """Stop running appends; see the port."""
        for upload_id in upload_ids:
            holder = self._holders.get(upload_id)
            if holder is not None:
                holder.ask_stop(ending(state, "drop-off closed by the operator"))

    async def settle(self, upload_id: str) -> None:
        """Let a quiet writer commit; see the port."""
        holder = self._holders.get(upload_id)
        deadline = time.monotonic() + _SETTLE_SECONDS
        if holder is None and self._base.leasing.neighbours.any():
            await self._base.leasing.neighbours.ask(Question(Verb.COMMIT, upload_id), _SETTLE_SECONDS)
        if holder is None or holder.body is None or holder.checksummed:
            return
        # Also when nothing is uncommitted: the last bytes before a lost link may be in the kernel still. And one change
        # may be of bytes that were on their way when this was asked; only several are a stream that goes on.
        seen, changes = holder.received_at, 0
        while (now := time.monotonic()) < deadline and not holder.released.is_set():
            if holder.received_at != seen:
                seen, changes = holder.received_at, changes + 1
                if changes > 1:
                    return
            quiet = now - seen
            if quiet >= QUIET_SECONDS:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(holder.ask_commit(), max(0.01, deadline - now))
                return
            await asyncio.sleep(min(_SETTLE_POLL_SECONDS, max(0.0, QUIET_SECONDS - quiet)))

    async def answer(self, question: Question) -> Answer:
        """Do what another server asks for."""
        holder = self._holders.get(question.upload_id)
        if holder is None or not holder.writes:
            return Answer.NONE
        if question.verb is Verb.COMMIT:
            await self.settle(question.upload_id)
            return Answer.DONE
        if _is_past(holder, question.offset):
            return Answer.PAST
        why = question.ending
        holder.ask_stop(_taken_over() if why is None else UploadEndingError(why, fate=BYTES_GO))
        await holder.released.wait()
        return Answer.DONE

    @contextlib.asynccontextmanager
    async def joining(self) -> AsyncIterator[None]:
        """Have the turn of whoever makes a concatenation; see the port."""
        deadline = time.monotonic() + _JOINING_SECONDS
        async with self._joining:
            while (end := await self._threads.run(self._base.leasing.join)) is None:
                if time.monotonic() > deadline:
                    message = "another process is concatenating; nothing was changed, try again"
                    raise UploadLockedError(message)
                await asyncio.sleep(_LOCK_POLL_SECONDS)
            try:
                yield
            finally:
                end()

    # ---- taking over ----------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def lease(
        self,
        upload_id: str,
        *,
        offset: int | None = None,
        timeout_seconds: float = 10.0,
        idle: bool = False,
        reason: DropoffError | None = None,
    ) -> AsyncIterator[UploadLease]:
        """Take an upload over; see the port."""
        deadline = time.monotonic() + (0 if idle else timeout_seconds)
        while (present := self._holders.get(upload_id)) is not None:
            if idle:
                raise UploadLockedError("the upload is in use by another request")
            if _is_past(present, offset):
                raise _past()
            present.ask_stop(reason or _taken_over())
            try:
                await asyncio.wait_for(present.released.wait(), max(0.01, deadline - time.monotonic()))
            except TimeoutError:
                message = "the upload is in use by another request"
                raise UploadLockedError(message) from None
        if self._closing:
            message = "the server is stopping; nothing was written, resume shortly"
            raise ServerShutdownError(message)
        holder = Holder()
        self._holders[upload_id] = holder
        lease: UploadLease | None = None
        try:
            why = None if reason is None else str(reason.args[0])
            asked = None if idle else Question(Verb.STOP, upload_id, offset, why)
            lease = await self._open(upload_id, holder, deadline, asked, for_append=offset is not None)
            holder.writes = True
            yield lease
        finally:
            try:
                if lease is not None:
                    await lease.release()
            finally:
                del self._holders[upload_id]
                holder.let_go_of_body()
                holder.released.set()

    async def _open(
        self, upload_id: str, holder: Holder, deadline: float, asked: Question | None, *, for_append: bool
    ) -> UploadLease:
        # One that nobody here has written is verified whole.
        known = self._base.memory.state(upload_id) is not None
        unread_bytes = 0 if known else await self._threads.run(self._base.log_bytes, upload_id)
        while True:
            opened = await self._threads.run_on_log(unread_bytes, self._try_open, upload_id, for_append)
            if opened is not None:
                committer, grip = opened
                return UploadLease(Leased(self._base, self._threads, holder, committer, grip), self._claims)
            if time.monotonic() > deadline:
                message = "the upload is in use by another process"
                raise UploadLockedError(message)
            if asked is not None and self._base.leasing.neighbours.any():
                seconds = min(_ASK_SECONDS, max(0.01, deadline - time.monotonic()))
                answer = await self._base.leasing.neighbours.ask(asked, seconds)
                if answer is Answer.PAST:
                    raise _past()
                if answer is Answer.DONE:
                    continue
            await asyncio.sleep(_LOCK_POLL_SECONDS)

    def _try_open(self, upload_id: str, for_append: bool) -> tuple[Committer, Grip] | None:  # noqa: FBT001
        """Take and recover an upload; None if another process has it."""
        self._base.check_id(upload_id)
        with self._base.refusing(upload_id):
            grip = self._base.leasing.acquire(upload_id)
            if grip is None:
                return None
            try:
                committer = Committer.recover(self._base, upload_id, grip)
                if for_append:
                    self._check_keys(committer.state)
            except BaseException:
                grip.close()
                raise
            return committer, grip

    def _check_keys(self, state: LogState) -> None:
        """Before appending, see that the bytes can be signed, and opened later."""
        if not state.final and state.ended is None:
            check_signs(self._base.keys.signing, state)
            if not self._base.memory.is_vouched(state.id):
                self._vouch(state)

    def _vouch(self, state: LogState) -> None:
        """Before appending to an upload this process did not make: its envelope must open and be its own."""
        try:
            self._base.memory.vouch(state.id, own_secrets(self._base, state))
        except KeyMissingError:
            # A missing key may be restored; a missing envelope will not come again.
            if state.segments == 0 and not self._base.key_files.has(state.id, KeyFile.own(state.mode)):
                check_creation(self._base, state)
            raise
        except StorageFailedError:
            raise
        except Exception:
            if state.segments == 0:
                raise not_found() from None
            raise


def _is_past(holder: Holder, offset: int | None) -> bool:
    """Tell whether a holder is past where a newcomer wants to append: then that one's request is hopeless."""
    return offset is not None and holder.position not in {None, offset}


def _taken_over() -> UploadInterruptedError:
    return UploadInterruptedError("another request took this upload over")


def _past() -> MismatchedOffsetError:
    return MismatchedOffsetError("the upload is being written past that offset; ask with HEAD. Nothing was written")
