"""Concatenation: every row of the table, and the same parts again."""

import asyncio
import hashlib
import uuid
from dataclasses import replace

import pytest

from dropoff_tus.checksum import ExpectedDigest
from dropoff_tus.errors import (
    CatalogUnavailableError,
    DigestMismatchError,
    DropoffFullError,
    InvalidConcatError,
    MaxSizeExceededError,
    PartInUseError,
    PartNotFoundError,
    QuotaError,
    StorageFailedError,
    TerminateFinishedError,
    UploadGoneError,
)
from dropoff_tus.ids import UploadToken, upload_id
from dropoff_tus.messages import Create
from dropoff_tus.model import Grant, Metadata, Mode, Role
from dropoff_tus.states import UploadState
from server.usecases.ports import UploadSettings
from tests.support.aio import async_test
from tests.unit.server.usecases.world import URL, World, token_of, with_digest


async def _final(world: World, *parts: str) -> str:
    return token_of(await world.create(None, role=Role.FINAL, parts=parts))


@pytest.mark.parametrize("mode", list(Mode))
@async_test
async def test_final_is_its_parts_in_order_with_a_receipt(mode: Mode) -> None:
    """Complete at once; one upload counts, with the bytes of its parts."""
    world = World(mode=mode)
    parts = [await world.part(piece) for piece in (b"01", b"", b"234")]
    created = await world.create(None, role=Role.FINAL, parts=parts)
    assert created.receipt == f"{created.location}/receipt"
    assert world.state(token_of(created)) is UploadState.COMPLETE
    assert world.store.content(created.upload_id) == b"01234"
    usage = await world.catalog.usage(world.drop.id)
    assert (usage.uploads, usage.bytes, await world.reserved_bytes()) == (1, 5, 0)
    shown = await world.head(token_of(created))
    assert (shown.offset, shown.length) == (5, 5)
    assert shown.concat == "final;" + " ".join(upload_id(part) for part in parts)
    assert world.store.kept[created.upload_id].sealed == (mode is Mode.SEALED)


@async_test
async def test_same_parts_in_the_same_order_again_are_the_same_final() -> None:
    """With the receipt as before; another order is another final, and refused."""
    world = World()
    parts = [await world.part(b"01"), await world.part(b"23")]
    first = await world.create(None, role=Role.FINAL, parts=parts)
    again = await world.create(None, role=Role.FINAL, parts=parts)
    assert (again.location, again.receipt) == (first.location, first.receipt)
    with pytest.raises(PartInUseError):
        await _final(world, *reversed(parts))
    assert world.store.kept[first.upload_id].times_completed == 1


@async_test
async def test_same_parts_in_another_drop_off_are_no_uploads_of_it() -> None:
    """With another drop-off's code and the parts' tokens nobody learns anything, or gets an address of that one."""
    world = World()
    parts = [await world.part(b"01"), await world.part(b"23")]
    await _final(world, *parts)
    other = replace(world.drop, id=str(uuid.uuid4()))
    world.catalog.drops[other.id] = other
    request = Create(Role.FINAL, None, Metadata(), (), tuple(map(UploadToken, parts)), None)
    with pytest.raises(PartNotFoundError):
        await world.uploads.creator.create(Grant(other), URL, request, None)


@async_test
async def test_same_final_many_times_at_once_is_made_once() -> None:
    """All of them get the one location."""
    world = World()
    parts = [await world.part(b"01"), await world.part(b"23")]
    made = await asyncio.gather(*(_final(world, *parts) for _ in range(8)))
    assert len(set(made)) == 1
    assert world.store.kept[upload_id(made[0])].times_completed == 1


@async_test
async def test_part_in_another_final_is_in_use() -> None:
    """Two finals at once over a common part: one gets it, and the other leaves nothing."""
    world = World()
    common, other = await world.part(b"01"), await world.part(b"23")
    answers = await asyncio.gather(_final(world, common), _final(world, common, other), return_exceptions=True)
    assert [type(answer) for answer in answers].count(str) == 1
    assert [type(answer) for answer in answers].count(PartInUseError) == 1
    assert len([row for row in world.catalog.rows.values() if row.role is Role.FINAL]) == 1


@pytest.mark.parametrize("case", ["unfinished", "regular", "missing", "foreign", "terminated"])
@async_test
async def test_part_that_is_not_fit_is_refused(case: str) -> None:
    """400 for what is no finished partial, 404 for what is not here, 410 for what was; nothing is claimed."""
    world = World(settings=UploadSettings(terminate_finished=True))
    good = await world.part(b"01")
    bad = await world.part(b"23")
    if case == "unfinished":
        bad = token_of(await world.create(5, b"01", role=Role.PARTIAL))
    elif case == "regular":
        bad = token_of(await world.create(2, b"01"))
    elif case == "missing":
        bad = "0" * 31 + "f"
    elif case == "foreign":
        world.change_drop(name="the first")
        kept = world.store.kept[upload_id(bad)]
        object.__setattr__(kept.new, "drop", replace(kept.new.drop, id="another"))
    else:
        await world.terminate(bad)
    error = {"unfinished": InvalidConcatError, "regular": InvalidConcatError, "terminated": UploadGoneError}
    with pytest.raises(error.get(case, PartNotFoundError)):
        await _final(world, good, bad)
    row = world.row(good)
    assert row is not None
    assert row.final_id is None
    assert not [row for row in world.catalog.rows.values() if row.role is Role.FINAL]


