"""The work that a list, a check or a sweep does for each of very many uploads: counted, since it decides how long."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dropoff_tus.errors import UploadDamagedError
from dropoff_tus.messages import AppendPlan
from dropoff_tus.model import UploadRow
from dropoff_tus.states import UploadState
from server.usecases.operating.comparing import STATS_AT_ONCE, compare
from storage.age import Identity
from storage.keyring.signing import SigningKey
from storage.threads import Threads
from storage.uploads.maintenance.check import Depth, check_store
from tests.support.aio import async_test
from tests.support.memory_catalog import MemoryCatalog
from tests.support.store_kit import BytesBody, StoreKit

_COUNT = 3 * STATS_AT_ONCE // 2


async def _kit(folder: Path, count: int) -> tuple[StoreKit, list[str]]:
    """Make a store with small finished uploads, opened again so that nothing is remembered."""
    kit, made = StoreKit(folder, durability="os"), list[str]()
    for _ in range(count):
        _, upload = await kit.create(5)
        async with kit.store.lease(upload.id, offset=0) as lease:
            await lease.append(BytesBody(b"12345"), AppendPlan(0, 5, 5), idle_timeout_seconds=5, hold_last=True)
            await lease.complete({}, datetime.now(UTC))
        made.append(upload.id)
    kit.open()
    return kit, made


def _count_signatures(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return what grows by each message whose signature is verified: that costs more than all the reading."""
    seen, verify = list[bytes](), SigningKey.verify

    def counted(key: SigningKey, message: bytes, signature: bytes) -> str | None:
        seen.append(message)
        return verify(key, message, signature)

    monkeypatch.setattr(SigningKey, "verify", counted)
    return seen


@async_test
async def test_check_verifies_each_line_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every one, but none twice."""
    kit, (upload_id,) = await _kit(tmp_path, 1)
    seen = _count_signatures(monkeypatch)
    (finding,) = [one async for one in check_store(kit.store, None, Depth(quick=True))]
    lines = kit.store.layout.of(upload_id).log.read_bytes().splitlines()
    assert finding.problem is None
    assert len(seen) == len(set(seen)) == len(lines)


@async_test
async def test_one_signature_says_where_a_small_upload_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line names the first one by its hash; a first line that is not that one is refused."""
    kit, (upload_id,) = await _kit(tmp_path, 1)
    seen = _count_signatures(monkeypatch)
    assert (await kit.store.stat(upload_id)).final
    assert len(seen) == 1
    log = kit.store.layout.of(upload_id).log
    log.write_bytes(log.read_bytes().replace(b'"len":5', b'"len":6', 1))
    with pytest.raises(UploadDamagedError, match="create record does not verify"):
        await kit.open().stat(upload_id)


@async_test
async def test_list_makes_no_key_of_an_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and digests need no key, and making a hybrid one of its seed takes as long as the rest."""
    kit, made = await _kit(tmp_path, 2)
    parsed = list[str]()
    monkeypatch.setattr(Identity, "parse", classmethod(lambda _cls, text: parsed.append(text)))
    seen = await kit.store.look(made)
    assert [one.metadata.filename for one in seen if one.metadata is not None] == ["x", "x"]
    assert all(one.receipt is not None for one in seen)
    assert parsed == []


@pytest.mark.parametrize("durability", ["os", "fsync"])
@async_test
async def test_log_is_read_past_the_cache_only_to_be_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    """A list of many uploads would wait for the disk at each, in a command as in the server."""
    kit, made = await _kit(tmp_path, 1)
    kit.durability = "os" if durability == "os" else "fsync"
    store, forgotten = kit.open(), list[int]()
    monkeypatch.setattr(os, "posix_fadvise", lambda *given: forgotten.append(given[0]))
    await store.look(made)
    assert not forgotten
    await store.stat(made[0])
    assert len(forgotten) == (durability == "fsync")


@async_test
async def test_many_uploads_are_checked_and_compared_in_few_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Handing one over to a thread takes as long as reading it; what was checked right is not read again."""
    kit, made = await _kit(tmp_path, _COUNT)
    catalog, turns, run = MemoryCatalog(None), list[object](), Threads.run

    async def counted(threads: Threads, *work: object) -> object:
        turns.append(work)
        return await run(threads, *work)  # type: ignore[arg-type] # as it is called

    monkeypatch.setattr(Threads, "run", counted)
    kit.open()
    findings = [one async for one in check_store(kit.store, None, Depth(quick=True))]
    assert [one.problem for one in findings] == [None] * _COUNT
    assert 0 < len(turns) < _COUNT / 10
    checked = {one.upload_id: one.stored for one in findings if one.stored is not None}
    for one in checked.values():
        row = UploadRow(one.id, one.drop_id, one.role, one.mode, UploadState.COMPLETE, one.created_at, one.length)
        catalog.rows[one.id] = row
    turns.clear()
    assert await compare(catalog, kit.store, None, checked) == {}
    assert len(turns) <= 2  # for the ids
    assert await compare(catalog, kit.store, None, {}) == {}
    assert len(turns) < _COUNT / 10
    catalog.rows.pop(made[0])
    assert list(await compare(catalog, kit.store, None, checked)) == [made[0]]
