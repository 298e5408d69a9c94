"""The port's uploads and their arithmetic, on every database."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from dropoff_tus.errors import (
    AccessDeniedError,
    DropoffFullError,
    QuotaError,
    UploadDamagedError,
    UploadExistsError,
    UploadGoneError,
    UploadNotFoundError,
)
from dropoff_tus.model import Mode, Role, UploadRow, Usage
from dropoff_tus.states import UploadState
from storage.catalog import open_catalog
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


@async_test
async def test_add_upload_with_every_field_set_comes_back_equal(catalog_url: str) -> None:
    """Nothing of a row is lost or changed on its way through the database."""
    dropoff = make_dropoff()
    row = replace(make_upload(dropoff, 2**62, length=2**62), mode=Mode.SEALED)
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        assert await catalog.add_upload(row, allow) == row
        assert await catalog.upload(row.id) == row


@async_test
async def test_add_upload_to_unknown_dropoff_is_denied_undecided(catalog_url: str) -> None:
    """Without a drop-off there is nothing to decide on."""
    row = make_upload(make_dropoff(), 5)
    watch = Watch()
    async with open_catalog(catalog_url) as catalog:
        with pytest.raises(AccessDeniedError):
            await catalog.add_upload(row, watch)
        assert await catalog.upload(row.id) is None
    assert watch.seen == []


@async_test
async def test_add_upload_refused_leaves_nothing(catalog_url: str) -> None:
    """An exception of `decide` comes out unchanged, and the transaction never was."""
    dropoff = make_dropoff()
    row = make_upload(dropoff, 5)
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        with pytest.raises(DropoffFullError, match="refused by the test"):
            await catalog.add_upload(row, refuse)
        assert await catalog.upload(row.id) is None
        assert await catalog.usage(dropoff.id) == Usage(0, 0)


@async_test
async def test_add_upload_shows_decide_the_usage_before_it(catalog_url: str) -> None:
    """Decisions see complete and reserved bytes of their drop-off, and what is promised on the whole disk."""
    mine, other = make_dropoff(), make_dropoff()
    watch = Watch()
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(mine)
        await catalog.add_dropoff(other)
        await add_complete(catalog, mine, 1)
        await catalog.add_upload(make_upload(mine, 20), allow)
        await catalog.add_upload(make_upload(mine, 300, Role.PARTIAL), allow)
        await catalog.add_upload(make_upload(other, 4000), allow)
        await catalog.add_upload(make_upload(mine, 50000), watch)
        assert watch.seen == [(mine, Usage(uploads=2, bytes=321, attempts=1))]
        assert await catalog.usage(mine.id) == Usage(uploads=3, bytes=50321, attempts=1)
        assert await catalog.usage(other.id) == Usage(uploads=1, bytes=4000)


@async_test
async def test_add_upload_repeated_changes_nothing(catalog_url: str) -> None:
    """A caller that did not get the answer may ask again."""
    dropoff = make_dropoff()
    row = make_upload(dropoff, 5)
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        await catalog.add_upload(row, allow)
        assert await catalog.add_upload(row, refuse) == row
        assert await catalog.usage(dropoff.id) == Usage(1, 5)


@pytest.mark.parametrize("change", ["other dropoff", "other role", "other moment"])
@async_test
async def test_add_upload_with_the_id_of_another_raises(catalog_url: str, change: str) -> None:
    """An id never changes hands."""
    dropoff, other = make_dropoff(), make_dropoff()
    row = make_upload(dropoff, 5)
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        await catalog.add_dropoff(other)
        await catalog.add_upload(row, allow)
        second = {
            "other dropoff": replace(row, drop_id=other.id),
            "other role": replace(row, role=Role.PARTIAL),
            "other moment": replace(row, created_at=row.created_at + timedelta(microseconds=1)),
        }[change]
        with pytest.raises(UploadExistsError):
            await catalog.add_upload(second, allow)
        assert await catalog.usage(dropoff.id) == Usage(1, 5)


@pytest.mark.parametrize("state", [UploadState.COMPLETE, *ENDED])
@async_test
async def test_add_upload_that_does_not_begin_open_raises(catalog_url: str, state: UploadState) -> None:
    """No upload comes into being finished."""
    dropoff = make_dropoff()
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        with pytest.raises(ValueError, match="begins open"):
            await catalog.add_upload(replace(make_upload(dropoff), state=state), allow)


@async_test
async def test_reservations_beyond_64_bits_are_refused_exactly_there(catalog_url: str) -> None:
    """Sums stay whole numbers: a drop-off cannot pass what a column holds, and is in nobody's way."""
    mine, other = make_dropoff(), make_dropoff()
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(mine)
        await catalog.add_dropoff(other)
        row = await catalog.add_upload(make_upload(mine, 2**63 - 2), allow)
        with pytest.raises(QuotaError):
            await catalog.add_upload(make_upload(mine, 2), allow)
        with pytest.raises(QuotaError):
            await catalog.reserve(row.id, 2**63, allow)
        await catalog.add_upload(make_upload(other, 2**63 - 1), allow)
        assert await catalog.usage(mine.id) == Usage(1, 2**63 - 2)


