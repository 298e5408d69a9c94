"""The catalog's word to monitoring: when tasks last ended, and how many uploads are in each state."""

from datetime import UTC, datetime, timedelta

from dropoff_tus.model import Run, Tally, Task
from dropoff_tus.states import UploadState
from storage.catalog import open_catalog
from tests.integration.catalog.harness import allow, make_dropoff, make_upload
from tests.support.aio import async_test

_NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@async_test
async def test_last_end_of_each_task_is_kept_and_a_bad_one_leaves_the_last_good_one(catalog_url: str) -> None:
    """A backup that fails every night must not look fresh."""
    async with open_catalog(catalog_url) as catalog, open_catalog(catalog_url) as other:
        assert await catalog.runs() == []
        await catalog.note_run(Task.CHECK, _NOW, 2)
        await other.note_run(Task.BACKUP, _NOW, 0)
        later = _NOW + timedelta(days=1)
        await catalog.note_run(Task.BACKUP, later, 3)
        assert await other.runs() == [Run(Task.BACKUP, later, _NOW, 3), Run(Task.CHECK, _NOW, None, 2)]


@async_test
async def test_tally_counts_by_state_and_tells_since_when_the_oldest_is_looked_after(catalog_url: str) -> None:
    """Of the states that the server itself has to end."""
    async with open_catalog(catalog_url) as catalog:
        drop = make_dropoff()
        await catalog.add_dropoff(drop)
        rows = [await catalog.add_upload(make_upload(drop), allow) for _ in range(5)]
        for age, row in enumerate(rows[:2], 1):
            await catalog.set_state(row.id, UploadState.CHECKING, _NOW - timedelta(hours=age))
        await catalog.complete_upload(rows[2].id, 1, _NOW)
        await catalog.set_state(rows[2].id, UploadState.WITHDRAWN, _NOW)
        await catalog.set_state(rows[3].id, UploadState.EXPIRED, _NOW)
        assert await catalog.tally() == [
            Tally(UploadState.CHECKING, 2, _NOW - timedelta(hours=2)),
            Tally(UploadState.EXPIRED, 1),
            Tally(UploadState.WITHDRAWN, 1, _NOW),
            Tally(UploadState.OPEN, 1),
        ]
