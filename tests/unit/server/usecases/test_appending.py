"""PATCH and HEAD: refusals before the lease and under it, deferred lengths and their reservations."""

import asyncio
from dataclasses import replace

import pytest

from dropoff_tus.errors import (
    BodyCutError,
    BodyTimeoutError,
    LengthFixedError,
    MaxSizeExceededError,
    MismatchedOffsetError,
    ModifyFinalError,
    QuotaError,
    UploadGoneError,
    UploadInterruptedError,
    UploadNotFoundError,
    UploadSizeExceededError,
)
from dropoff_tus.ids import upload_id
from dropoff_tus.model import Role
from dropoff_tus.policy import STEP_BYTES
from dropoff_tus.states import UploadState
from tests.support.aio import async_test
from tests.support.memory_body import MemoryBody
from tests.unit.server.usecases.world import SETTINGS, World, token_of


@async_test
async def test_patches_in_the_middle_ask_no_catalog() -> None:
    """The catalog is asked only at creation and at the end."""
    world = World()
    token = token_of(await world.create(6))
    asked = world.catalog.asked
    await world.patch(token, 0, b"01")
    await world.patch(token, 2, b"23")
    assert world.catalog.asked == asked
    assert (await world.patch(token, 4, b"45")).receipt is not None
    assert world.catalog.asked > asked
    assert world.store.content(upload_id(token)) == b"012345"


@async_test
async def test_patch_slides_the_expiry() -> None:
    """It counts from the last commit."""
    world = World()
    token = token_of(await world.create(6))
    world.clock.advance(100)
    answer = await world.patch(token, 0, b"01")
    assert answer.expires_at is not None
    assert (answer.expires_at - world.clock.now()).total_seconds() == SETTINGS.expire_after_seconds
    world.clock.advance(SETTINGS.expire_after_seconds)
    with pytest.raises(UploadGoneError):
        await world.patch(token, 2, b"23")
    with pytest.raises(UploadGoneError):
        await world.head(token)


@async_test
async def test_patch_of_unknown_or_foreign_upload_is_not_found() -> None:
    """Another drop-off's upload is as if it were not there; so is what is no token."""
    world = World()
    token = token_of(await world.create(6))
    for drop, asked in (("other", token), ("", "0" * 32), ("", "no token")):
        with pytest.raises(UploadNotFoundError):
            await world.patch(asked, 0, b"01", drop=drop)


@pytest.mark.parametrize("offset", [0, 3])
@async_test
async def test_patch_at_another_offset_writes_nothing(offset: int) -> None:
    """Behind or ahead, 409."""
    world = World()
    token = token_of(await world.create(6, b"01"))
    with pytest.raises(MismatchedOffsetError):
        await world.patch(token, offset, b"xyz"[: 6 - offset])
    assert (await world.head(token)).offset == 2


@async_test
async def test_patch_past_the_end_is_refused_or_cut_at_it() -> None:
    """By Content-Length nothing is written; a chunked body is kept up to the end, and then it is complete."""
    world = World()
    token = token_of(await world.create(3))
    with pytest.raises(UploadSizeExceededError):
        await world.patch(token, 0, b"0123")
    assert (await world.head(token)).offset == 0
    with pytest.raises(UploadSizeExceededError):
        await world.patch(token, 0, MemoryBody(b"0123"))
    assert world.state(token) is UploadState.COMPLETE
    assert (await world.head(token)).offset == 3


@async_test
async def test_patch_on_complete_upload_at_its_end_is_answered_as_before() -> None:
    """A lost answer is repeated, receipt included, and nothing is finished twice."""
    world = World()
    created = await world.create(3, b"012")
    token = token_of(created)
    answer = await world.patch(token, 3, b"more")
    assert (answer.offset, answer.receipt) == (3, created.receipt)
    with pytest.raises(MismatchedOffsetError):
        await world.patch(token, 0, b"012")
    assert world.store.kept[created.upload_id].times_completed == 1


@async_test
async def test_interrupted_patch_keeps_what_came_and_the_newcomer_goes_on() -> None:
    """The first gets 409, the second goes on from the offset that HEAD showed."""
    world = World()
    token = token_of(await world.create(6))
    body = MemoryBody(b"012", ended=False)
    first = asyncio.ensure_future(world.patch(token, 0, body))
    await body.until_taken(3)
    assert (await world.head(token)).offset == 3
    assert (await world.patch(token, 3, b"345")).receipt is not None
    with pytest.raises(UploadInterruptedError):
        await first


