"""The port's claims of partials by finals, on every database."""

from dataclasses import replace

import pytest

from dropoff_tus.errors import DropoffFullError, InvalidConcatError, PartInUseError, PartNotFoundError, UploadGoneError
from dropoff_tus.model import Dropoff, Role, UploadRow, Usage
from dropoff_tus.states import UploadState
from storage.catalog import SqlCatalog, open_catalog
from tests.integration.catalog.harness import (
    ENDED,
    GIVEN_UP,
    NOW,
    Watch,
    add_complete,
    allow,
    make_dropoff,
    make_upload,
    refuse,
)
from tests.support.aio import async_test


async def _with_parts(catalog: SqlCatalog, *sizes: int) -> tuple[Dropoff, list[str]]:
    """Add a drop-off with complete partials of these sizes."""
    dropoff = make_dropoff()
    await catalog.add_dropoff(dropoff)
    return dropoff, [(await add_complete(catalog, dropoff, size, Role.PARTIAL)).id for size in sizes]


async def _states(catalog: SqlCatalog, ids: list[str]) -> list[UploadState]:
    rows = [await catalog.upload(upload_id) for upload_id in ids]
    return [row.state for row in rows if row is not None]


@async_test
async def test_final_claims_parts_and_takes_over_their_bytes(catalog_url: str) -> None:
    """Bytes move and are counted once; they are on disk, so nothing new is promised; the final is one upload."""
    watch = Watch()
    async with open_catalog(catalog_url) as catalog:
        dropoff, parts = await _with_parts(catalog, 100, 20, 3)
        assert await catalog.usage(dropoff.id) == Usage(0, 123, 3)
        final = make_upload(dropoff, role=Role.FINAL)
        stored = await catalog.add_upload(final, watch, parts=parts)
        assert stored == replace(final, length=123)
        assert watch.seen == [(dropoff, Usage(0, 0, 3))]
        assert await catalog.usage(dropoff.id) == Usage(1, 123, 3)
        claimed = await catalog.parts(final.id)
        assert {(part.id, part.final_id) for part in claimed} == {(part, final.id) for part in parts}
        assert await catalog.complete_upload(final.id, 123, NOW)
        assert await catalog.usage(dropoff.id) == Usage(1, 123, 3)


@async_test
async def test_final_whose_row_names_a_reservation_is_not_counted_twice(catalog_url: str) -> None:
    """The parts' bytes are all a final takes, whatever its row says."""
    async with open_catalog(catalog_url) as catalog:
        dropoff, parts = await _with_parts(catalog, 100, 20)
        await catalog.add_upload(make_upload(dropoff, 120, Role.FINAL, length=120), allow, parts=parts)
        assert await catalog.usage(dropoff.id) == Usage(1, 120, 2)


@async_test
async def test_final_refused_leaves_its_parts_free(catalog_url: str) -> None:
    """A refusal claims nothing."""
    async with open_catalog(catalog_url) as catalog:
        dropoff, parts = await _with_parts(catalog, 100, 20)
        with pytest.raises(DropoffFullError):
            await catalog.add_upload(make_upload(dropoff, role=Role.FINAL), refuse, parts=parts)
        assert await catalog.usage(dropoff.id) == Usage(0, 120, 2)
        assert len(await catalog.uploads(unclaimed=True)) == 2


@async_test
async def test_final_repeated_with_the_same_parts_is_returned_undecided(catalog_url: str) -> None:
    """A repeated final POST finds the same upload, also once it is complete."""
    async with open_catalog(catalog_url) as catalog:
        dropoff, parts = await _with_parts(catalog, 100, 20)
        final = await catalog.add_upload(make_upload(dropoff, role=Role.FINAL), allow, parts=parts)
        assert await catalog.add_upload(final, refuse, parts=parts) == final
        await catalog.complete_upload(final.id, 120, NOW)
        assert await catalog.add_upload(final, refuse, parts=parts) == await catalog.upload(final.id)
        assert await catalog.usage(dropoff.id) == Usage(1, 120, 2)


