"""The store port's promises to writers: appending, what an error keeps, who holds the lease."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from dropoff_tus.checksum import ExpectedChecksum
from dropoff_tus.errors import (
    BodyCutError,
    BodyTimeoutError,
    ChecksumMismatchError,
    DropoffError,
    LengthFixedError,
    MaxSizeExceededError,
    MismatchedOffsetError,
    UploadGoneError,
    UploadInterruptedError,
    UploadLockedError,
    UploadNotFoundError,
    UploadSizeExceededError,
)
from dropoff_tus.messages import AppendPlan
from dropoff_tus.model import Mode, Role
from dropoff_tus.states import UploadState
from tests.integration.store.harness import METADATA, Uploads, take
from tests.support.aio import async_test
from tests.support.memory_body import MemoryBody

NOBODY = "0" * 32


def _sha1(data: bytes) -> ExpectedChecksum:
    return ExpectedChecksum("sha1", hashlib.sha1(data, usedforsecurity=False).digest())


@asynccontextmanager
async def _running(
    uploads: Uploads, upload_id: str, sent: bytes
) -> AsyncIterator[tuple[MemoryBody, asyncio.Task[int]]]:
    """Append in the background: `sent` has come, and more may."""
    body = MemoryBody(sent, ended=False)

    async def run() -> int:
        async with uploads.store.lease(upload_id, offset=0) as lease:
            return await take(lease, body, AppendPlan(0, 100, 100))

    task = asyncio.ensure_future(run())
    await body.until_taken(len(sent))
    try:
        yield body, task
    finally:
        body.cut()
        await asyncio.gather(task, return_exceptions=True)


@async_test
async def test_create_says_what_was_asked_and_holds_no_byte(uploads: Uploads) -> None:
    """A new upload is open at 0, and stat says the same as create did."""
    _, made = await uploads.create(7)
    assert (made.offset, made.length, made.final, made.ended, made.whole) == (0, 7, False, None, False)
    assert (made.drop_id, made.role, made.mode) == (uploads.drop_id, Role.REGULAR, Mode.MANAGED)
    assert await uploads.store.stat(made.id) == made
    assert await uploads.store.metadata(made.id) == METADATA


@async_test
async def test_unknown_upload_is_not_found(uploads: Uploads) -> None:
    """By stat, by metadata's neighbours, and by lease."""
    await uploads.create(1)
    with pytest.raises(UploadNotFoundError):
        await uploads.store.stat(NOBODY)
    with pytest.raises(UploadNotFoundError):
        async with uploads.store.lease(NOBODY):
            pass
    await uploads.store.settle(NOBODY)
    await uploads.store.interrupt([NOBODY], UploadState.TERMINATED)


@async_test
async def test_append_in_two_bodies_is_durable_after_each(uploads: Uploads) -> None:
    """The offset is the committed one, even for a process that starts again."""
    _, upload = await uploads.create(10)
    assert await uploads.append(upload.id, 0, b"01234") == 5
    first = await uploads.store.stat(upload.id)
    assert first.last_commit_at >= upload.last_commit_at
    uploads.backend.reopen()
    assert (await uploads.store.stat(upload.id)).offset == 5
    assert await uploads.append(upload.id, 5, b"56789") == 10
    assert (await uploads.store.stat(upload.id)).whole


@async_test
async def test_append_at_another_offset_reads_nothing(uploads: Uploads) -> None:
    """A plan for another offset than the durable one is refused before the body."""
    _, upload = await uploads.create(10)
    await uploads.append(upload.id, 0, b"01234")
    body = MemoryBody(b"56789")
    async with uploads.store.lease(upload.id, offset=3) as lease:
        with pytest.raises(MismatchedOffsetError):
            await take(lease, body, AppendPlan(3, 5, 5))
    assert body.taken_bytes == 0
    assert (await uploads.store.stat(upload.id)).offset == 5


@pytest.mark.parametrize("error", [UploadSizeExceededError, MaxSizeExceededError])
@async_test
async def test_append_past_the_limit_keeps_what_is_below(uploads: Uploads, error: type[DropoffError]) -> None:
    """A chunked body is cut at the limit, and the error is the one the plan names."""
    _, upload = await uploads.create(4)
    async with uploads.store.lease(upload.id, offset=0) as lease:
        with pytest.raises(error):
            await take(lease, MemoryBody(b"abcdef"), AppendPlan(0, 4, None, past_limit=error.code))
        assert lease.upload.offset == 4
    await uploads.finish(upload.id)
    assert await uploads.read(upload.id) == b"abcd"


@async_test
async def test_append_that_ends_exactly_at_the_limit_is_whole(uploads: Uploads) -> None:
    """A chunked body of just the length is no error."""
    _, upload = await uploads.create(4)
    async with uploads.store.lease(upload.id, offset=0) as lease:
        assert await take(lease, MemoryBody(b"abcd"), AppendPlan(0, 4, None)) == 4


@async_test
async def test_cut_body_keeps_what_came(uploads: Uploads) -> None:
    """A client that goes away loses nothing that arrived."""
    _, upload = await uploads.create(10)
    body = MemoryBody(b"0123", ended=False)
    body.cut()
    async with uploads.store.lease(upload.id, offset=0) as lease:
        with pytest.raises(BodyCutError):
            await take(lease, body, AppendPlan(0, 10, 10))
    assert (await uploads.store.stat(upload.id)).offset == 4


