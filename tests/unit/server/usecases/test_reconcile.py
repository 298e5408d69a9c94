"""After a crash: each point between store and catalog, and what the next process makes of it."""

import asyncio
import hashlib
from dataclasses import replace
from datetime import timedelta

import pytest

from dropoff_tus.checksum import ExpectedDigest
from dropoff_tus.errors import CatalogUnavailableError, KeyMissingError, StorageFullError, UploadGoneError
from dropoff_tus.ids import upload_id
from dropoff_tus.model import Mode, Role
from dropoff_tus.states import UploadState
from server.usecases.ending import lost_before
from tests.support.aio import async_test
from tests.unit.server.usecases.world import World, token_of, with_digest

CONTENT = b"01234"


async def _whole_but_unfinished(world: World, metadata: object = None) -> str:
    """Put every byte there, and die before finishing."""
    token = token_of(await world.create(5, b"012", metadata=metadata))  # type: ignore[arg-type]
    await world.restart()
    async with world.store.lease(upload_id(token)) as lease:
        lease._kept.data += b"34"  # noqa: SLF001 - what a killed process had committed
    return token


@async_test
async def test_row_without_an_upload_is_dropped() -> None:
    """Died between the catalog's row and the store's files: nothing was acknowledged."""
    world = World()
    token = token_of(await world.create(5))
    world.store.kept.clear()
    await world.restart()
    report = await world.uploads.reconciler.reconcile()
    assert (report.dropped, world.row(token)) == (1, None)
    assert await world.reserved_bytes() == 0


@async_test
async def test_open_upload_is_left_alone() -> None:
    """It goes on where it was."""
    world = World()
    token = token_of(await world.create(5, b"012"))
    await world.restart()
    report = await world.uploads.reconciler.reconcile()
    assert (report.finished, report.dropped, report.ended, report.problems) == (0, 0, 0, [])
    assert (await world.patch(token, 3, b"34")).receipt is not None


@pytest.mark.parametrize("mode", list(Mode))
@async_test
async def test_whole_upload_without_final_record_is_finished(mode: Mode) -> None:
    """Died after the last commit."""
    world = World(mode=mode)
    token = await _whole_but_unfinished(world)
    assert (await world.uploads.reconciler.reconcile()).finished == 1
    kept = world.store.kept[upload_id(token)]
    assert (world.state(token), kept.times_completed) == (UploadState.COMPLETE, 1)
    assert kept.receipt == {"sha256": hashlib.sha256(CONTENT).digest()}
    assert kept.sealed == (mode is Mode.SEALED)


@pytest.mark.parametrize("mode", list(Mode))
@async_test
async def test_finished_upload_that_the_catalog_does_not_know_of_is_recorded(mode: Mode) -> None:
    """Died between the store's completion and the catalog: a sealed one cannot be read again, and need not be."""
    world = World(mode=mode)
    token = token_of(await world.create(5, CONTENT))
    world.set_state(token, UploadState.OPEN)
    await world.restart()
    assert (await world.uploads.reconciler.reconcile()).finished == 1
    assert world.state(token) is UploadState.COMPLETE
    assert world.store.kept[upload_id(token)].times_completed == 1


@async_test
async def test_final_record_without_receipt_is_finished() -> None:
    """Died between the two."""
    world = World()
    token = await _whole_but_unfinished(world)
    async with world.store.lease(upload_id(token)) as lease:
        await lease.write_final(world.clock.now())
    await world.restart()
    assert (await world.uploads.reconciler.reconcile()).finished == 1
    assert world.store.kept[upload_id(token)].receipt is not None


@async_test
async def test_sealed_upload_without_receipt_that_cannot_be_read_is_not_called_complete() -> None:
    """A missing key is not `sealed earlier`: an unchecked upload is no success."""
    world = World(mode=Mode.SEALED)
    token = token_of(await world.create(5, CONTENT))
    world.set_state(token, UploadState.OPEN)
    world.store.kept[upload_id(token)].receipt = None
    await world.restart()
    report = await world.uploads.reconciler.reconcile()
    assert report.problems == [(upload_id(token), KeyMissingError.code)]
    assert world.state(token) is UploadState.OPEN
    await world.uploads.finisher.stop()


@async_test
async def test_mismatch_found_after_a_crash_is_rejected() -> None:
    """The operator sees it, and the client learns that it is gone."""
    world = World()
    wrong = with_digest(ExpectedDigest("sha256", hashlib.sha256(b"other").digest()))
    token = await _whole_but_unfinished(world, wrong)
    await world.uploads.reconciler.reconcile()
    assert world.state(token) is UploadState.REJECTED
    with pytest.raises(UploadGoneError):
        await world.patch(token, 5)


@pytest.mark.parametrize("state", [UploadState.REJECTED, UploadState.TERMINATED, UploadState.EXPIRED])
@async_test
async def test_end_that_the_catalog_does_not_know_of_is_recorded(state: UploadState) -> None:
    """Died between the end record and the catalog, or before the last key was gone."""
    world = World()
    token = token_of(await world.create(5, b"012"))
    async with world.store.lease(upload_id(token)) as lease:
        await lease.end(state, "a test", world.clock.now())
    await world.restart()
    assert (await world.uploads.reconciler.reconcile()).ended == 1
    assert world.state(token) is state
    assert await world.reserved_bytes() == 0