@async_test
async def test_final_repeated_with_other_parts_is_invalid(catalog_url: str) -> None:
    """One id is one list of parts."""
    async with open_catalog(catalog_url) as catalog:
        dropoff, parts = await _with_parts(catalog, 100, 20)
        final = await catalog.add_upload(make_upload(dropoff, role=Role.FINAL), allow, parts=parts[:1])
        with pytest.raises(InvalidConcatError):
            await catalog.add_upload(final, allow, parts=parts)


@async_test
async def test_final_of_claimed_parts_is_in_use(catalog_url: str) -> None:
    """A part serves one final; the second gets none, not even the free ones."""
    async with open_catalog(catalog_url) as catalog:
        dropoff, parts = await _with_parts(catalog, 100, 20)
        await catalog.add_upload(make_upload(dropoff, role=Role.FINAL), allow, parts=parts[:1])
        second = make_upload(dropoff, role=Role.FINAL)
        with pytest.raises(PartInUseError):
            await catalog.add_upload(second, allow, parts=[parts[1], parts[0]])
        assert await catalog.upload(second.id) is None
        assert [row.id for row in await catalog.uploads(unclaimed=True)] == [parts[1]]


@pytest.mark.parametrize("whose", ["nobody", "other dropoff"])
@async_test
async def test_final_of_a_part_not_in_this_dropoff_is_not_found(catalog_url: str, whose: str) -> None:
    """Other drop-offs' uploads do not exist from here."""
    async with open_catalog(catalog_url) as catalog:
        dropoff, parts = await _with_parts(catalog, 100)
        _, foreign = await _with_parts(catalog, 20)
        strange = foreign[0] if whose == "other dropoff" else make_upload(dropoff).id
        with pytest.raises(PartNotFoundError):
            await catalog.add_upload(make_upload(dropoff, role=Role.FINAL), allow, parts=[parts[0], strange])


@pytest.mark.parametrize("case", ["none", "twice", "open", "regular", "final", *(state.value for state in ENDED)])
@async_test
async def test_final_of_what_is_no_complete_partial_is_invalid(catalog_url: str, case: str) -> None:
    """Only finished partials can be joined, each once."""
    async with open_catalog(catalog_url) as catalog:
        dropoff, parts = await _with_parts(catalog, 100, 20)
        if case == "none":
            parts = []
        elif case == "twice":
            parts = [parts[0], parts[0]]
        elif case == "open":
            parts.append((await catalog.add_upload(make_upload(dropoff, 5, Role.PARTIAL), allow)).id)
        elif case == "regular":
            parts.append((await add_complete(catalog, dropoff, 5)).id)
        elif case == "final":
            other = await catalog.add_upload(make_upload(dropoff, role=Role.FINAL), allow, parts=parts[:1])
            await catalog.complete_upload(other.id, 100, NOW)
            parts = [parts[1], other.id]
        else:
            await catalog.set_state(parts[0], UploadState(case), NOW)
        final = make_upload(dropoff, role=Role.FINAL)
        with pytest.raises(UploadGoneError if case in ENDED else InvalidConcatError):
            await catalog.add_upload(final, allow, parts=parts)
        assert await catalog.upload(final.id) is None


@async_test
async def test_parts_given_to_what_is_no_final_raise(catalog_url: str) -> None:
    """A part belongs to only one final."""
    async with open_catalog(catalog_url) as catalog:
        dropoff, parts = await _with_parts(catalog, 100)
        with pytest.raises(ValueError, match="only a final"):
            await catalog.add_upload(make_upload(dropoff, 5), allow, parts=parts)


