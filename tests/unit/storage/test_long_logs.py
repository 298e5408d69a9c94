"""Uploads of very many commits: they go on, end and are read with little memory, and the log is verified once."""

import asyncio
import os
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dropoff_tus.errors import UploadDamagedError
from storage.backing import MAX_LINE_BYTES, Lines
from storage.uploads.base import StoreBase
from storage.uploads.maintenance.check import check_store
from storage.uploads.recovery import check_unchanged, read_chain
from tests.support.aio import async_test
from tests.support.long_log import lengthen
from tests.support.store_kit import StoreKit

_MANY = 60_000
_SOME = 5_000
_BLOCK_BYTES = 64 << 10


async def _upload(kit: StoreKit, segments: int, *, length: int | None = None, sign_all: bool = False) -> str:
    """Make an upload of so many segments of a byte each, and forget about it."""
    _, upload = await kit.create(length or segments)
    await kit.append(upload.id, 0, b"x")
    await kit.store.close()
    lengthen(kit.store, upload.id, segments, sign_all=sign_all)
    kit.open()
    return upload.id


async def _finished(kit: StoreKit, segments: int, *, sign_all: bool = False) -> str:
    upload_id = await _upload(kit, segments, sign_all=sign_all)
    await _finish(kit, upload_id)
    await kit.store.close()
    kit.open()
    return upload_id


async def _finish(kit: StoreKit, upload_id: str) -> None:
    """End an upload without its digests: reading so many segments back takes long."""
    async with kit.store.lease(upload_id) as lease:
        await lease.complete({}, datetime.now(UTC))


@pytest.fixture
def read_bytes(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], int]:
    """Count the bytes that were read of a file."""
    counts: dict[str, int] = {}
    real = os.pread

    def counting(descriptor: int, count: int, offset: int) -> bytes:
        found = real(descriptor, count, offset)
        path = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 - no path of ours
        counts[path] = counts.get(path, 0) + len(found)
        return found

    monkeypatch.setattr(os, "pread", counting)
    return lambda path: counts.get(str(path), 0)


@async_test
async def test_upload_of_very_many_segments_goes_on_finishes_and_is_read(tmp_path: Path) -> None:
    """As after a day and a half of small requests, or a week on a slow line: nothing ends it."""
    kit = StoreKit(tmp_path, durability="os")
    upload_id = await _upload(kit, _MANY, length=_MANY + 3)
    assert (await kit.store.stat(upload_id)).offset == _MANY
    await kit.append(upload_id, _MANY, b"yy")
    await kit.append(upload_id, _MANY + 2, b"z")
    await _finish(kit, upload_id)
    for store in (kit.store, kit.open()):
        assert (await store.stat(upload_id)).final
        assert await kit.read(upload_id, _MANY - 2) == b"xxyyz"
        assert await kit.read(upload_id, 31_000, 31_003) == b"xxx"
        assert await kit.read(upload_id, 0, 1) == b"x"
        await store.close()