@async_test
async def test_upload_that_another_server_is_creating_is_left_to_it() -> None:
    """The row comes before the files: a young upload may have no files yet, and is dropped once it is old."""
    world = World()
    made = token_of(await world.create(5))
    kept = world.store.kept.pop(upload_id(made))
    began, other = world.clock.now(), world.other_process()
    assert (await other.reconciler.reconcile(lost_before(began))).dropped == 0
    world.clock.advance(1)
    assert await other.ender.end_open(world.drop.id) == 1
    world.store.kept[upload_id(made)] = kept
    assert (await world.patch(made, 0, b"01234")).offset == 5
    lost = token_of(await world.create(5))
    del world.store.kept[upload_id(lost)]
    world.clock.advance(61)
    assert (await other.reconciler.reconcile(lost_before(world.clock.now()))).dropped == 1


@async_test
async def test_final_without_its_files_is_dropped_and_its_parts_are_free() -> None:
    """Died between claiming and creating: the client's repetition makes it."""
    world = World()
    part = await world.part(b"01")
    final = token_of(await world.create(None, role=Role.FINAL, parts=[part]))
    world.set_state(final, UploadState.OPEN)
    del world.store.kept[upload_id(final)]
    await world.restart()
    assert (await world.uploads.reconciler.reconcile()).dropped == 1
    assert token_of(await world.create(None, role=Role.FINAL, parts=[part])) == final


@async_test
async def test_final_without_final_record_is_finished() -> None:
    """Died between its files and its end."""
    world = World()
    part = await world.part(b"01")
    final = token_of(await world.create(None, role=Role.FINAL, parts=[part]))
    world.set_state(final, UploadState.OPEN)
    kept = world.store.kept[upload_id(final)]
    kept.final, kept.receipt = False, None
    await world.restart()
    assert (await world.uploads.reconciler.reconcile()).finished == 1
    assert world.state(final) is UploadState.COMPLETE


@async_test
async def test_partial_without_the_catalog_knowing_is_recorded() -> None:
    """It can be claimed afterwards."""
    world = World()
    part = await world.part(b"01")
    world.set_state(part, UploadState.OPEN)
    await world.restart()
    await world.uploads.reconciler.reconcile()
    await world.create(None, role=Role.FINAL, parts=[part])


@async_test
async def test_one_bad_upload_keeps_no_other_from_being_finished() -> None:
    """It is named in the report and stays as it is."""
    world = World()
    bad = await _whole_but_unfinished(world)
    good = await _whole_but_unfinished(world)
    world.store.kept[upload_id(bad)].damaged = True
    report = await world.uploads.reconciler.reconcile()
    assert report.problems == [(upload_id(bad), "ERR_UPLOAD_DAMAGED")]
    assert (world.state(bad), world.state(good)) == (UploadState.OPEN, UploadState.COMPLETE)


@async_test
async def test_disk_that_is_full_at_the_start_is_tried_again() -> None:
    """The start goes on, and so does the finishing."""
    world = World()
    token = await _whole_but_unfinished(world)
    world.store.refuse_completion = StorageFullError("full")
    assert (await world.uploads.reconciler.reconcile()).problems == [(upload_id(token), StorageFullError.code)]
    world.store.refuse_completion = None
    for _ in range(100):
        if world.state(token) is UploadState.COMPLETE:
            break
        await asyncio.sleep(0.005)
    assert world.state(token) is UploadState.COMPLETE


@async_test
async def test_start_reads_back_no_more_than_its_budget() -> None:
    """The rest is finished in the background, so that the first request need not wait for it."""
    world = World(read_back_bytes=7)
    first = await _whole_but_unfinished(world)
    world.clock.advance(1)
    second = await _whole_but_unfinished(world)
    report = await world.uploads.reconciler.reconcile()
    assert (report.finished, report.later) == (1, 1)
    assert world.state(first) is UploadState.COMPLETE
    for _ in range(100):
        if world.state(second) is UploadState.COMPLETE:
            break
        await asyncio.sleep(0.005)
    assert world.state(second) is UploadState.COMPLETE


@async_test
async def test_reconcile_with_the_catalog_away_says_so() -> None:
    """There is nothing to go by."""
    world = World()
    world.catalog.down = True
    with pytest.raises(CatalogUnavailableError):
        await world.uploads.reconciler.reconcile()


@async_test
async def test_reconcile_again_changes_nothing() -> None:
    """It may be killed at any point, and starts over."""
    world = World()
    tokens = [await _whole_but_unfinished(world), token_of(await world.create(5, b"01"))]
    await world.uploads.reconciler.reconcile()
    before = {token: replace(row) for token in tokens if (row := world.row(token)) is not None}
    world.clock.advance(timedelta(hours=1).total_seconds())
    await world.restart()
    report = await world.uploads.reconciler.reconcile()
    assert (report.finished, report.dropped, report.ended, report.later) == (0, 0, 0, 0)
    assert {token: world.row(token) for token in tokens} == before