@pytest.mark.parametrize("state", ENDED)
@pytest.mark.parametrize("complete", [False, True], ids=["open", "complete"])
@async_test
async def test_final_ended_takes_its_parts_along(catalog_url: str, state: UploadState, complete: bool) -> None:
    """Parts of an ended final are gone too, and everything is given back once."""
    async with open_catalog(catalog_url) as catalog:
        dropoff, parts = await _with_parts(catalog, 100, 20)
        final = await catalog.add_upload(make_upload(dropoff, role=Role.FINAL), allow, parts=parts)
        if complete:
            await catalog.complete_upload(final.id, 120, NOW)
        assert await catalog.set_state(final.id, state, NOW)
        assert await _states(catalog, parts) == [state, state]
        assert await catalog.usage(dropoff.id) == Usage(0, 0, 3 * (state in GIVEN_UP))
        for part in parts:
            assert not await catalog.set_state(part, state, NOW)
        assert await catalog.usage(dropoff.id) == Usage(0, 0, 3 * (state in GIVEN_UP))


@async_test
async def test_final_under_check_leaves_its_parts_complete(catalog_url: str) -> None:
    """Only an end is shared: a check that goes well has no parts to restore."""
    async with open_catalog(catalog_url) as catalog:
        dropoff, parts = await _with_parts(catalog, 100, 20)
        final = await catalog.add_upload(make_upload(dropoff, role=Role.FINAL), allow, parts=parts)
        assert await catalog.set_state(final.id, UploadState.CHECKING, NOW)
        assert await _states(catalog, parts) == [UploadState.COMPLETE, UploadState.COMPLETE]
        assert await catalog.usage(dropoff.id) == Usage(1, 120, 2)


@async_test
async def test_final_forgotten_frees_its_parts_for_another(catalog_url: str) -> None:
    """If the store could not make the final, its parts are as they were before."""
    async with open_catalog(catalog_url) as catalog:
        dropoff, parts = await _with_parts(catalog, 100, 20)
        before: list[UploadRow] = await catalog.uploads()
        final = await catalog.add_upload(make_upload(dropoff, role=Role.FINAL), allow, parts=parts)
        await catalog.drop_upload(final.id)
        assert await catalog.uploads() == before
        assert await catalog.usage(dropoff.id) == Usage(0, 120, 2)
        await catalog.add_upload(final, allow, parts=parts)
        assert await catalog.usage(dropoff.id) == Usage(1, 120, 2)


@async_test
async def test_final_ended_then_forgotten_gives_nothing_back_twice(catalog_url: str) -> None:
    """Parts that ended with their final take nothing when they lose it."""
    async with open_catalog(catalog_url) as catalog:
        dropoff, parts = await _with_parts(catalog, 100, 20)
        final = await catalog.add_upload(make_upload(dropoff, role=Role.FINAL), allow, parts=parts)
        await catalog.set_state(final.id, UploadState.TERMINATED, NOW)
        await catalog.drop_upload(final.id)
        assert await catalog.usage(dropoff.id) == Usage(0, 0, 2)


@async_test
async def test_part_that_is_taken_back_cannot_be_claimed_and_one_that_is_claimed_not_taken_back(
    catalog_url: str,
) -> None:
    """If a final and an end meet, one is refused; the upload's usage stays until it has ended."""
    dropoff = make_dropoff()
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        parts = [await add_complete(catalog, dropoff, 10, Role.PARTIAL) for _ in range(2)]
        assert await catalog.set_state(parts[0].id, UploadState.WITHDRAWN, NOW)
        assert not await catalog.set_state(parts[0].id, UploadState.WITHDRAWN, NOW)
        with pytest.raises(InvalidConcatError):
            await catalog.add_upload(make_upload(dropoff, role=Role.FINAL), allow, parts=[parts[0].id])
        assert await catalog.usage(dropoff.id) == Usage(0, 20, 2)
        assert await catalog.complete_upload(parts[0].id, 10, NOW)
        await catalog.add_upload(make_upload(dropoff, role=Role.FINAL), allow, parts=[part.id for part in parts])
        for part in parts:
            with pytest.raises(PartInUseError):
                await catalog.set_state(part.id, UploadState.WITHDRAWN, NOW)
        row = await catalog.add_upload(make_upload(dropoff, 5), allow)
        assert not await catalog.set_state(row.id, UploadState.WITHDRAWN, NOW)
        assert await catalog.usage(dropoff.id) == Usage(2, 25, 2)
