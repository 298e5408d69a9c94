"""The last commit, which a lease holds back for the final record, in every case."""

import asyncio
import errno
import hashlib
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dropoff_tus.errors import StorageFullError, UploadDamagedError
from dropoff_tus.messages import AppendPlan
from dropoff_tus.states import UploadState
from storage.backing import SegmentEntry
from storage.files import durable
from storage.uploads.commit import Committer
from storage.uploads.lease import UploadLease
from tests.support.aio import async_test
from tests.support.store_kit import BytesBody, StoreKit

_DATA = bytes(range(256)) * 40


class _FullLog(durable.Calls):
    """A disk that takes no more lines of a log, while it still takes everything else."""

    def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
        """Refuse what looks like a record."""
        if bytes(data[:1]) == b"{":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().pwrite(descriptor, data, offset)


async def _held(lease: UploadLease, data: bytes = _DATA) -> None:
    plan = AppendPlan(lease.upload.offset, len(data), len(data))
    await lease.append(BytesBody(data), plan, idle_timeout_seconds=10, hold_last=True)


async def _finish(lease: UploadLease) -> None:
    values = await lease.digests([], read_back_bytes=1 << 20)
    assert values is not None
    await lease.complete(values, datetime.now(UTC))


async def _read(kit: StoreKit, upload_id: str) -> bytes:
    return b"".join([piece async for piece in kit.store.read(upload_id)])


@async_test
async def test_held_commit_is_one_line_with_the_final_record(tmp_path: Path) -> None:
    """An upload of one PATCH has two lines: its creation, and its segments with its end."""
    kit = StoreKit(tmp_path)
    _, upload = await kit.create(len(_DATA))
    async with kit.store.lease(upload.id, offset=0) as lease:
        await _held(lease)
        assert lease.upload.offset == len(_DATA)
        assert (await kit.store.stat(upload.id)).offset == 0, "no answer before it is durable"
        await _finish(lease)
    assert kit.store.layout.of(upload.id).log.read_bytes().count(b"\n") == 2
    assert await _read(kit, upload.id) == _DATA


@async_test
async def test_held_commit_is_committed_when_the_lease_ends_without_a_final_record(tmp_path: Path) -> None:
    """If the checks do not pass, for any reason, the bytes that came are kept, and the digests go on."""
    kit = StoreKit(tmp_path)
    _, upload = await kit.create(len(_DATA))
    async with kit.store.lease(upload.id, offset=0) as lease:
        await _held(lease)
    assert (await kit.store.stat(upload.id)).offset == len(_DATA)
    async with kit.store.lease(upload.id) as lease:
        values = await lease.digests([], read_back_bytes=0)
        assert values == {"sha256": hashlib.sha256(_DATA).digest()}


@async_test
async def test_held_commit_that_the_full_disk_refuses_leaves_what_was_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No later line may name bytes that were cut, and no digest may count them."""
    kit = StoreKit(tmp_path)
    _, upload = await kit.create(len(_DATA))
    await kit.append(upload.id, 0, _DATA[:1000])
    async with kit.store.lease(upload.id, offset=1000) as lease:
        await _held(lease, _DATA[1000:])
        with monkeypatch.context() as full:
            full.setattr(durable, "calls", _FullLog())
            with pytest.raises(StorageFullError):
                await _finish(lease)
    assert (await kit.store.stat(upload.id)).offset == 1000
    async with kit.store.lease(upload.id, offset=1000) as lease:
        await _held(lease, _DATA[1000:])
        assert await lease.digests([], read_back_bytes=1 << 20) == {"sha256": hashlib.sha256(_DATA).digest()}
        await _finish(lease)
    assert await _read(kit, upload.id) == _DATA


@async_test
async def test_held_commit_adds_nothing_to_a_log_that_was_changed(tmp_path: Path) -> None:
    """Bytes that changed on the disk since they were written are refused and left as they are."""
    kit = StoreKit(tmp_path)
    _, upload = await kit.create(len(_DATA))
    await kit.append(upload.id, 0, _DATA[:1000])
    log = kit.store.layout.of(upload.id).log
    async with kit.store.lease(upload.id, offset=1000) as lease:
        await _held(lease, _DATA[1000:])
        changed = log.read_bytes().replace(b'"l":1000', b'"l":1001')
        log.write_bytes(changed)
        with pytest.raises(UploadDamagedError):
            await _finish(lease)
    assert log.read_bytes() == changed


@async_test
async def test_held_commit_is_dropped_with_an_upload_that_is_ended(tmp_path: Path) -> None:
    """A refused upload is shredded; its last bytes need no commit before."""
    kit = StoreKit(tmp_path)
    _, upload = await kit.create(len(_DATA))
    async with kit.store.lease(upload.id, offset=0) as lease:
        await _held(lease)
        await lease.end(UploadState.REJECTED, "digest mismatch", datetime.now(UTC))
    paths = kit.store.layout.of(upload.id)
    assert paths.data.read_bytes() == b""
    assert (await kit.store.stat(upload.id)).ended is UploadState.REJECTED


@async_test
async def test_lease_is_let_go_of_also_when_its_end_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler that is cancelled while the held commit is written must not lock the upload for ever."""
    kit = StoreKit(tmp_path)
    _, upload = await kit.create(len(_DATA))
    began, slow = asyncio.Event(), Committer.segments
    loop = asyncio.get_running_loop()

    def segments(self: Committer, entries: Sequence[SegmentEntry]) -> None:
        loop.call_soon_threadsafe(began.set)
        time.sleep(0.2)
        slow(self, entries)

    monkeypatch.setattr(Committer, "segments", segments)

    async def hold() -> None:
        async with kit.store.lease(upload.id, offset=0) as lease:
            await _held(lease)

    task = asyncio.create_task(hold())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not kit.store.held(upload.id)
    async with kit.store.lease(upload.id, timeout_seconds=1) as lease:
        assert lease.upload.offset == len(_DATA)