@async_test
async def test_log_is_verified_once_for_many_ranges(tmp_path: Path, read_bytes: Callable[[Path], int]) -> None:
    """However many ask at once and one after the other, in one process: then a range costs a block of the log."""
    kit = StoreKit(tmp_path, durability="os")
    upload_id = await _finished(kit, _SOME)
    log = kit.store.layout.of(upload_id).log
    before, size = read_bytes(log), log.stat().st_size
    assert (
        await asyncio.gather(*(kit.read(upload_id, at, at + 1) for at in range(0, _SOME, _SOME // 20))) == [b"x"] * 20
    )
    # The ends of a log are looked at each time.
    assert size < read_bytes(log) - before < size + 25 * 4 * _BLOCK_BYTES < 25 * size
    before = read_bytes(log)
    assert await kit.read(upload_id, 4000, 4001) == b"x"
    assert 0 < read_bytes(log) - before < 4 * _BLOCK_BYTES
    await kit.store.close()


@async_test
async def test_of_a_log_that_grew_only_what_was_added_is_verified(
    tmp_path: Path, read_bytes: Callable[[Path], int]
) -> None:
    """Blocks that a takeover verified are remembered for the reading after the end."""
    kit = StoreKit(tmp_path, durability="os")
    upload_id = await _upload(kit, _SOME, length=_SOME + 1)
    await kit.append(upload_id, _SOME, b"y")
    await _finish(kit, upload_id)
    log = kit.store.layout.of(upload_id).log
    before = read_bytes(log)
    assert await kit.read(upload_id, _SOME, _SOME + 1) == b"y"
    assert 0 < read_bytes(log) - before < 5 * _BLOCK_BYTES
    await kit.store.close()


@async_test
async def test_marks_of_a_log_that_grows_bit_by_bit_stay_few(tmp_path: Path) -> None:
    """As where two servers take turns: each time a commit is added to what was verified."""
    kit, other = StoreKit(tmp_path, durability="os"), None
    _, upload = await kit.create(300)
    other = kit.at(tmp_path)
    for offset in range(300):
        await (kit if offset % 2 else other).append(upload.id, offset, b"x")
    for store in (kit.store, other.store):
        chain = store.chain(upload.id)
        assert chain.state.offset == 300
        assert len(chain.marks) <= 2 + 2 * chain.state.log_bytes // _BLOCK_BYTES
        assert [mark.end for mark in chain.marks] == sorted({mark.end for mark in chain.marks})
        await store.close()


@async_test
async def test_log_changed_after_it_was_verified_is_refused(tmp_path: Path) -> None:
    """Each block is held against its mark when it is read, whatever size and times the file shows."""
    kit = StoreKit(tmp_path, durability="os")
    upload_id = await _finished(kit, 3000, sign_all=True)
    paths = kit.store.layout.of(upload_id)
    assert await kit.read(upload_id, 2000, 2001) == b"x"
    raw, status = paths.log.read_bytes(), paths.log.stat()
    at = raw.index(b'"i":2000,')
    changed = bytearray(raw)
    changed[at + 4] ^= 1
    paths.log.write_bytes(changed)
    os.utime(paths.log, ns=(status.st_atime_ns, status.st_mtime_ns))
    for _ in range(2):
        with pytest.raises(UploadDamagedError, match="changed, moved or taken out"):
            await kit.read(upload_id, 2000, 2001)
    paths.log.write_bytes(raw)
    assert await kit.read(upload_id, 2000, 2001) == b"x"
    # An older state verifies: it was valid once.
    paths.log.write_bytes(raw[: raw.rindex(b"\n", 0, raw.index(b'"i":1000,')) + 1])
    assert kit.store.chain(upload_id).state.offset == 1000
    await kit.store.close()


@async_test
async def test_long_log_is_verified_and_read_with_little_memory(tmp_path: Path) -> None:
    """Of 10,000 commits some blocks are in memory, never the whole; nor do all the segments it names."""
    kit = StoreKit(tmp_path, durability="os")
    upload_id = await _upload(kit, 10_000)
    log = kit.store.base.chains.open(upload_id)
    size, key = log.size_bytes(), kit.store_keys.signing

    def read() -> None:
        assert sum(1 for _ in chain.segments(log)) == 10_000

    def verify() -> None:
        read_chain(log, upload_id, key)

    def verify_at_the_end() -> None:
        check_unchanged(log, chain.state)

    try:
        chain = read_chain(log, upload_id, key)
        for work in (verify, verify_at_the_end, read):
            tracemalloc.start()
            work()
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 2 << 20 < size / 2
    finally:
        log.close()
    await kit.store.close()


@async_test
async def test_check_verifies_every_signature_and_segment_of_a_long_log(tmp_path: Path) -> None:
    """In blocks too: one signature that is wrong anywhere is found, though the chain of hashes is whole."""
    kit = StoreKit(tmp_path, durability="os")
    whole = await _upload(kit, 1000, sign_all=True)
    unsigned = await _upload(kit, 1000)
    found = {one.upload_id: one.problem or "" async for one in check_store(kit.store)}
    assert found[whole] == ""
    assert "a record does not verify" in found[unsigned]
    data = kit.store.layout.of(whole).data
    raw = bytearray(data.read_bytes())
    raw[-1] ^= 1
    data.write_bytes(raw)
    found = {one.upload_id: one.problem or "" async for one in check_store(kit.store)}
    assert "segment 999" in found[whole]
    await kit.store.close()


@async_test
async def test_very_many_segments_are_not_read_back_while_a_client_waits(tmp_path: Path) -> None:
    """However little is in them: opening so many takes longer than a proxy waits for an answer."""
    kit = StoreKit(tmp_path, durability="os")
    many, few = await _upload(kit, 20_000), await _upload(kit, 100)
    async with kit.store.lease(many) as lease, kit.store.lease(few) as other:
        assert await lease.digests([], read_back_bytes=1 << 30) is None
        assert await other.digests([], read_back_bytes=1 << 30)
        assert await other.digests([], read_back_bytes=99) is None
    await kit.store.close()


@async_test
async def test_line_longer_than_any_record_is_refused_before_it_is_all_read(tmp_path: Path) -> None:
    """Somebody who can write to the store cannot fill the memory with it."""
    kit = StoreKit(tmp_path, durability="os")
    upload_id = await _upload(kit, 3)
    path = kit.store.layout.of(upload_id).log
    create, *lines = path.read_bytes().splitlines(keepends=True)
    with path.open("wb") as file:
        file.write(create)
        file.truncate(6 * MAX_LINE_BYTES)
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + lines[-1])
    tracemalloc.start()
    with pytest.raises(UploadDamagedError):
        kit.store.chain(upload_id)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * MAX_LINE_BYTES
    await kit.store.close()


@async_test
async def test_readings_that_stand_still_stop_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many readings wait for the disk, questions and writers have threads of their own."""
    kit = StoreKit(tmp_path)
    upload_id = await _finished(kit, 1)
    _, other = await kit.create(2)
    go_on = threading.Event()

    def slow(pieces: Iterator[bytes]) -> bytes | None:
        go_on.wait(30)
        return next(pieces, None)

    monkeypatch.setattr("storage.uploads.engine._next_piece", slow)
    readings = [asyncio.create_task(kit.read(upload_id)) for _ in range(40)]
    try:
        await asyncio.sleep(0)
        async with asyncio.timeout(20):
            assert (await kit.store.stat(upload_id)).final
            await kit.append(other.id, 0, b"12")
        assert not any(reading.done() for reading in readings)
    finally:
        go_on.set()
    assert await asyncio.gather(*readings) == [b"x"] * 40
    await kit.store.close()


@async_test
async def test_takeovers_of_long_logs_stop_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a start each long log is verified whole: that is reading too."""
    monkeypatch.setattr("storage.threads._LONG_LOG_BYTES", 10_000)
    kit = StoreKit(tmp_path)
    _, short = await kit.create(2)
    long = [await _upload(kit, 100, length=101) for _ in range(20)]
    go_on, real = threading.Event(), StoreBase.verified

    def slow(base: StoreBase, log: Lines, upload_id: str) -> object:
        if upload_id in long:
            go_on.wait(30)
        return real(base, log, upload_id)

    monkeypatch.setattr(StoreBase, "verified", slow)
    takeovers = [asyncio.create_task(kit.append(upload_id, 100, b"x")) for upload_id in long]
    try:
        await asyncio.sleep(0)
        async with asyncio.timeout(20):
            await kit.append(short.id, 0, b"12")
            assert (await kit.store.stat(long[0])).offset == 100
    finally:
        go_on.set()
    assert await asyncio.gather(*takeovers) == [101] * 20
    await kit.store.close()
