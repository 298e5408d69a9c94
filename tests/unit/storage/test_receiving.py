"""Whether somebody receives for an upload, and the answer to an interrupted writer, on real files."""

import asyncio
import hashlib
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dropoff_tus import errors, policy
from dropoff_tus.checksum import ExpectedChecksum
from dropoff_tus.messages import AppendPlan
from dropoff_tus.model import DropTerms, Usage
from dropoff_tus.protocol import FREE_OVERHEAD_BYTES, ending
from dropoff_tus.states import UploadState
from server.usecases.reserving import ReservingBody
from storage.open import FileStore
from storage.uploads import append, leases
from storage.uploads.lease import UploadLease
from storage.uploads.maintenance.check import check_store
from tests.support.aio import async_test
from tests.support.memory_body import MemoryBody
from tests.support.store_kit import StoreKit

_CONTENT = b"0123456789"
_REASONS = {
    "taken over": "another request took this upload over",
    "terminated": "by the client",
    "closed": "by the operator",
    "stopped": "the server is stopping",
    "silent": "no byte came",
    "cut": "the client went away",
}
_CHECKSUM = ExpectedChecksum("sha256", hashlib.sha256(_CONTENT).digest())


async def _receiving(
    kit: StoreKit, upload_id: str, checksum: ExpectedChecksum | None, idle_seconds: float = 30
) -> tuple[MemoryBody, "asyncio.Task[int]"]:
    body = MemoryBody(_CONTENT[:4], ended=False)

    async def append(store: FileStore) -> int:
        async with store.lease(upload_id, offset=0) as lease:
            plan = AppendPlan(0, len(_CONTENT), len(_CONTENT), checksum=checksum)
            return await lease.append(body, plan, idle_timeout_seconds=idle_seconds)

    task = asyncio.ensure_future(append(kit.store))
    await body.until_taken(4)
    return body, task


@async_test
async def test_lease_for_the_idle_leaves_a_writer_of_any_process_alone(tmp_path: Path) -> None:
    """Two processes know of one another's writers; a lease that is for idle uploads is refused and stops nobody."""
    kit = StoreKit(tmp_path)
    _token, upload = await kit.create(len(_CONTENT))
    one, other = kit.store, kit.open()
    kit.store = one
    assert [await store.receiving(upload.id) for store in (one, other)] == [False, False]
    body, task = await _receiving(kit, upload.id, _CHECKSUM)

    async def take(lease: AbstractAsyncContextManager[UploadLease]) -> None:
        async with lease:
            pass

    for store in (one, other):
        assert await store.receiving(upload.id)
        with pytest.raises(errors.UploadLockedError):
            await take(store.lease(upload.id, idle=True))
    body.feed(_CONTENT[4:])
    body.end()
    assert await task == len(_CONTENT)
    for store in (one, other):
        assert not await store.receiving(upload.id)
        await take(store.lease(upload.id, idle=True))
    assert not await one.receiving("0" * 32)


@pytest.mark.parametrize("checksum", [None, _CHECKSUM], ids=["plain", "checksum"])
@pytest.mark.parametrize("why", _REASONS)
@async_test
async def test_interrupted_writer_is_told_why_and_what_became_of_its_bytes(
    tmp_path: Path, why: str, checksum: ExpectedChecksum | None
) -> None:
    """For any interruption the reason is the real one, and the fate of the bytes agrees with HEAD."""
    kit = StoreKit(tmp_path)
    _token, upload = await kit.create(len(_CONTENT))
    body, task = await _receiving(kit, upload.id, checksum, 0.2 if why == "silent" else 30)
    if why == "cut":
        body.cut()
    elif why == "stopped":
        await kit.store.stop_appends()
    elif why == "closed":
        await kit.store.interrupt([upload.id], UploadState.TERMINATED)
    elif why != "silent":
        reason = ending(UploadState.TERMINATED, "by the client") if why == "terminated" else None
        async with kit.store.lease(upload.id, reason=reason):
            pass
    with pytest.raises(errors.DropoffError) as caught:
        await task
    said = caught.value.message
    assert _REASONS[why] in said
    offset = (await kit.open().stat(upload.id)).offset
    assert offset == (0 if checksum else 4)
    if why in {"terminated", "closed"}:
        assert "the arrived bytes go with it" in said
        assert "kept" not in said
    elif checksum:
        assert "its bytes are discarded" in said
        assert said.endswith("send them again from 0")
    else:
        assert said.endswith("the bytes up to 4 are kept")


