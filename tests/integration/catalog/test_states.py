"""Every transition of an upload, on every database: the catalog goes the ways of `dropoff_tus.states` and no other."""

import itertools

import pytest

from dropoff_tus.model import UploadRow
from dropoff_tus.ports.catalog import Catalog
from dropoff_tus.states import TRANSITIONS, UploadState, may_become
from storage.catalog import open_catalog
from tests.integration.catalog.harness import NOW, allow, make_dropoff, make_upload
from tests.support.aio import async_test
from tests.support.memory_catalog import MemoryCatalog

_BYTES = 7


async def _go(catalog: Catalog, upload_id: str, state: UploadState) -> bool:
    if state is UploadState.COMPLETE:
        return await catalog.complete_upload(upload_id, _BYTES, NOW)
    return await catalog.set_state(upload_id, state, NOW)


def _way_to(state: UploadState) -> list[UploadState]:
    """Return the shortest way from a new upload."""
    ways = [[UploadState.OPEN]]
    while not any(way[-1] is state for way in ways):
        ways = [[*way, new] for way in ways for new in TRANSITIONS[way[-1]]]
    return next(way for way in ways if way[-1] is state)[1:]


async def _walk(catalog: Catalog, old: UploadState, new: UploadState) -> None:
    dropoff = make_dropoff()
    await catalog.add_dropoff(dropoff)
    row = await catalog.add_upload(make_upload(dropoff, _BYTES, length=_BYTES), allow)
    for state in _way_to(old):
        assert await _go(catalog, row.id, state)
    assert await _state(catalog, row) is old
    assert await _go(catalog, row.id, new) == may_become(old, new)
    assert await _state(catalog, row) is (new if may_become(old, new) else old)


async def _state(catalog: Catalog, row: UploadRow) -> UploadState:
    found = await catalog.upload(row.id)
    assert found is not None
    return found.state


_STEPS = [pair for pair in itertools.product(UploadState, UploadState) if pair[1] is not UploadState.OPEN]


@async_test
async def test_catalog_goes_from_each_state_to_those_that_follow_it(catalog_url: str) -> None:
    """A forbidden transition is refused with False, and changes nothing."""
    async with open_catalog(catalog_url) as catalog:
        for old, new in _STEPS:
            await _walk(catalog, old, new)


@async_test
async def test_catalog_in_memory_goes_from_each_state_to_those_that_follow_it() -> None:
    """The one that the use cases are tested with goes the same ways."""
    for old, new in _STEPS:
        await _walk(MemoryCatalog(), old, new)


@async_test
async def test_nothing_becomes_open_again(catalog_url: str) -> None:
    """An upload is open from its creation and never later."""
    async with open_catalog(catalog_url) as catalog:
        with pytest.raises(ValueError, match="not for set_state"):
            await catalog.set_state("0" * 32, UploadState.OPEN, NOW)
