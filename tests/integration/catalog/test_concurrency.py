"""Many callers at once, callers that fail and callers that go away, on every database."""

import asyncio
from dataclasses import replace

import pytest

from dropoff_tus.errors import CatalogUnavailableError, DropoffFullError, PartInUseError
from dropoff_tus.model import Dropoff, Role, Usage
from dropoff_tus.states import UploadState
from storage.catalog import open_catalog
from tests.integration.catalog.harness import NOW, add_complete, allow, make_dropoff, make_upload, refuse, summed_usage
from tests.support.aio import async_test


def _within_limits(dropoff: Dropoff, usage: Usage) -> None:
    if usage.uploads >= dropoff.terms.max_uploads:
        raise DropoffFullError("full")


@async_test
async def test_uploads_added_at_once_against_a_limit_are_exactly_the_limit(catalog_url: str) -> None:
    """Decisions never rest on a usage that another decision has changed."""
    dropoff = make_dropoff(max_uploads=100)
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        attempts = [catalog.add_upload(make_upload(dropoff, 10), _within_limits) for _ in range(200)]
        results = await asyncio.gather(*attempts, return_exceptions=True)
        refused = [result for result in results if isinstance(result, DropoffFullError)]
        assert len(refused) == 100
        assert await catalog.usage(dropoff.id) == Usage(100, 1000)
        assert len(await catalog.uploads()) == 100


@async_test
async def test_finals_racing_for_a_part_leave_one_winner(catalog_url: str) -> None:
    """A part is claimed once, however many ask at the same time."""
    dropoff = make_dropoff()
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        part = await add_complete(catalog, dropoff, 10, Role.PARTIAL)
        attempts = [
            catalog.add_upload(make_upload(dropoff, role=Role.FINAL), allow, parts=[part.id]) for _ in range(20)
        ]
        results = await asyncio.gather(*attempts, return_exceptions=True)
        assert sum(isinstance(result, PartInUseError) for result in results) == 19
        assert await catalog.usage(dropoff.id) == Usage(1, 10, 1)


@async_test
async def test_two_processes_adding_at_once_against_a_limit_fill_it_exactly(catalog_url: str) -> None:
    """The rows that one decides on cannot be changed by the other before it is committed."""
    dropoff = make_dropoff(max_uploads=30)
    async with open_catalog(catalog_url) as one, open_catalog(catalog_url) as other:
        await one.add_dropoff(dropoff)
        attempts = [
            each.add_upload(make_upload(dropoff, 10), _within_limits) for _ in range(30) for each in (one, other)
        ]
        results = await asyncio.gather(*attempts, return_exceptions=True)
        assert sum(isinstance(result, DropoffFullError) for result in results) == 30
        assert await one.usage(dropoff.id) == await summed_usage(other, dropoff.id) == Usage(30, 300)


@async_test
async def test_two_processes_adding_the_same_upload_at_once_add_it_once(catalog_url: str) -> None:
    """The second one finds the row of the first, and counts nothing."""
    dropoff = make_dropoff()
    async with open_catalog(catalog_url) as one, open_catalog(catalog_url) as other:
        await one.add_dropoff(dropoff)
        for _ in range(10):
            row = make_upload(dropoff, 10)
            assert await asyncio.gather(*(each.add_upload(row, allow) for each in (one, other) * 2)) == [row] * 4
        assert await one.usage(dropoff.id) == Usage(10, 100)


@async_test
async def test_parts_ended_while_they_are_claimed_are_counted_once(catalog_url: str) -> None:
    """Completing, claiming and ending parts by two processes: the first one wins, and nobody waits in a circle."""
    dropoff = make_dropoff()
    async with open_catalog(catalog_url) as one, open_catalog(catalog_url) as other:
        await one.add_dropoff(dropoff)
        for _ in range(5):
            parts = [await one.add_upload(make_upload(dropoff, 10, Role.PARTIAL), allow) for _ in range(3)]
            await asyncio.gather(*(one.complete_upload(part.id, 10, NOW) for part in parts))
            final = make_upload(dropoff, role=Role.FINAL)
            await asyncio.gather(
                one.add_upload(final, allow, parts=[part.id for part in parts]),
                *(other.set_state(part.id, UploadState.TERMINATED, NOW) for part in reversed(parts)),
                one.set_state(final.id, UploadState.EXPIRED, NOW),
                other.drop_upload(final.id),
                return_exceptions=True,
            )
            assert await one.usage(dropoff.id) == await summed_usage(other, dropoff.id)