@pytest.mark.parametrize("cut", [True, False])
@async_test
async def test_patch_that_is_cut_or_stands_still_keeps_what_came(cut: bool) -> None:
    """HEAD tells, and the next PATCH goes on from there."""
    world = World(settings=replace(SETTINGS, body_idle_timeout_seconds=0.05))
    token = token_of(await world.create(6))
    body = MemoryBody(b"012", ended=False)
    if cut:
        body.cut()
    with pytest.raises(BodyCutError if cut else BodyTimeoutError):
        await world.patch(token, 0, body)
    assert (await world.head(token)).offset == 3
    assert (await world.patch(token, 3, b"345")).offset == 6


@async_test
async def test_body_that_is_cut_after_its_last_byte_is_finished_all_the_same() -> None:
    """Every byte is here: the rest is the server's business."""
    world = World()
    token = token_of(await world.create(3))
    body = MemoryBody(b"012", ended=False)
    body.cut()
    with pytest.raises(BodyCutError):
        await world.patch(token, 0, body)
    await asyncio.sleep(0.05)
    assert world.state(token) is UploadState.COMPLETE


# ---- deferred lengths -------------------------------------------------------------------------------------------


@async_test
async def test_deferred_length_reserves_ahead_and_settles_when_it_is_declared() -> None:
    """A step ahead of what came, then exactly the length, then nothing."""
    world = World()
    token = token_of(await world.create(None))
    await world.patch(token, 0, b"0123")
    assert await world.reserved_bytes() == 4 + STEP_BYTES
    await world.patch(token, 4, b"45", declare=8)
    assert await world.reserved_bytes() == 8
    assert (await world.patch(token, 6, b"67")).receipt is not None
    assert await world.reserved_bytes() == 0


@async_test
async def test_deferred_length_declared_by_an_empty_patch_completes() -> None:
    """Some clients end like this."""
    world = World()
    token = token_of(await world.create(None, b"0123"))
    assert (await world.patch(token, 4, declare=4)).receipt is not None
    assert world.state(token) is UploadState.COMPLETE


@async_test
async def test_deferred_length_once_declared_is_fixed() -> None:
    """Neither another length nor one below what is here."""
    world = World()
    token = token_of(await world.create(None, b"0123"))
    with pytest.raises(LengthFixedError):
        await world.patch(token, 4, declare=3)
    await world.patch(token, 4, declare=6)
    with pytest.raises(LengthFixedError):
        await world.patch(token, 4, declare=7)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("limit", "error"),
    [("max_total_bytes", QuotaError), ("max_upload_bytes", MaxSizeExceededError)],
    ids=["total", "upload"],
)
@async_test
async def test_deferred_length_gets_no_byte_beyond_the_limit(limit: str, error: type[Exception], chunked: bool) -> None:
    """Neither by many small bodies nor by a large one; the bytes that fit are kept."""
    world = World()
    world.change_drop(**{limit: 5})
    token = token_of(await world.create(None, b"012"))
    with pytest.raises(error):
        await world.patch(token, 3, MemoryBody(b"345") if chunked else b"345")
    offset = (await world.head(token)).offset
    assert offset == (5 if chunked else 3)
    with pytest.raises(error):
        await world.patch(token, offset, declare=6)
    assert (await world.patch(token, offset, declare=offset)).receipt is not None


@async_test
async def test_deferred_length_declared_beside_a_running_patch_takes_no_reservation_away() -> None:
    """A PATCH that cannot win settles nothing: the bytes of the running one stay reserved."""
    world = World(max_total_bytes=100)
    token = token_of(await world.create(None))
    body = MemoryBody(b"0" * 50, ended=False)
    running = asyncio.ensure_future(world.patch(token, 0, body))
    await body.until_taken(50)
    with pytest.raises(MismatchedOffsetError):
        await world.patch(token, 0, declare=1)
    assert await world.reserved_bytes() == 100
    body.end()
    assert (await running).offset == 50
    assert (await world.head(token)).length is None


@async_test
async def test_patch_on_a_concatenation_is_refused_at_any_offset() -> None:
    """Its bytes are its parts'."""
    world = World()
    parts = [await world.part(b"01")]
    token = token_of(await world.create(None, role=Role.FINAL, parts=parts))
    for offset in (0, 2):
        with pytest.raises(ModifyFinalError):
            await world.patch(token, offset, b"")