# ---- reserve --------------------------------------------------------------------------------------------------


@async_test
async def test_reserve_raises_to_a_total_and_excludes_its_own(catalog_url: str) -> None:
    """The decision sees what others take; the counters move by the difference."""
    dropoff = make_dropoff()
    watch = Watch()
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        await catalog.add_upload(make_upload(dropoff, 7), allow)
        row = await catalog.add_upload(make_upload(dropoff, 10), allow)
        await catalog.reserve(row.id, 30, watch)
        assert watch.seen == [(dropoff, Usage(uploads=2, bytes=7))]
        assert await catalog.upload(row.id) == replace(row, reserved_bytes=30)
        assert await catalog.usage(dropoff.id) == Usage(2, 37)


@async_test
async def test_reserve_refused_changes_nothing(catalog_url: str) -> None:
    """A refused step leaves the reservation before it."""
    dropoff = make_dropoff()
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        row = await catalog.add_upload(make_upload(dropoff, 10), allow)
        with pytest.raises(DropoffFullError):
            await catalog.reserve(row.id, 30, refuse)
        assert await catalog.upload(row.id) == row
        assert await catalog.usage(dropoff.id) == Usage(1, 10)


@pytest.mark.parametrize("total", [10, 4])
@async_test
async def test_reserve_without_length_never_lowers_and_asks_nobody(catalog_url: str, total: int) -> None:
    """A repeated or late step is harmless."""
    dropoff = make_dropoff()
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        row = await catalog.add_upload(make_upload(dropoff, 10), allow)
        await catalog.reserve(row.id, total, refuse)
        assert await catalog.upload(row.id) == row


@pytest.mark.parametrize("length", [0, 4, 10, 25])
@async_test
async def test_reserve_with_length_settles_up_or_down(catalog_url: str, length: int) -> None:
    """Once the length is known the reservation is exactly that."""
    dropoff = make_dropoff()
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        row = await catalog.add_upload(make_upload(dropoff, 10), allow)
        await catalog.reserve(row.id, length, allow, length=length)
        assert await catalog.upload(row.id) == replace(row, reserved_bytes=length, length=length)
        assert await catalog.usage(dropoff.id) == Usage(1, length)


@async_test
async def test_reserve_of_what_takes_no_bytes_is_told_so(catalog_url: str) -> None:
    """Unknown and ended uploads are refused; one whose bytes are all here is left as it is."""
    dropoff = make_dropoff()
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        with pytest.raises(UploadNotFoundError):
            await catalog.reserve(make_upload(dropoff).id, 5, allow)
        ended = await catalog.add_upload(make_upload(dropoff, 1), allow)
        await catalog.set_state(ended.id, UploadState.EXPIRED, NOW)
        with pytest.raises(UploadGoneError):
            await catalog.reserve(ended.id, 5, allow)
        complete = await add_complete(catalog, dropoff, 3)
        await catalog.reserve(complete.id, 50, refuse)
        assert await catalog.usage(dropoff.id) == Usage(1, 3)


# ---- complete and end -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reserved_bytes", [0, 10, 64])
@async_test
async def test_complete_upload_puts_the_size_in_place_of_the_reservation(catalog_url: str, reserved_bytes: int) -> None:
    """The reservation ends, the bytes that came count, whichever is larger."""
    dropoff = make_dropoff()
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        row = await catalog.add_upload(make_upload(dropoff, reserved_bytes), allow)
        at = NOW + timedelta(hours=1)
        assert await catalog.complete_upload(row.id, 10, at)
        assert await catalog.upload(row.id) == replace(
            row, state=UploadState.COMPLETE, reserved_bytes=0, size_bytes=10, length=10, completed_at=at
        )
        assert await catalog.usage(dropoff.id) == Usage(1, 10)


