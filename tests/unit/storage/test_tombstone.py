"""An ended upload keeps two records, however long its log was, and says the same as before."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from dropoff_tus.model import Role
from dropoff_tus.states import UploadState
from storage.files import durable
from storage.uploads.maintenance.check import check_store
from storage.uploads.shredding import tombstone
from tests.support.aio import async_test
from tests.support.killing import Killer
from tests.support.store_kit import StoreKit

_PIECES = 20


async def _made(kit: StoreKit, *, role: Role = Role.REGULAR, finished: bool = False) -> str:
    length = _PIECES if finished else _PIECES + 1
    _, upload = await kit.create(length, role=role)
    for offset in range(_PIECES):
        await kit.append(upload.id, offset, b"x")
    if finished:
        await kit.finish(upload.id)
    kit.store.layout.of(upload.id).torn_log.write_bytes(b"x" * 100)
    return upload.id


async def _end(kit: StoreKit, upload_id: str) -> None:
    async with kit.store.lease(upload_id) as lease:
        await lease.end(UploadState.TERMINATED, "a test", datetime.now(UTC))


def _records(kit: StoreKit, upload_id: str) -> int:
    return kit.store.layout.of(upload_id).log.read_bytes().count(b"\n")


async def _assert_tombstone(kit: StoreKit, upload_id: str) -> None:
    paths = kit.store.layout.of(upload_id)
    assert _records(kit, upload_id) == 2
    assert sorted(path.name for path in paths.folder.iterdir()) == ["data", "log"]
    stored = await kit.store.stat(upload_id)
    assert (stored.ended, stored.end_reason, stored.offset) == (UploadState.TERMINATED, "a test", _PIECES)
    assert [finding.problem async for finding in check_store(kit.store, [upload_id])] == [None]
    assert not await kit.store.leftovers(upload_id)


@pytest.mark.parametrize("finished", [False, True])
@async_test
async def test_end_leaves_two_records_that_tell_what_was(tmp_path: Path, finished: bool) -> None:
    """State, reason, size and the final record's hash stay the same, in another process too, and again."""
    kit = StoreKit(tmp_path)
    upload_id = await _made(kit, finished=finished)
    final_hash = kit.store.load(upload_id).final_hash
    assert (final_hash is not None) == finished
    for _ in range(2):
        await _end(kit, upload_id)
        await _assert_tombstone(kit, upload_id)
        kit.open()
        await _assert_tombstone(kit, upload_id)
        told = tombstone(kit.store.base, upload_id)
        assert (told["bytes"], told["final"]) == (_PIECES, final_hash)


@async_test
async def test_end_of_a_concatenation_and_of_the_damaged_leaves_two_records(tmp_path: Path) -> None:
    """However an upload is shredded."""
    kit = StoreKit(tmp_path)
    part = await _made(kit, role=Role.PARTIAL, finished=True)
    _, final = await kit.create(None, role=Role.FINAL, parts=[part])
    await kit.finish(final.id)
    await _end(kit, final.id)
    assert (_records(kit, part), _records(kit, final.id)) == (2, 2)
    cut = await _made(kit)
    kit.store.layout.of(cut).data.write_bytes(b"")
    kit.open()
    await kit.store.shred_damaged(cut, UploadState.DELETED, "a test", datetime.now(UTC))
    assert _records(kit, cut) == 2


@async_test
async def test_end_killed_at_any_step_is_an_end_and_is_gone_on_with(tmp_path: Path, killer: Killer) -> None:
    """From the first durable record on it never opens again, and the same again leaves two records."""
    step = 0
    while True:
        step += 1
        kit = StoreKit(tmp_path / str(step))
        upload_id = await _made(kit)
        with killer.at(step):
            await _end(kit, upload_id)
        if not killer.died:
            break
        kit.open()
        ended = (await kit.store.stat(upload_id)).ended
        assert ended is not None or kit.store.layout.of(upload_id).root_envelope.exists()
        await _end(kit, upload_id)
        await _assert_tombstone(kit, upload_id)
    assert step > 10


@async_test
async def test_log_that_cannot_be_shortened_now_is_an_end_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk an end gives room, and does not need some; the next one, as of a sweep, shortens the log."""
    kit = StoreKit(tmp_path)
    upload_id = await _made(kit)

    class Full(durable.Calls):
        """A disk on which no file can be made."""

        def create(self, path: Path, folder: int | None) -> int:
            del folder
            raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(durable, "calls", Full())
    await _end(kit, upload_id)
    monkeypatch.setattr(durable, "calls", durable.Calls())
    assert (await kit.store.stat(upload_id)).ended is UploadState.TERMINATED
    assert await kit.store.leftovers(upload_id)
    await _end(kit, upload_id)
    await _assert_tombstone(kit, upload_id)
