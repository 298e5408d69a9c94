"""Failures while a body is being received: acknowledged bytes stay, later ones are right, digests included."""

import asyncio
import errno
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dropoff_tus.checksum import ExpectedChecksum
from dropoff_tus.errors import StorageFailedError, StorageFullError, TooManySegmentsError
from dropoff_tus.messages import AppendPlan
from storage.backing import MAX_LINE_BYTES, SegmentEntry
from storage.files import durable
from storage.uploads import sealing
from storage.uploads.log import MAX_COMMIT_SEGMENTS, MAX_SEGMENTS
from storage.uploads.maintenance.check import check_store
from tests.support.aio import async_test
from tests.support.memory_body import MemoryBody
from tests.support.store_kit import BytesBody, StoreKit

_ROLL_BYTES = 1 << 20
_LENGTH = 5 * _ROLL_BYTES + 1000


class _FailingDisk(durable.Calls):
    """Does something else at the n-th sync of a `data` file, which begins a commit, or the n-th write of a log."""

    def __init__(self, at: int, what: Callable[[], None], *, kind: str) -> None:
        self._left, self._what, self._kind = at, what, kind

    def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
        if bytes(data[:1]) == b"{":
            self._count("log")
        return super().pwrite(descriptor, data, offset)

    def fdatasync(self, descriptor: int) -> None:
        if "/data" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            self._count("data")
        super().fdatasync(descriptor)

    def _count(self, kind: str) -> None:
        if kind == self._kind:
            self._left -= 1
            if self._left == 0:
                self._what()


def _raise(error: BaseException) -> Callable[[], None]:
    def what() -> None:
        raise error

    return what


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let segments, and so commits beside the receiving, be small."""
    monkeypatch.setattr(sealing, "ROLL_BYTES", _ROLL_BYTES)


async def _append(kit: StoreKit, upload_id: str, offset: int, body: MemoryBody, *, idle_seconds: float = 5) -> int:
    async with kit.store.lease(upload_id, offset=offset) as lease:
        plan = AppendPlan(offset, _LENGTH - offset, _LENGTH - offset)
        return await lease.append(body, plan, idle_timeout_seconds=idle_seconds)


async def _complete(kit: StoreKit, upload_id: str, content: bytes) -> None:
    """Go on from the durable offset, finish, and hold bytes, digest and every chain against what was sent."""
    offset = (await kit.store.stat(upload_id)).offset
    await _append(kit, upload_id, offset, MemoryBody(content[offset:]))
    await kit.finish(upload_id)
    assert await kit.read(upload_id) == content
    receipt = await kit.store.receipt(upload_id)
    assert receipt is not None
    assert receipt["sha256"] == hashlib.sha256(content).hexdigest()
    assert [finding.problem async for finding in check_store(kit.store)] == [None]


async def _feed(body: MemoryBody, content: bytes) -> None:
    """Let a body come piece by piece, each once the one before was taken, so that commits run in between."""
    for start in range(0, len(content), _ROLL_BYTES):
        body.feed(content[start : start + _ROLL_BYTES])
        deadline = time.monotonic() + 1
        while body.taken_bytes < start + _ROLL_BYTES and time.monotonic() < deadline:  # noqa: ASYNC110 - a thread takes
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("kind", ["data", "log"])
@async_test
async def test_full_disk_at_a_commit_beside_keeps_the_ones_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, at: int
) -> None:
    """A commit that runs while more is received fails: those before it stay, and the upload goes on in this process."""
    kit, content = StoreKit(tmp_path), os.urandom(_LENGTH)
    _token, upload = await kit.create(_LENGTH)
    failing = _raise(OSError(errno.ENOSPC, "full"))
    monkeypatch.setattr(durable, "calls", _FailingDisk(at, failing, kind=kind))
    body = MemoryBody(ended=False)
    feeding = asyncio.create_task(_feed(body, content))
    # A sync that failed may have lost bytes; a write that failed has lost none.
    with pytest.raises(StorageFailedError if kind == "data" else StorageFullError):
        await _append(kit, upload.id, 0, body)
    feeding.cancel()
    monkeypatch.undo()
    monkeypatch.setattr(sealing, "ROLL_BYTES", _ROLL_BYTES)
    if kind == "data":
        kit.open()
    # A slow machine may commit two segments at once.
    kept = (await kit.store.stat(upload.id)).offset
    assert kept % _ROLL_BYTES == 0
    assert (at - 1) * _ROLL_BYTES <= kept < 4 * (at - 1) * _ROLL_BYTES + 1
    await _complete(kit, upload.id, content)


@async_test
async def test_commit_that_fails_unexpectedly_is_followed_by_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If anything stops a commit beside, no later segment gets into the log without the ones before it."""
    kit, content = StoreKit(tmp_path), os.urandom(_LENGTH)
    _token, upload = await kit.create(_LENGTH)
    monkeypatch.setattr(durable, "calls", _FailingDisk(2, _raise(MemoryError("none left")), kind="data"))
    body = MemoryBody(ended=False)
    feeding = asyncio.create_task(_feed(body, content))
    with pytest.raises(MemoryError):
        await _append(kit, upload.id, 0, body)
    feeding.cancel()
    assert _ROLL_BYTES <= (await kit.store.stat(upload.id)).offset <= 3 * _ROLL_BYTES
    await _complete(kit, upload.id, content)


