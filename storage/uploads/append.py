"""Appending one body: the event loop waits on it, a worker receives and seals, commits run beside that.

Signals (stop, commit) reach the worker's turns through the holder.

Source: docs/reference/format.md, Order of writes.
"""

import asyncio
import math
import time
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from dropoff_tus.checksum import running_hash
from dropoff_tus.errors import BodyTimeoutError, ChecksumMismatchError, DropoffError, UploadEndingError
from dropoff_tus.messages import AppendPlan
from dropoff_tus.ports.store import Body
from dropoff_tus.protocol import may_cost
from storage.backing import Grip, SegmentEntry
from storage.threads import Threads
from storage.uploads.base import StoreBase
from storage.uploads.commit import Committer
from storage.uploads.holder import Holder, let_on
from storage.uploads.sealing import Feed, Sealing
from storage.uploads.segment import BATCH_BYTES, plain_buffer

ROLL_SECONDS = 10.0
SMALL_BYTES = 256 << 10
"""A body up to this size is received, sealed and committed in one turn of a thread that may wait for the disk."""
_SLICE_SECONDS = 0.05
"""How long a worker stays with one upload before others get their turn."""
_BACKLOG_BYTES = 64 << 20
"""With more than this waiting behind a commit that runs, receiving waits for it."""


class _Progress(Enum):
    """How a worker's turn ended."""

    GOING_ON = auto()
    WAITING = auto()
    ENDED = auto()
    PAST_LIMIT = auto()


@dataclass(frozen=True, slots=True)
class Leased:
    """The open files and state of a lease."""

    base: StoreBase
    threads: Threads
    holder: Holder
    committer: Committer
    grip: Grip