@async_test
async def test_body_that_nothing_more_is_reserved_for_is_told_that_what_came_is_kept(tmp_path: Path) -> None:
    """A deferred length: a request that is refused at once differs from one that is interrupted."""
    kit = StoreKit(tmp_path)
    _token, upload = await kit.create(None)

    async def more() -> int:
        policy.check_quota(DropTerms("x", max_total_bytes=4), Usage(1, 4), 1)
        return 0

    body = ReservingBody(MemoryBody(_CONTENT), 4, more)
    with pytest.raises(errors.QuotaError) as caught:
        async with kit.store.lease(upload.id, offset=0) as lease:
            await lease.append(body, AppendPlan(0, 100, None), idle_timeout_seconds=30)
    assert caught.value.message == "this drop-off takes 0 bytes more; the bytes up to 4 are kept"
    assert (await kit.store.stat(upload.id)).offset == 4


@async_test
async def test_discarded_body_is_seen_in_the_log(tmp_path: Path) -> None:
    """An upload's age counts from it, in any process; nothing else changes, and the upload goes on and verifies."""
    kit = StoreKit(tmp_path)
    _token, upload = await kit.create(len(_CONTENT))
    later = [datetime.now(UTC) + timedelta(minutes=5)]
    kit.store = FileStore(kit.settings, kit.store_keys, lambda: later[0])
    for _ in range(3):
        body, task = await _receiving(kit, upload.id, _CHECKSUM)
        body.cut()
        with pytest.raises(errors.BodyCutError):
            await task
    store = kit.open()
    found = await store.stat(upload.id)
    assert (found.offset, found.last_commit_at) == (
        0,
        later[0].replace(microsecond=later[0].microsecond // 1000 * 1000),
    )
    # Once for those within a second, lest a client that repeats fill the disk.
    assert store.layout.of(upload.id).log.read_bytes().count(b'"t":"seen"') == 1
    assert await store.waiting([upload.id]) == {upload.id}
    await kit.append(upload.id, 0, _CONTENT)
    await kit.finish(upload.id)
    assert await kit.read(upload.id) == _CONTENT
    assert [finding.problem async for finding in check_store(kit.store)] == [None]


@pytest.mark.parametrize("why", ["slow line", "asked"])
@async_test
async def test_commits_within_a_body_cost_no_more_than_pieces_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """Beyond it, bytes wait for a larger commit, or for the end of the body, also if that is a cut."""
    monkeypatch.setattr(append, "ROLL_SECONDS", 0.0 if why == "slow line" else 3600.0)
    monkeypatch.setattr(leases, "QUIET_SECONDS", 0.0)
    kit = StoreKit(tmp_path)
    _token, upload = await kit.create(1000)
    body = MemoryBody(ended=False)

    async def run() -> int:
        async with kit.store.lease(upload.id, offset=0) as lease:
            return await lease.append(body, AppendPlan(0, 1000, 1000), idle_timeout_seconds=30)

    task = asyncio.ensure_future(run())
    for count in range(1, 151):
        body.feed(b"x")
        await body.until_taken(count)
        if why == "asked":
            await kit.store.settle(upload.id)
    stored = await kit.store.stat(upload.id)
    assert 10 < stored.offset < 150
    assert stored.overhead_bytes < FREE_OVERHEAD_BYTES + 8192
    body.cut()
    with pytest.raises(errors.BodyCutError):
        await task
    assert (await kit.store.stat(upload.id)).offset == 150
