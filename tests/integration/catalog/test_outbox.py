"""The outbox: events are written with the change they tell of, and one process has a row at a time."""

import asyncio
import json
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest

from dropoff_tus.errors import DropoffFullError
from dropoff_tus.model import Role
from dropoff_tus.outbox import Backlog, EventKind, Sink, SinkName, event_id
from dropoff_tus.states import UploadState
from storage.catalog import open_catalog
from tests.integration.catalog.harness import NOW, add_complete, allow, make_dropoff, make_upload, refuse
from tests.support.aio import async_test

HOOK = SinkName.WEBHOOK
SINKS = {HOOK: Sink(frozenset(EventKind))}
LATER = NOW + timedelta(seconds=3600)
UNTIL = LATER + timedelta(seconds=10)


@async_test
async def test_each_change_writes_its_event_and_a_refused_one_none(catalog_url: str) -> None:
    """Created, then its end; a change that is undone or repeated tells nothing."""
    async with open_catalog(catalog_url, sinks=SINKS) as catalog:
        drop = make_dropoff()
        await catalog.add_dropoff(drop)
        row = await add_complete(catalog, drop, 5)
        assert not await catalog.complete_upload(row.id, 5, NOW)
        other = await catalog.add_upload(make_upload(drop), allow)
        await catalog.set_state(other.id, UploadState.CHECKING, NOW)
        await catalog.set_state(other.id, UploadState.REJECTED, NOW)
        with pytest.raises(DropoffFullError):
            await catalog.add_upload(make_upload(drop), refuse)
        await add_complete(catalog, drop, 5, Role.PARTIAL)
        lost = await catalog.add_upload(make_upload(drop), allow)
        await catalog.drop_upload(lost.id)
        found = {(event.upload_id, event.kind) for event in await catalog.outbox.rows()}
        assert found == {
            (row.id, EventKind.CREATED),
            (row.id, EventKind.COMPLETE),
            (other.id, EventKind.CREATED),
            (other.id, EventKind.REJECTED),
        }
        assert {event.event_id for event in await catalog.outbox.rows()} == {event_id(*pair) for pair in found}


@async_test
async def test_upload_that_is_taken_back_and_complete_again_is_announced_once(catalog_url: str) -> None:
    """A deletion that was killed changed nothing that anybody should hear of."""
    async with open_catalog(catalog_url, sinks=SINKS) as catalog:
        drop = make_dropoff()
        await catalog.add_dropoff(drop)
        row = await add_complete(catalog, drop, 5)
        for sink in SINKS:
            await catalog.outbox.delivered(await catalog.outbox.claim(sink, LATER, UNTIL, 9))
        assert await catalog.set_state(row.id, UploadState.WITHDRAWN, NOW)
        assert await catalog.complete_upload(row.id, 5, NOW)
        assert await catalog.outbox.rows() == []


@async_test
async def test_without_a_sink_nothing_is_written(catalog_url: str) -> None:
    """Nobody would ever take it away."""
    for sinks in ({}, {HOOK: Sink(frozenset({EventKind.EXPIRED}))}):
        async with open_catalog(catalog_url, sinks=sinks) as catalog:
            drop = make_dropoff()
            await catalog.add_dropoff(drop)
            await add_complete(catalog, drop, 5)
            assert await catalog.outbox.rows() == []


@async_test
async def test_claimed_row_is_given_to_nobody_else_until_its_time(catalog_url: str) -> None:
    """Two processes at once share the due events; a dead one leaves its events for later, and they count."""
    async with AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(open_catalog(catalog_url, sinks=SINKS)) for _ in range(2)]
        drop = make_dropoff()
        await first.add_dropoff(drop)
        for _ in range(20):
            await add_complete(first, drop, 1)
        claims = [one.outbox.claim(HOOK, LATER, UNTIL, 7) for one in (first, second) * 4]
        claimed = [row for rows in await asyncio.gather(*claims) for row in rows]
        assert len({row.event_id for row in claimed}) == len(claimed)
        while rows := await first.outbox.claim(HOOK, LATER, UNTIL, 7):
            claimed += rows
        assert len({row.event_id for row in claimed}) == len(claimed) == 40
        assert not await second.outbox.is_due(HOOK, LATER)
        (again,) = await second.outbox.claim(HOOK, UNTIL, UNTIL + timedelta(seconds=10), 1)
        assert again.attempts == 2
        # A slow worker changes nothing any more.
        slow = next(row for row in claimed if row.event_id == again.event_id)
        await first.outbox.delivered([slow])
        assert again.event_id in {row.event_id for row in await first.outbox.rows()}
        await second.outbox.delivered([again])
        assert again.event_id not in {row.event_id for row in await first.outbox.rows()}