@async_test
async def test_complete_upload_again_is_false_and_changes_nothing(catalog_url: str) -> None:
    """Finishing is exactly once in effect, however often it is repeated."""
    dropoff = make_dropoff()
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        row = await add_complete(catalog, dropoff, 10)
        before = await catalog.upload(row.id)
        assert not await catalog.complete_upload(row.id, 11, NOW + timedelta(days=1))
        assert await catalog.upload(row.id) == before
        assert await catalog.usage(dropoff.id) == Usage(1, 10)


@async_test
async def test_complete_upload_of_a_row_that_names_another_dropoff_is_refused(catalog_url: str) -> None:
    """The log's is what was signed; the row was changed, and the other's account is not charged."""
    dropoff, other = make_dropoff(), make_dropoff()
    async with open_catalog(catalog_url) as catalog:
        for one in (dropoff, other):
            await catalog.add_dropoff(one)
        row = await catalog.add_upload(make_upload(dropoff, 5), allow)
        with pytest.raises(UploadDamagedError, match=f"upload {row.id} is of another drop-off"):
            await catalog.complete_upload(row.id, 5, NOW, drop_id=other.id)
        assert await catalog.upload(row.id) == row
        assert await catalog.complete_upload(row.id, 5, NOW, drop_id=dropoff.id)


@pytest.mark.parametrize("state", ENDED)
@async_test
async def test_complete_upload_of_an_ended_one_is_false(catalog_url: str, state: UploadState) -> None:
    """There is no way back from an end."""
    dropoff = make_dropoff()
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        row = await catalog.add_upload(make_upload(dropoff, 10), allow)
        assert await catalog.set_state(row.id, state, NOW)
        assert not await catalog.complete_upload(row.id, 10, NOW)
        assert not await catalog.set_state(row.id, UploadState.CHECKING, NOW)
        assert await catalog.usage(dropoff.id) == Usage(0, 0, state in GIVEN_UP)


@pytest.mark.parametrize("state", ENDED)
@pytest.mark.parametrize("complete", [False, True], ids=["open", "complete"])
@pytest.mark.parametrize("role", [Role.REGULAR, Role.PARTIAL])
@async_test
async def test_set_state_to_an_end_gives_everything_back_once(
    catalog_url: str, state: UploadState, complete: bool, role: Role
) -> None:
    """An ended upload takes neither number nor bytes, and ending it again changes nothing."""
    dropoff = make_dropoff()
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        await add_complete(catalog, dropoff, 100)
        row = await catalog.add_upload(make_upload(dropoff, 10, role), allow)
        if complete:
            await catalog.complete_upload(row.id, 10, NOW)
        assert await catalog.set_state(row.id, state, NOW)
        assert await catalog.usage(dropoff.id) == Usage(1, 100, state in GIVEN_UP)
        assert not await catalog.set_state(row.id, state, NOW)
        assert await catalog.usage(dropoff.id) == Usage(1, 100, state in GIVEN_UP)
        found = await catalog.upload(row.id)
    assert found is not None
    assert (found.state, found.reserved_bytes) == (state, 0)


@async_test
async def test_set_state_from_one_end_to_another_gives_nothing_back_twice(catalog_url: str) -> None:
    """An operator may delete what expired."""
    dropoff = make_dropoff()
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        row = await catalog.add_upload(make_upload(dropoff, 10), allow)
        assert await catalog.set_state(row.id, UploadState.EXPIRED, NOW)
        assert await catalog.set_state(row.id, UploadState.DELETED, NOW)
        assert await catalog.usage(dropoff.id) == Usage(0, 0)


@async_test
async def test_set_state_checking_keeps_the_reservation_until_complete(catalog_url: str) -> None:
    """An upload under check is unfinished: it still counts and still holds what it reserved."""
    dropoff = make_dropoff()
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        row = await catalog.add_upload(make_upload(dropoff, 10), allow)
        assert await catalog.set_state(row.id, UploadState.CHECKING, NOW)
        assert await catalog.usage(dropoff.id) == Usage(1, 10)
        assert not await catalog.set_state(row.id, UploadState.CHECKING, NOW)
        assert await catalog.complete_upload(row.id, 10, NOW)
        assert not await catalog.set_state(row.id, UploadState.CHECKING, NOW)
        assert await catalog.usage(dropoff.id) == Usage(1, 10)