@async_test
async def test_checksum_that_matches_keeps_and_one_that_does_not_discards(uploads: Uploads) -> None:
    """Nothing of a checksummed body counts before its checksum held; the running digests forget it too."""
    _, upload = await uploads.create(5)
    async with uploads.store.lease(upload.id, offset=0) as lease:
        with pytest.raises(ChecksumMismatchError):
            await take(lease, MemoryBody(b"wrong"), AppendPlan(0, 5, 5, checksum=_sha1(b"right")))
        assert lease.upload.offset == 0
    async with uploads.store.lease(upload.id, offset=0) as lease:
        assert await take(lease, MemoryBody(b"right"), AppendPlan(0, 5, 5, checksum=_sha1(b"right"))) == 5
        digests = await lease.digests([], read_back_bytes=0)
    assert digests == {"sha256": hashlib.sha256(b"right").digest()}


@async_test
async def test_checksummed_body_that_is_cut_keeps_nothing(uploads: Uploads) -> None:
    """Half a body proves nothing."""
    _, upload = await uploads.create(5)
    body = MemoryBody(b"rig", ended=False)
    body.cut()
    async with uploads.store.lease(upload.id, offset=0) as lease:
        with pytest.raises(BodyCutError):
            await take(lease, body, AppendPlan(0, 5, 5, checksum=_sha1(b"right")))
    assert (await uploads.store.stat(upload.id)).offset == 0


@async_test
async def test_body_that_stands_still_times_out_and_keeps_what_came(uploads: Uploads) -> None:
    """The idle timeout commits first."""
    _, upload = await uploads.create(10)
    async with uploads.store.lease(upload.id, offset=0) as lease:
        with pytest.raises(BodyTimeoutError):
            await take(lease, MemoryBody(b"0123", ended=False), AppendPlan(0, 10, 10), idle_timeout_seconds=0.05)
    assert (await uploads.store.stat(upload.id)).offset == 4


@async_test
async def test_newcomer_takes_over_and_what_came_is_kept(uploads: Uploads) -> None:
    """The holder commits, learns that it was interrupted, and lets go."""
    _, upload = await uploads.create(100)
    async with _running(uploads, upload.id, b"0123") as (_, task), uploads.store.lease(upload.id, offset=4) as lease:
        assert lease.upload.offset == 4
        with pytest.raises(UploadInterruptedError):
            await task


@async_test
async def test_hopeless_newcomer_leaves_the_holder_alone(uploads: Uploads) -> None:
    """A request for another offset than the holder's cannot win, and interrupts nothing."""
    _, upload = await uploads.create(100)
    async with _running(uploads, upload.id, b"0123") as (body, task):
        with pytest.raises(MismatchedOffsetError):
            async with uploads.store.lease(upload.id, offset=0):
                pass
        body.feed(b"x" * 96)
        assert await task == 100


@async_test
async def test_lease_that_is_not_let_go_is_locked(uploads: Uploads) -> None:
    """A holder that is busy with something else than a body is waited for, up to the timeout."""
    _, upload = await uploads.create(100)
    async with uploads.store.lease(upload.id):
        with pytest.raises(UploadLockedError):
            async with uploads.store.lease(upload.id, timeout_seconds=0.05):
                pass
    async with uploads.store.lease(upload.id):
        pass


@async_test
async def test_interrupt_ends_an_append_as_gone_and_keeps_what_came(uploads: Uploads) -> None:
    """An upload that the operator stops is committed first."""
    _, upload = await uploads.create(100)
    async with _running(uploads, upload.id, b"0123") as (_, task):
        await uploads.store.interrupt([upload.id], UploadState.TERMINATED)
        with pytest.raises(UploadGoneError):
            await task
    assert (await uploads.store.stat(upload.id)).offset == 4


@async_test
async def test_settle_makes_a_quiet_writer_commit_and_go_on(uploads: Uploads) -> None:
    """The bytes of a stalled body become durable, and the body is not ended by it."""
    _, upload = await uploads.create(100)
    async with _running(uploads, upload.id, b"0123") as (body, task):
        async with asyncio.timeout(30):  # the port waits for two seconds, which a busy machine may need longer than
            while (await uploads.store.stat(upload.id)).offset != 4:
                await uploads.store.settle(upload.id)
        body.feed(b"x" * 96)
        assert await task == 100


@async_test
async def test_declared_length_is_fixed_durably(uploads: Uploads) -> None:
    """The same length again is fine, another is refused."""
    _, upload = await uploads.create(None)
    async with uploads.store.lease(upload.id) as lease:
        await lease.declare_length(3, datetime.now(UTC))
        await lease.declare_length(3, datetime.now(UTC))
        with pytest.raises(LengthFixedError):
            await lease.declare_length(4, datetime.now(UTC))
    uploads.backend.reopen()
    assert (await uploads.store.stat(upload.id)).length == 3


@async_test
async def test_waiting_are_those_with_bytes_to_come_and_no_other(uploads: Uploads) -> None:
    """A start looks at the others: whole, finished, ended, concatenated and missing ones."""
    waiting = []
    for length in (None, 9):
        for commits in range(3):
            _, upload = await uploads.create(length)
            for offset in range(commits):
                await uploads.append(upload.id, offset, b"x")
            waiting.append(upload.id)
    others = ["0" * 32, (await uploads.create(0))[1].id]
    for _ in range(3):
        _, upload_id = await uploads.whole(b"01", role=Role.PARTIAL)
        others.append(upload_id)
    await uploads.finish(others[-1])
    others.append((await uploads.create(None, role=Role.FINAL, parts=[others[-1]]))[1].id)
    async with uploads.store.lease(others[-3]) as lease:
        await lease.end(UploadState.TERMINATED, "a test", datetime.now(UTC))
    uploads.backend.reopen()
    assert await uploads.store.waiting([*waiting, *others]) == set(waiting)
    assert await uploads.store.waiting([]) == set()