@async_test
async def test_finishes_racing_with_ends_count_each_upload_once(catalog_url: str) -> None:
    """Completing, ending and dropping the same uploads at once leave counters that match the rows."""
    dropoff = make_dropoff()
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        rows = [await catalog.add_upload(make_upload(dropoff, 10), allow) for _ in range(30)]
        work = [catalog.complete_upload(row.id, 9, NOW) for row in rows]
        work += [catalog.set_state(row.id, UploadState.EXPIRED, NOW) for row in rows]
        work += [catalog.complete_upload(row.id, 9, NOW) for row in rows]
        await asyncio.gather(*work, *(catalog.drop_upload(row.id) for row in rows[::3]))
        assert await catalog.usage(dropoff.id) == await summed_usage(catalog, dropoff.id)


@async_test
async def test_requests_that_fail_in_a_group_harm_no_other(catalog_url: str) -> None:
    """Refusals, bugs and broken constraints among many requests undo only themselves."""
    dropoff = make_dropoff()

    def broken(_dropoff: Dropoff, _usage: Usage) -> None:
        raise ZeroDivisionError

    def stop(_dropoff: Dropoff, _usage: Usage) -> None:
        raise StopIteration

    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        good = [make_upload(dropoff, 10) for _ in range(40)]
        attempts = []
        for number, row in enumerate(good):
            attempts.append(catalog.add_upload(row, allow))
            decide = (refuse, broken, stop, allow)[number % 4]
            # The last kind passes its decision and breaks a constraint of the table.
            bad = make_upload(dropoff, -1 if decide is allow else 5)
            attempts.append(catalog.add_upload(bad, decide))
        results = await asyncio.gather(*attempts, return_exceptions=True)
        assert results[::2] == good
        assert all(isinstance(result, Exception) for result in results[1::2])
        assert {type(result) for result in results[1:7:2]} == {DropoffFullError, ZeroDivisionError, RuntimeError}
        assert await catalog.usage(dropoff.id) == Usage(40, 400)


@async_test
async def test_callers_cancelled_while_waiting_leave_a_working_catalog(catalog_url: str) -> None:
    """A caller that goes away gets no answer, and everyone else does."""
    dropoff = make_dropoff()
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        tasks = [asyncio.ensure_future(catalog.add_upload(make_upload(dropoff, 1), allow)) for _ in range(60)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])
        assert not any(isinstance(result, BaseException) for result in results[1::2])
        usage = await catalog.usage(dropoff.id)
        assert usage == await summed_usage(catalog, dropoff.id)
        assert usage.uploads >= 30


@async_test
async def test_requests_queued_when_the_catalog_closes_are_answered(catalog_url: str) -> None:
    """Closing finishes what was asked, then refuses."""
    dropoff = make_dropoff()
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        tasks = [asyncio.ensure_future(catalog.add_upload(make_upload(dropoff, 1), allow)) for _ in range(50)]
        await asyncio.sleep(0)
    assert len(await asyncio.gather(*tasks)) == 50
    with pytest.raises(CatalogUnavailableError, match="closed"):
        await catalog.dropoffs()
    async with open_catalog(catalog_url) as catalog:
        assert await catalog.usage(dropoff.id) == Usage(50, 50)


@async_test
async def test_changes_by_one_opening_are_seen_by_another(catalog_url: str) -> None:
    """The command line beside the server: neither holds an old view of the database."""
    dropoff = make_dropoff()
    async with open_catalog(catalog_url) as server, open_catalog(catalog_url) as cli:
        version = await server.version()
        await cli.add_dropoff(dropoff)
        assert await server.version() > version
        row = await server.add_upload(make_upload(dropoff, 5), allow)
        assert await cli.upload(row.id) == row
        await cli.set_closed(dropoff.id, closed=True)
        assert await server.dropoff(dropoff.id) == replace(dropoff, closed=True)


@async_test
async def test_two_openings_writing_at_once_both_get_through(catalog_url: str) -> None:
    """A busy server does not starve the command line."""
    busy, quiet = make_dropoff(), make_dropoff()
    async with open_catalog(catalog_url) as cli:
        async with open_catalog(catalog_url) as server:
            await server.add_dropoff(busy)

            async def keep_busy() -> None:
                while True:
                    await server.add_upload(make_upload(busy, 1), allow)

            tasks = [asyncio.ensure_future(keep_busy()) for _ in range(16)]
            try:
                await cli.add_dropoff(quiet)
                for _ in range(10):
                    await cli.add_upload(make_upload(quiet, 1), allow)
            finally:
                for task in tasks:
                    task.cancel()
                ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(one, asyncio.CancelledError) for one in ended)
        # Cancelled ones may still be added: a database goes on with what it was sent, also when the
        # server has closed. A wrong count never agrees.
        for dropoff in (quiet, busy):
            async with asyncio.timeout(20):
                while await cli.usage(dropoff.id) != await summed_usage(cli, dropoff.id):  # noqa: ASYNC110 - a database has no event
                    await asyncio.sleep(0.05)