@pytest.mark.parametrize("state", [UploadState.OPEN, UploadState.COMPLETE])
@async_test
async def test_set_state_to_what_is_not_its_business_raises(catalog_url: str, state: UploadState) -> None:
    """Opening and completing have their own methods."""
    dropoff = make_dropoff()
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        row = await catalog.add_upload(make_upload(dropoff, 10), allow)
        with pytest.raises(ValueError, match="not for set_state"):
            await catalog.set_state(row.id, state, NOW)


@async_test
async def test_unknown_upload_is_none_or_false(catalog_url: str) -> None:
    """Asking for, ending or forgetting an unknown upload is harmless."""
    unknown = make_upload(make_dropoff()).id
    async with open_catalog(catalog_url) as catalog:
        assert await catalog.upload(unknown) is None
        assert await catalog.parts(unknown) == []
        assert not await catalog.complete_upload(unknown, 1, NOW)
        assert not await catalog.set_state(unknown, UploadState.DELETED, NOW)
        await catalog.drop_upload(unknown)


@pytest.mark.parametrize("stage", ["open", "complete", "ended"])
@async_test
async def test_drop_upload_gives_back_what_is_left_to_give(catalog_url: str, stage: str) -> None:
    """A forgotten upload leaves no trace in the counters, and its id is free."""
    dropoff = make_dropoff()
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        row = await catalog.add_upload(make_upload(dropoff, 10), allow)
        if stage == "complete":
            await catalog.complete_upload(row.id, 12, NOW)
        elif stage == "ended":
            await catalog.set_state(row.id, UploadState.TERMINATED, NOW)
        await catalog.drop_upload(row.id)
        assert await catalog.upload(row.id) is None
        assert await catalog.usage(dropoff.id) == Usage(0, 0)
        assert await catalog.add_upload(row, allow) == row


# ---- lists ----------------------------------------------------------------------------------------------------


_FILTERS: dict[str, tuple[Callable[[UploadRow], bool], dict[str, Any]]] = {
    "all": (lambda _row: True, {}),
    "one state": (lambda row: row.state is UploadState.OPEN, {"states": [UploadState.OPEN]}),
    "two states": (
        lambda row: row.state in {UploadState.COMPLETE, UploadState.EXPIRED},
        {"states": [UploadState.COMPLETE, UploadState.EXPIRED]},
    ),
    "no partials": (lambda row: row.role is not Role.PARTIAL, {"partials": False}),
    "unclaimed": (lambda row: row.role is Role.PARTIAL and row.final_id is None, {"unclaimed": True}),
    "unclaimed and complete": (
        lambda row: row.role is Role.PARTIAL and row.final_id is None and row.state is UploadState.COMPLETE,
        {"unclaimed": True, "states": [UploadState.COMPLETE]},
    ),
}


@async_test
async def test_uploads_filtered_are_those_that_match_oldest_first(catalog_url: str) -> None:
    """Every filter, by itself and with others, gives the same as the test in Python."""
    mine, other = make_dropoff(), make_dropoff()
    async with open_catalog(catalog_url) as catalog:
        for dropoff in (mine, other):
            await catalog.add_dropoff(dropoff)
            await catalog.add_upload(make_upload(dropoff, 1), allow)
            await add_complete(catalog, dropoff, 2)
            ended = await catalog.add_upload(make_upload(dropoff, 3), allow)
            await catalog.set_state(ended.id, UploadState.EXPIRED, NOW)
            part = await add_complete(catalog, dropoff, 4, Role.PARTIAL)
            await add_complete(catalog, dropoff, 5, Role.PARTIAL)
            await catalog.add_upload(make_upload(dropoff, 6, Role.PARTIAL), allow)
            await catalog.add_upload(make_upload(dropoff, role=Role.FINAL), allow, parts=[part.id])
        everything = await catalog.uploads()
        assert len(everything) == 14
        assert everything == sorted(everything, key=lambda row: row.created_at)
        middle = everything[len(everything) // 4].created_at
        for name, drop_id, before in itertools.product(_FILTERS, (None, mine.id), (None, middle)):
            keep, arguments = _FILTERS[name]
            expected = [
                row
                for row in everything
                if keep(row) and drop_id in {None, row.drop_id} and (before is None or row.created_at < before)
            ]
            found = await catalog.uploads(drop_id=drop_id, created_before=before, **arguments)
            assert found == expected, (name, drop_id, before)