@async_test
async def test_failed_row_waits_and_is_dead_after_its_attempts_until_resent(catalog_url: str) -> None:
    """A dead one is due for nobody; the operator begins again with the same id."""
    async with open_catalog(catalog_url, sinks=SINKS) as catalog:
        drop = make_dropoff()
        await catalog.add_dropoff(drop)
        await catalog.add_upload(make_upload(drop), allow)
        outbox, at = catalog.outbox, LATER
        (waiting,) = await outbox.rows()
        for attempt in (1, 2):
            (row,) = await outbox.claim(HOOK, at, at, 9)
            assert row.attempts == attempt
            at += timedelta(seconds=60)
            await outbox.failed([row], "status 500", at, max_attempts=2)
            assert await outbox.claim(HOOK, at - timedelta(seconds=1), at, 9) == []
        assert await outbox.claim(HOOK, at + timedelta(days=99), at, 9) == []
        (dead,) = await outbox.rows(dead_only=True)
        assert (dead.dead, dead.problem, dead.event_id) == (True, "status 500", waiting.event_id)
        assert await outbox.resend(["0" * 32], at) == 0
        assert await outbox.resend(None, at) == 1
        (anew,) = await outbox.claim(HOOK, at, at, 9)
        assert (anew.event_id, anew.attempts) == (waiting.event_id, 1)
        assert await outbox.resend([waiting.event_id], at) == 1
        told = [json.loads(text) for _, text in await catalog.audit_rows(0, 1 << 62, 99)][2:]
    assert [(row["act"], row.get("upload"), row.get("result"), row["count"]) for row in told] == [
        ("event.dead", waiting.upload_id, "webhook upload.created", 2),
        ("event.resend", None, None, 1),
        ("event.resend", None, None, 1),
    ]


@async_test
async def test_sink_of_the_notified_gets_what_their_drop_offs_receive_by_windows(catalog_url: str) -> None:
    """Events of one window are due together, at its end."""
    sinks = {SinkName.MAIL: Sink(frozenset(EventKind), window_seconds=900, notified_only=True)}
    async with open_catalog(catalog_url, sinks=sinks) as catalog:
        told, silent = make_dropoff(notify=("a@example.org",)), make_dropoff()
        for drop in (told, silent):
            await catalog.add_dropoff(drop)
            await add_complete(catalog, drop, 5)
        assert await catalog.dropoff(told.id) == told
        rows = await catalog.outbox.rows()
        assert {row.drop_id for row in rows} == {told.id}
        for row in rows:
            assert row.next_at.timestamp() % 900 == 0
            assert timedelta(0) < row.next_at - row.at <= timedelta(seconds=900)


@async_test
async def test_released_row_is_as_if_it_had_not_been_claimed_and_backlog_tells_what_waits(catalog_url: str) -> None:
    """Due at once, with its attempts as before; dead ones are counted apart; a slow worker changes nothing."""
    async with open_catalog(catalog_url, sinks=SINKS) as catalog:
        outbox, drop = catalog.outbox, make_dropoff()
        assert await outbox.backlog() == []
        await catalog.add_dropoff(drop)
        first, second = [await catalog.add_upload(make_upload(drop), allow) for _ in range(2)]
        assert await outbox.backlog() == [Backlog(HOOK, 2, first.created_at, 0)]
        stale = await outbox.claim(HOOK, LATER, LATER, 2)
        claimed = await outbox.claim(HOOK, LATER, UNTIL, 2)
        await outbox.release(stale, LATER)
        assert not await outbox.is_due(HOOK, LATER)
        await outbox.release(claimed, LATER)
        assert [row.attempts for row in await outbox.claim(HOOK, LATER, UNTIL, 2)] == [2, 2]
        await outbox.failed([row for row in claimed if row.upload_id == first.id], "status 500", UNTIL, max_attempts=1)
        assert await outbox.backlog() == [Backlog(HOOK, 1, second.created_at, 1)]


@async_test
async def test_held_rows_wait_until_they_are_resent(catalog_url: str) -> None:
    """Of a restored catalog nothing is delivered by itself, claimed or not; those that were dead already stay so."""
    async with open_catalog(catalog_url, sinks=SINKS) as catalog:
        outbox, drop = catalog.outbox, make_dropoff()
        await catalog.add_dropoff(drop)
        for _ in range(3):
            await catalog.add_upload(make_upload(drop), allow)
        dead = await outbox.claim(HOOK, LATER, UNTIL, 1)
        await outbox.failed(dead, "status 500", UNTIL, max_attempts=1)
        await outbox.claim(HOOK, LATER, UNTIL, 1)
        assert await outbox.hold("held back") == 2
        assert not await outbox.is_due(HOOK, UNTIL)
        assert sorted(str(row.problem) for row in await outbox.rows(dead_only=True)) == ["held back"] * 2 + [
            "status 500"
        ]
        assert await outbox.hold("held back") == 0
        assert await outbox.resend(None, LATER) == 3
        assert len(await outbox.claim(HOOK, LATER, UNTIL, 9)) == 3


@async_test
async def test_processes_that_claim_at_once_share_what_is_due(catalog_url: str) -> None:
    """Each row is claimed by one of them, and by nobody twice."""
    async with open_catalog(catalog_url, sinks=SINKS) as one, open_catalog(catalog_url, sinks=SINKS) as other:
        drop = make_dropoff()
        await one.add_dropoff(drop)
        for _ in range(4):
            added = [(await one.add_upload(make_upload(drop), allow)).id for _ in range(8)]
            claims = await asyncio.gather(*(each.outbox.claim(HOOK, LATER, UNTIL, 3) for each in (one, other) * 3))
            claimed = [row for claim in claims for row in claim]
            while more := await one.outbox.claim(HOOK, LATER, UNTIL, 9):  # those that were passed by meanwhile
                claimed += more
            assert sorted(row.upload_id for row in claimed) == sorted(added)
            assert {row.attempts for row in claimed} == {1}
            await one.outbox.delivered(claimed)
            assert await other.outbox.rows() == []