class Appender:
    """One body into one leased upload. Used once."""

    def __init__(
        self,
        leased: Leased,
        body: Body,
        plan: AppendPlan,
        *,
        idle_timeout_seconds: float,
        hold_last: bool,
    ) -> None:
        """Take the lease's parts."""
        self._base, self._threads, self._holder = leased.base, leased.threads, leased.holder
        self._committer = leased.committer
        self._body, self._plan = body, plan
        self._idle_timeout_seconds = idle_timeout_seconds
        self._hold_last = hold_last
        self._checksum: Any = None if plan.checksum is None else running_hash(plan.checksum.algorithm)
        state = leased.committer.state
        digests = leased.base.memory.digests(state.id, plan.offset)
        self._saved = None if plan.checksum is None else digests.copy()
        feeds: list[Feed] = [digests.feed] if digests else []
        if self._checksum is not None:
            feeds.append(self._checksum.update)
        self._sealing = Sealing(leased.base, leased.threads, state, leased.grip.write, feeds)
        self._small = plan.expected_bytes is not None and plan.expected_bytes <= SMALL_BYTES
        self._beside: asyncio.Task[None] | None = None
        self._broken = False
        self.pending: list[SegmentEntry] = []
        """With `hold_last`, and once every byte of the upload is here: segments that wait for the final record."""

    async def run(self) -> bool:
        """Move the body until it ends. On return, and on every error, what may be kept is durable or `pending`.

        Returns:
            Whether the body went past the limit.

        Raises:
            DropoffError: See the port's `append`.
        """
        holder = self._holder
        holder.body, holder.checksummed = self._body, self._checksum is not None
        holder.position, holder.received_at = self._sealing.position, time.monotonic()
        try:
            try:
                return await self._move()
            except OSError:
                raise
            except BaseException as error:
                await self._settle()
                if isinstance(error, DropoffError) and not isinstance(error, UploadEndingError):
                    error.fate = self._fate()
                raise
        except OSError as error:
            await self._commit_ended()
            raise await self._threads.run(self._committer.failed, error) from error
        finally:
            holder.let_go_of_body()

    async def _move(self) -> bool:
        run = self._threads.run if self._small else self._threads.run_sealing
        await self._body.wait(self._idle_timeout_seconds)
        while True:
            progress = await run(self._turn)
            if progress is _Progress.ENDED or progress is _Progress.PAST_LIMIT:
                break
            # Taken now: while a commit runs, nobody looks whether bytes come.
            idle_seconds = time.monotonic() - self._holder.received_at if progress is _Progress.WAITING else 0.0
            await self._commit_beside()
            await self._attend(idle_seconds)
            if progress is _Progress.WAITING:
                await self._body.wait(self._patience_seconds())
        past = progress is _Progress.PAST_LIMIT
        if self._hold_last and not past and self._sealing.position == self._committer.state.length:
            await self._commit_ended(reraise=True)
            self.pending = self._sealing.take_closed()
        elif self._sealing.waiting_bytes or self._beside is not None:
            await self._commit_all()
        return past

    def _patience_seconds(self) -> float:
        now = time.monotonic()
        return max(0.01, min(self._until_roll(now), self._idle_timeout_seconds - (now - self._holder.received_at)))

    def _until_roll(self, now: float) -> float:
        return ROLL_SECONDS - self._sealing.age_seconds(now) if self._affords_commit() else math.inf

    def _affords_commit(self) -> bool:
        """Tell whether a commit now, while the body goes on, makes no piece that `protocol.check_pieces` forbids."""
        return self._committer.state.overhead_bytes <= may_cost(self._sealing.position)

    # ---- between turns, on the event loop -------------------------------------------------------------------

    async def _attend(self, idle_seconds: float) -> None:
        """Obey signals and clocks."""
        holder = self._holder
        if holder.commit_asked:
            asked = holder.take_asked()
            if self._checksum is None and self._affords_commit():
                await self._commit_all()
            let_on(asked)
        elif self._checksum is None and self._until_roll(time.monotonic()) <= 0:
            await self._threads.run(self._sealing.end_segment)
            await self._commit_beside()
        if holder.stop is not None:
            raise holder.stop
        if idle_seconds >= self._idle_timeout_seconds:
            message = f"no byte came for {self._idle_timeout_seconds:.0f} s"
            raise BodyTimeoutError(message)

    async def _commit_beside(self) -> None:
        """Commit ended segments while the next one is received; receiving waits when the disk falls behind."""
        if self._checksum is not None:
            return
        if self._beside is not None and (self._beside.done() or self._sealing.waiting_bytes >= _BACKLOG_BYTES):
            await self._commit_ended(reraise=True)
        if self._beside is None and self._sealing.waiting_bytes:
            entries = self._sealing.take_closed()
            self._beside = asyncio.create_task(self._threads.run(self._committer.segments, entries))

    async def _commit_ended(self, *, reraise: bool = False) -> None:
        """Wait for the commit that runs beside, even when cancelled: it uses the lease's descriptors."""
        task = self._beside
        if task is None:
            return
        cancelled = False
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                cancelled = True
        self._beside = None
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        self._broken = self._broken or error is not None
        if reraise and error is not None:
            raise error
        if cancelled:
            raise asyncio.CancelledError

    async def _commit_all(self) -> None:
        """End the segment and make everything received durable."""
        await self._commit_ended(reraise=True)
        await self._threads.run(self._end_and_commit)

    async def _settle(self) -> None:
        """Keep what came before a cut, unless a checksum was to hold for the whole."""
        await self._commit_ended(reraise=True)
        if self._broken:
            # The next holder of the lease finds out what the commit left; nothing may follow it before.
            return
        if self._saved is None:
            await self._threads.run(self._end_and_commit)
        else:
            self._base.memory.carry(self._committer.state.id, self._saved)
            await self._threads.run(self._discard)

    def _fate(self) -> str | None:
        """Say what became of a body that did not end well."""
        if self._broken:
            return None
        if self._checksum is None:
            return f"the bytes up to {self._committer.state.offset} are kept"
        return f"its bytes are discarded, as its checksum is for all of them; send them again from {self._plan.offset}"

    # ---- in a worker ----------------------------------------------------------------------------------------

    def _discard(self) -> None:
        """Cut what was not committed; the log notes that somebody was here, since age is judged by its last record."""
        self._committer.drop_uncommitted()
        if self._sealing.position > self._plan.offset:
            self._committer.seen()

    def _end_and_commit(self) -> None:
        self._sealing.end_segment()
        self._committer.segments(self._sealing.take_closed())

    def _turn(self) -> _Progress:
        """Receive, seal and write for a while; end the last segment when the body has ended."""
        until = time.monotonic() + _SLICE_SECONDS
        while True:
            progress = self._fill()
            if progress is not _Progress.GOING_ON:
                break
            if time.monotonic() > until or self._holder.stop is not None:
                return progress
        if progress is _Progress.WAITING:
            return progress
        checksum = self._plan.checksum
        if checksum is not None and not checksum.matches(self._checksum.digest()):
            message = "the body does not match Upload-Checksum"
            raise ChecksumMismatchError(message)
        self._sealing.end_segment()
        if self._small and not self._hold_last and self._beside is None:
            self._committer.segments(self._sealing.take_closed())
        return progress

    def _fill(self) -> _Progress:
        """Receive up to one batch and seal it."""
        plan, sealing = self._plan, self._sealing
        held = len(sealing.held)
        room = min(BATCH_BYTES, sealing.room_bytes, plan.limit_bytes - (sealing.position - plan.offset))
        if self._small:
            room = min(room, SMALL_BYTES)
        buffer = plain_buffer(held + room)
        buffer[:held] = sealing.held
        filled, progress, cut = held, _Progress.GOING_ON, None
        try:
            while room > 0 and progress is _Progress.GOING_ON:
                count = self._body.receive_into(buffer[filled : filled + room])
                if not count:
                    progress = _Progress.WAITING if count is None else _Progress.ENDED
                    break
                filled, room = filled + count, room - count
            taken = sealing.position - plan.offset + filled - held
            if progress is _Progress.GOING_ON and taken >= plan.limit_bytes:
                progress = self._probe_end(taken)
        except DropoffError as error:
            cut = error  # what came before it is kept
        if filled > held:
            self._base.check_floor(filled)
            sealing.take(buffer, filled)
            self._holder.received_at = time.monotonic()
            if self._checksum is None:
                self._holder.position = sealing.position
        if cut is not None:
            raise cut
        return progress

    def _probe_end(self, taken: int) -> _Progress:
        """At the limit: has the body ended, or does it go on?"""
        if self._plan.expected_bytes is not None and taken >= self._plan.expected_bytes:
            return _Progress.ENDED
        count = self._body.receive_into(memoryview(bytearray(1)))
        if count is None:
            return _Progress.WAITING
        return _Progress.PAST_LIMIT if count else _Progress.ENDED