@async_test
async def test_cancelled_append_keeps_what_came_and_its_digest(tmp_path: Path) -> None:
    """A handler that is cancelled commits what it has; when not let, the digest is still right."""
    kit, content = StoreKit(tmp_path), os.urandom(_LENGTH)
    _token, upload = await kit.create(_LENGTH)
    for times in (1, 2):
        offset = (await kit.store.stat(upload.id)).offset
        body = MemoryBody(content[offset : offset + 300_000], ended=False)
        appending = asyncio.create_task(_append(kit, upload.id, offset, body))
        await body.until_taken(300_000)
        await asyncio.sleep(0.05)
        for _ in range(times):
            appending.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await appending
        if times == 1:
            assert (await kit.store.stat(upload.id)).offset == 300_000
    await _complete(kit, upload.id, content)


@async_test
async def test_cancelling_while_a_commit_runs_is_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit that uses the lease's descriptors is waited for, and then the append ends."""
    kit, content = StoreKit(tmp_path), os.urandom(_LENGTH)
    _token, upload = await kit.create(_LENGTH)
    monkeypatch.setattr(durable, "calls", _FailingDisk(1, lambda: time.sleep(0.5), kind="data"))
    monkeypatch.setattr("storage.uploads.append._BACKLOG_BYTES", _ROLL_BYTES)
    body = MemoryBody(content[: 3 * _ROLL_BYTES], ended=False)
    appending = asyncio.create_task(_append(kit, upload.id, 0, body))
    await body.until_taken(2 * _ROLL_BYTES)
    await asyncio.sleep(0.1)
    appending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.shield(appending), 20)
    await _complete(kit, upload.id, content)


@async_test
async def test_slow_disk_is_not_the_clients_idleness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While receiving waits for a commit, bytes wait in the kernel: nobody is timed out for it."""
    kit, content = StoreKit(tmp_path), os.urandom(_LENGTH)
    _token, upload = await kit.create(_LENGTH)
    monkeypatch.setattr(durable, "calls", _FailingDisk(1, lambda: time.sleep(0.6), kind="data"))
    monkeypatch.setattr("storage.uploads.append._BACKLOG_BYTES", _ROLL_BYTES)
    await _append(kit, upload.id, 0, MemoryBody(content), idle_seconds=0.3)
    await _complete(kit, upload.id, content)


@async_test
async def test_append_never_reads_back_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit costs the same after ten thousand others; only another process's first look reads the log, once."""
    kit = StoreKit(tmp_path, durability="os")
    _, upload = await kit.create(None)
    for offset in range(50):
        await kit.append(upload.id, offset, b"x")
    read = 0
    pread = os.pread

    def counting(descriptor: int, count: int, offset: int) -> bytes:
        nonlocal read
        found = pread(descriptor, count, offset)
        read += len(found)
        return found

    monkeypatch.setattr(os, "pread", counting)
    for offset in range(50, 60):
        await kit.append(upload.id, offset, b"x")
    assert read == 0
    kit.open()
    await kit.append(upload.id, 60, b"x")
    log_bytes = kit.store.layout.of(upload.id).log.stat().st_size
    assert log_bytes <= read < 8 * log_bytes
    read = 0
    for offset in range(61, 65):
        await kit.append(upload.id, offset, b"x")
    assert read == 0


@async_test
async def test_append_beyond_the_most_segments_is_refused_and_keeps_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small pieces cost more than they hold; an upload of as many as allowed is still whole."""
    assert MAX_SEGMENTS == 4_000_000
    monkeypatch.setattr(sealing, "MAX_SEGMENTS", 3)
    kit = StoreKit(tmp_path)
    _, upload = await kit.create(4)
    _, exact = await kit.create(3)
    for offset in range(3):
        await kit.append(upload.id, offset, b"x")
        await kit.append(exact.id, offset, b"x")
    with pytest.raises(TooManySegmentsError, match="larger"):
        await kit.append(upload.id, 3, b"x")
    assert TooManySegmentsError.status_hint == 413
    assert (await kit.store.stat(upload.id)).offset == 3
    await kit.finish(exact.id)
    assert await kit.read(exact.id) == b"xxx"
    assert {finding.problem async for finding in check_store(kit.open())} == {None}


@async_test
async def test_checksummed_body_of_too_many_segments_is_refused_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is one record, which must not become longer than a record is believed to be when it is read."""
    monkeypatch.setattr(sealing, "ROLL_BYTES", _ROLL_BYTES)
    monkeypatch.setattr(sealing, "MAX_COMMIT_SEGMENTS", 3)
    entry = SegmentEntry(10**7, 10**15, 10**8, 10**15, 10**8, 10**4, "0" * 64, "0" * 64, "0" * 32)
    assert MAX_COMMIT_SEGMENTS * len(json.dumps(entry.record())) < MAX_LINE_BYTES
    kit = StoreKit(tmp_path)
    content = os.urandom(4 * _ROLL_BYTES)
    _, upload = await kit.create(len(content))
    checksum = ExpectedChecksum("sha256", hashlib.sha256(content).digest())
    plan = AppendPlan(0, len(content), len(content), checksum=checksum)
    async with kit.store.lease(upload.id, offset=0) as lease:
        with pytest.raises(TooManySegmentsError, match="several requests"):
            await lease.append(BytesBody(content), plan, idle_timeout_seconds=5)
    assert (await kit.store.stat(upload.id)).offset == 0
    await kit.append(upload.id, 0, content[: 3 * _ROLL_BYTES])
    await kit.append(upload.id, 3 * _ROLL_BYTES, content[3 * _ROLL_BYTES :])
    await kit.finish(upload.id)
    assert await kit.read(upload.id) == content