@async_test
async def test_sum_above_the_limit_is_refused_and_the_parts_stay_free() -> None:
    """Parts that are each small enough are not a way round the limit of one upload."""
    world = World(max_upload_bytes=3)
    parts = [await world.part(b"01"), await world.part(b"23")]
    with pytest.raises(MaxSizeExceededError):
        await _final(world, *parts)
    await _final(world, parts[0])


@async_test
async def test_final_needs_no_bytes_of_its_own_but_counts_in_number() -> None:
    """The reservation of its parts is enough, even if they use up the quota."""
    world = World(max_total_bytes=4, max_uploads=1)
    parts = [await world.part(b"01"), await world.part(b"23")]
    with pytest.raises(QuotaError):
        await world.part(b"4")
    await _final(world, *parts)
    with pytest.raises(DropoffFullError):
        await world.create(0)


@async_test
async def test_final_is_checked_against_its_digest() -> None:
    """A mismatch rejects it and its parts."""
    world = World()
    parts = [await world.part(b"01"), await world.part(b"23")]
    wrong = with_digest(ExpectedDigest("sha256", hashlib.sha256(b"other").digest()))
    with pytest.raises(DigestMismatchError):
        await world.create(None, role=Role.FINAL, parts=parts, metadata=wrong)
    assert [world.state(part) for part in parts] == [UploadState.REJECTED] * 2
    with pytest.raises(UploadGoneError):
        await world.create(None, role=Role.FINAL, parts=parts, metadata=wrong)


@async_test
async def test_final_too_large_to_read_back_at_once_is_checking() -> None:
    """201 without a receipt, and the background does the rest; asked again it says so."""
    world = World(read_back_bytes=3)
    parts = [await world.part(b"01"), await world.part(b"23")]
    created = await world.create(None, role=Role.FINAL, parts=parts)
    assert created.receipt is None
    for _ in range(100):
        if world.state(token_of(created)) is UploadState.COMPLETE:
            break
        await asyncio.sleep(0.005)
    again = await world.create(None, role=Role.FINAL, parts=parts)
    assert again.receipt == f"{created.location}/receipt"


@async_test
async def test_final_that_the_store_refuses_frees_its_parts() -> None:
    """The same POST later succeeds."""
    world = World()
    parts = [await world.part(b"01")]
    world.store.refuse_creation = StorageFailedError("the disk failed")
    with pytest.raises(StorageFailedError):
        await _final(world, *parts)
    row = world.row(parts[0])
    assert row is not None
    assert row.final_id is None
    world.store.refuse_creation = None
    await _final(world, *parts)


@async_test
async def test_final_that_died_before_its_files_is_made_by_the_same_post() -> None:
    """The row is there, the store has nothing: the client's repetition goes on."""
    world = World()
    parts = [await world.part(b"01")]
    token = await _final(world, *parts)
    world.set_state(token, UploadState.OPEN)
    del world.store.kept[upload_id(token)]
    assert await _final(world, *parts) == token
    assert world.state(token) is UploadState.COMPLETE


@async_test
async def test_catalog_away_before_a_final_claims_nothing() -> None:
    """503, and no file of it."""
    world = World()
    part = await world.part(b"01")
    kept = len(world.store.kept)
    world.catalog.down = True
    with pytest.raises(CatalogUnavailableError):
        await _final(world, part)
    assert len(world.store.kept) == kept


@async_test
async def test_claimed_part_is_not_ended_by_its_client_nor_by_the_operator_nor_by_time() -> None:
    """Its final would be damaged; ending the final ends it."""
    world = World(settings=UploadSettings(terminate_finished=True, expire_after_seconds=10))
    part = await world.part(b"01")
    final = await _final(world, part)
    with pytest.raises(TerminateFinishedError):
        await world.terminate(part)
    with pytest.raises(PartInUseError):
        await world.uploads.ender.delete(upload_id(part))
    world.clock.advance(1000)
    await world.uploads.expirer.expire()
    assert world.state(part) is UploadState.COMPLETE
    assert world.store.content(upload_id(final)) == b"01"
    await world.uploads.ender.delete(upload_id(final))
    assert world.state(part) is UploadState.DELETED
    assert world.store.content(upload_id(part)) == b""
