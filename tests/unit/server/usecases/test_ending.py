"""Ending: by the client, by time, by the operator; and what must not be ended."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from dropoff_tus.errors import (
    CatalogUnavailableError,
    InvalidConcatError,
    MismatchedOffsetError,
    PartInUseError,
    TerminateFinishedError,
    UploadDamagedError,
    UploadGoneError,
    UploadNotFoundError,
)
from dropoff_tus.ids import UploadToken, upload_id
from dropoff_tus.messages import Create, Created
from dropoff_tus.model import Grant, Metadata, Mode, Role
from dropoff_tus.states import UploadState
from server.usecases.ending import LOST_CREATION_SECONDS
from server.usecases.ports import UploadSettings
from tests.support.aio import async_test
from tests.support.fake_clock import NOON
from tests.support.memory_body import MemoryBody
from tests.support.memory_store import MemoryLease
from tests.unit.server.usecases.world import DAY_SECONDS, SETTINGS, URL, World, token_of

EXPIRE_SECONDS = SETTINGS.expire_after_seconds


async def _running(world: World, token: str, sent: bytes) -> tuple[MemoryBody, "asyncio.Task[object]"]:
    body = MemoryBody(sent, ended=False)
    task: asyncio.Task[object] = asyncio.ensure_future(world.patch(token, 0, body))
    await body.until_taken(len(sent))
    return body, task


# ---- by the client ----------------------------------------------------------------------------------------------


@async_test
async def test_terminate_shreds_and_gives_back() -> None:
    """410 afterwards, for every request."""
    world = World()
    token = token_of(await world.create(5, b"012"))
    await world.terminate(token)
    assert world.state(token) is UploadState.TERMINATED
    assert await world.reserved_bytes() == 0
    assert world.store.content(upload_id(token)) == b""
    for again in (world.head(token), world.patch(token, 3, b"34"), world.terminate(token)):
        with pytest.raises(UploadGoneError):
            await again


@async_test
async def test_terminate_ends_a_running_patch() -> None:
    """The writer is asked to stop, and then its bytes are gone."""
    world = World()
    token = token_of(await world.create(5))
    _, task = await _running(world, token, b"012")
    await world.terminate(token)
    with pytest.raises(Exception, match=r"being ended \(terminated: by the client\)"):
        await task
    assert world.state(token) is UploadState.TERMINATED


@async_test
async def test_terminate_of_unknown_or_foreign_upload_is_not_found() -> None:
    """Another drop-off has no right to it."""
    world = World()
    token = token_of(await world.create(5))
    for drop, asked in (("other", token), (world.drop.id, "0" * 31 + "f"), (world.drop.id, "x")):
        with pytest.raises(UploadNotFoundError):
            await world.terminate(asked, drop=drop)


@pytest.mark.parametrize("allowed", [False, True])
@async_test
async def test_terminate_of_finished_upload_is_for_the_operator_to_allow(allowed: bool) -> None:
    """403 unless `tus.terminate_finished`."""
    world = World(settings=UploadSettings(terminate_finished=allowed))
    token = token_of(await world.create(3, b"012"))
    if not allowed:
        with pytest.raises(TerminateFinishedError):
            await world.terminate(token)
        assert world.state(token) is UploadState.COMPLETE
        return
    await world.terminate(token)
    assert (await world.catalog.usage(world.drop.id)).bytes == 0


@async_test
async def test_terminate_with_the_catalog_away_is_told_to_it_later() -> None:
    """The store has ended it; its reservation is given back without another request."""
    world = World()
    token = token_of(await world.create(5, b"012"))
    world.catalog.down = True
    with pytest.raises(CatalogUnavailableError):
        await world.terminate(token)
    world.catalog.down = False
    for _ in range(100):
        if world.state(token) is UploadState.TERMINATED:
            break
        await asyncio.sleep(0.005)
    assert await world.reserved_bytes() == 0


# ---- by time ----------------------------------------------------------------------------------------------------


@async_test
async def test_expire_ends_what_was_idle_for_too_long_and_nothing_else() -> None:
    """It counts from the last commit, to the second."""
    world = World()
    idle = token_of(await world.create(5, b"012"))
    done = token_of(await world.create(3, b"012"))
    world.clock.advance(1)
    fresh = token_of(await world.create(5))
    world.clock.advance(EXPIRE_SECONDS - 2)
    assert await world.uploads.expirer.expire() == 0
    world.clock.advance(1.5)
    assert await world.uploads.expirer.expire() == 1
    assert [world.state(token) for token in (idle, done, fresh)] == [
        UploadState.EXPIRED,
        UploadState.COMPLETE,
        UploadState.OPEN,
    ]
    assert await world.uploads.expirer.expire() == 0


@async_test
async def test_expire_of_a_patch_that_goes_on_keeps_it() -> None:
    """Old but not idle: its bytes are committed, and it is not ended."""
    world = World()
    token = token_of(await world.create(5))
    world.clock.advance(EXPIRE_SECONDS - 1)
    await world.patch(token, 0, b"0")
    world.clock.advance(EXPIRE_SECONDS - 1)
    assert await world.uploads.expirer.expire() == 0
    assert (await world.patch(token, 1, b"1234")).receipt is not None


@async_test
async def test_expire_finishes_what_is_whole_instead_of_ending_it() -> None:
    """Acknowledged bytes of a whole upload are never thrown away for a finish that failed."""
    world = World()
    token = token_of(await world.create(5, b"01234"))
    world.set_state(token, UploadState.OPEN)
    world.clock.advance(EXPIRE_SECONDS + 1)
    assert await world.uploads.expirer.expire() == 0
    for _ in range(100):
        if world.state(token) is UploadState.COMPLETE:
            break
        await asyncio.sleep(0.005)
    assert world.store.content(upload_id(token)) == b"01234"


@async_test
async def test_expire_goes_on_past_a_damaged_upload() -> None:
    """One bad one stops nothing, and stays as it is."""
    world = World()
    bad, idle = token_of(await world.create(5)), token_of(await world.create(5))
    world.store.kept[upload_id(bad)].damaged = True
    world.clock.advance(EXPIRE_SECONDS + 1)
    assert await world.uploads.expirer.expire() == 1
    assert (world.state(bad), world.state(idle)) == (UploadState.OPEN, UploadState.EXPIRED)


@async_test
async def test_expire_of_a_row_without_an_upload_drops_it() -> None:
    """Nothing of it was ever acknowledged."""
    world = World()
    token = token_of(await world.create(5))
    world.store.kept.clear()
    world.clock.advance(EXPIRE_SECONDS + 1)
    assert await world.uploads.expirer.expire() == 1
    assert world.row(token) is None


@async_test
async def test_expire_never_where_it_is_switched_off() -> None:
    """0 means never."""
    world = World(settings=UploadSettings(expire_after_seconds=0))
    token = token_of(await world.create(5))
    world.clock.advance(10**9)
    assert await world.uploads.expirer.expire() == 0
    assert (await world.head(token)).expires_at is None


@async_test
async def test_expire_of_complete_part_waits_for_a_final() -> None:
    """A part that no final took goes on expiring; a claimed one does not."""
    world = World()
    claimed, free = await world.part(b"01"), await world.part(b"23")
    await world.create(None, role=Role.FINAL, parts=[claimed])
    world.clock.advance(EXPIRE_SECONDS + 1)
    assert await world.uploads.expirer.expire() == 1
    assert (world.state(claimed), world.state(free)) == (UploadState.COMPLETE, UploadState.EXPIRED)


@async_test
async def test_lost_creation_is_one_without_a_byte_and_old() -> None:
    """Neither a young one nor one with a byte."""
    world = World()
    old, begun = token_of(await world.create(5)), token_of(await world.create(5, b"0"))
    world.clock.advance(LOST_CREATION_SECONDS - 1)
    young = token_of(await world.create(5))
    world.clock.advance(2)
    assert await world.uploads.ender.end_lost(world.drop.id) == 1
    assert [world.state(token) for token in (old, begun, young)] == [
        UploadState.EXPIRED,
        UploadState.OPEN,
        UploadState.OPEN,
    ]


@async_test
async def test_every_end_by_time_is_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Its drop-off, and the rule that ended it."""
    caplog.set_level("INFO")
    world = World()
    world.change_drop(retain_seconds=100)
    kept, idle, part = token_of(await world.create(1, b"0")), token_of(await world.create(5)), await world.part(b"01")
    lost = token_of(await world.create(5))
    world.clock.advance(LOST_CREATION_SECONDS + 1)
    await world.patch(idle, 0, b"0")
    assert await world.uploads.ender.end_lost(world.drop.id) == 1
    world.clock.advance(EXPIRE_SECONDS + 1)
    assert await world.uploads.expirer.expire() == 3
    said = {line.upload_id: line.why for line in caplog.records if line.message == "upload ended"}  # type: ignore[attr-defined]
    assert said == {
        upload_id(kept): "retention is over",
        upload_id(idle): "idle for too long",
        upload_id(part): "part without a final",
        upload_id(lost): "creation without a byte",
    }


@async_test
async def test_retention_asks_the_signed_terms_and_the_signed_log() -> None:
    """A retention that nobody signed, an earlier completion and another drop-off in the row shred nothing."""
    world = World()
    upload = upload_id(token_of(await world.create(1, b"0")))
    world.clock.advance(200)
    row, drop = world.catalog.rows[upload], world.drop
    world.change_drop(retain_seconds=100, signature=b"forged")
    assert await world.uploads.expirer.expire() == 0
    world.change_drop(retain_seconds=1000, signature=drop.signature)
    for forged in (
        replace(row, completed_at=row.completed_at and row.completed_at - timedelta(days=9)),
        replace(row, created_at=row.created_at - timedelta(days=9), completed_at=NOON - timedelta(days=9)),
    ):
        world.catalog.rows[upload] = forged
        assert await world.uploads.expirer.expire() == 0
    world.change_drop(retain_seconds=100)
    world.catalog.rows[upload] = replace(row, mode=Mode.SEALED)
    assert await world.uploads.expirer.expire() == 0
    world.catalog.rows[upload] = row
    assert await world.uploads.expirer.expire() == 1


# ---- by the operator --------------------------------------------------------------------------------------------


@async_test
async def test_end_open_stops_what_runs_and_keeps_what_is_whole() -> None:
    """`drop close --now`: 410 for a running PATCH, and a finished upload is untouched."""
    world = World()
    done = token_of(await world.create(3, b"012"))
    running, waiting = token_of(await world.create(5)), token_of(await world.create(5, b"01"))
    _, task = await _running(world, running, b"012")
    assert await world.uploads.ender.end_open(world.drop.id) == 0
    with pytest.raises(UploadGoneError):
        await task
    assert [world.state(token) for token in (done, running, waiting)] == [
        UploadState.COMPLETE,
        UploadState.TERMINATED,
        UploadState.TERMINATED,
    ]
    assert await world.reserved_bytes() == 0


@pytest.mark.parametrize("finished", [False, True])
@async_test
async def test_delete_by_the_operator_shreds_whatever_it_is(finished: bool) -> None:
    """There is no way back, and the bytes are given back."""
    world = World()
    token = token_of(await world.create(5, b"01234" if finished else b"01"))
    await world.uploads.ender.delete(upload_id(token))
    assert world.state(token) is UploadState.DELETED
    usage = await world.catalog.usage(world.drop.id)
    assert (usage.uploads, usage.bytes, await world.reserved_bytes()) == (0, 0, 0)
    with pytest.raises(UploadGoneError):
        await world.head(token)


@async_test
async def test_delete_of_a_finished_upload_with_the_catalog_away_changes_nothing() -> None:
    """Its row would stay complete though its bytes are gone, and nobody looks at complete rows again."""
    world = World()
    token = token_of(await world.create(5, b"01234"))
    world.catalog.down = True
    with pytest.raises(CatalogUnavailableError):
        await world.uploads.ender.delete(upload_id(token))
    world.catalog.down = False
    assert (world.state(token), world.store.content(upload_id(token))) == (UploadState.COMPLETE, b"01234")


class _KilledError(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("shredded", [False, True])
@pytest.mark.parametrize("role", [Role.REGULAR, Role.PARTIAL])
@async_test
async def test_delete_of_a_finished_upload_that_is_killed_is_what_the_store_says(
    monkeypatch: pytest.MonkeyPatch, role: Role, shredded: bool
) -> None:
    """Shredded, the next start tells the catalog; not yet, the upload is complete and counted as before."""
    world = World()
    token = token_of(await world.create(5, b"01234", role=role))
    end = MemoryLease.end

    async def dying(self: MemoryLease, state: UploadState, why: str, at: datetime) -> None:
        if shredded:
            await end(self, state, why, at)
        raise _KilledError

    monkeypatch.setattr(MemoryLease, "end", dying)
    with pytest.raises(_KilledError):
        await world.uploads.ender.delete(upload_id(token))
    monkeypatch.undo()
    await world.restart()
    await world.uploads.reconciler.reconcile()
    expected = (UploadState.DELETED, b"", 0) if shredded else (UploadState.COMPLETE, b"01234", 5)
    used_bytes = (await world.catalog.usage(world.drop.id)).bytes
    assert (world.state(token), world.store.content(upload_id(token)), used_bytes) == expected


@pytest.mark.parametrize("first", ["claimed", "deleted"])
@async_test
async def test_part_deleted_by_one_process_while_another_claims_it_leaves_one_of_them_refused(
    monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """The catalog decides, and before anything is shredded: the final is whole, or there is none."""
    world = World()
    token = await world.part(b"01234")
    server, command = world.uploads, world.other_process()
    request = Create(Role.FINAL, None, Metadata(), (), (UploadToken(token),), None)
    end = MemoryLease.end
    lease = world.store.lease
    outcomes: list[object] = []

    async def claim() -> None:
        grant = Grant(world.drop)
        outcomes.extend(await asyncio.gather(server.creator.create(grant, URL, request, None), return_exceptions=True))

    async def end_after_the_other(self: MemoryLease, state: UploadState, why: str, at: datetime) -> None:
        await claim()
        await end(self, state, why, at)

    @asynccontextmanager
    async def lease_before_the_other(*arguments: Any, **named: Any) -> AsyncIterator[MemoryLease]:  # noqa: ANN401
        monkeypatch.setattr(world.store, "lease", lease)
        async with lease(*arguments, **named) as held:
            await claim()
            yield held

    if first == "claimed":
        monkeypatch.setattr(world.store, "lease", lease_before_the_other)
        with pytest.raises(PartInUseError):
            await command.ender.delete(upload_id(token))
        (created,) = outcomes
        assert isinstance(created, Created)
        assert world.store.content(upload_id(token)) == b"01234"
        assert world.state(token_of(created)) is UploadState.COMPLETE
    else:
        monkeypatch.setattr(MemoryLease, "end", end_after_the_other)
        await command.ender.delete(upload_id(token))
        assert [type(outcome) for outcome in outcomes] == [InvalidConcatError]
        assert world.state(token) is UploadState.DELETED
        assert len(world.catalog.rows) == 1


@async_test
async def test_ended_upload_is_gone_at_any_offset() -> None:
    """410 comes before 409: there is nothing to go on with."""
    world = World()
    token = token_of(await world.create(5, b"01"))
    with pytest.raises(MismatchedOffsetError):
        await world.patch(token, 1, b"x")
    await world.uploads.ender.delete(upload_id(token))
    with pytest.raises(UploadGoneError):
        await world.patch(token, 1, b"x")


@async_test
async def test_finished_uploads_are_shredded_when_their_retention_is_over() -> None:
    """So long after the completion and not before; without a retention, which is the default, never."""
    world = World()
    token = token_of(await world.create(5, b"hello"))
    await world.let_pass(50)
    await world.uploads.expirer.expire()
    assert world.state(token) is UploadState.COMPLETE
    world.change_drop(retain_seconds=int(60 * DAY_SECONDS))
    await world.uploads.expirer.expire()
    assert world.state(token) is UploadState.COMPLETE
    await world.let_pass(10)
    world.clock.advance(1)
    assert await world.uploads.expirer.expire() == 1
    assert world.state(token) is UploadState.EXPIRED


@async_test
async def test_delete_of_what_is_damaged_is_refused_unless_asked_for() -> None:
    """With the flag it is gone, in store and catalog, and what it took is given back."""
    world = World()
    token = token_of(await world.create(5, b"012"))
    sound = token_of(await world.create(5, b"012"))
    world.store.kept[upload_id(token)].damaged = True
    with pytest.raises(UploadDamagedError):
        await world.uploads.ender.delete(upload_id(token))
    assert world.state(token) is UploadState.OPEN
    assert await world.uploads.ender.delete_damaged(upload_id(token))
    assert not await world.uploads.ender.delete_damaged(upload_id(sound))
    assert (world.state(token), world.state(sound)) == (UploadState.DELETED, UploadState.DELETED)
    assert await world.reserved_bytes() == 0
    assert world.store.content(upload_id(token)) == b""
    with pytest.raises(UploadNotFoundError):
        await world.uploads.ender.delete_damaged("0" * 32)


@pytest.mark.parametrize("which", ["final", "part", "log of the final gone"])
@async_test
async def test_delete_of_a_damaged_concatenation_takes_all_its_parts(which: str) -> None:
    """Whichever of them is damaged; a damaged part by itself is refused, since its final would be lost with it."""
    world = World()
    parts = [await world.part(b"01"), await world.part(b"23")]
    final = token_of(await world.create(None, role=Role.FINAL, parts=parts))
    if which == "log of the final gone":
        kept = world.store.kept.pop(upload_id(final))
        assert kept.final
    else:
        world.store.kept[upload_id(final if which == "final" else parts[0])].damaged = True
    if which == "part":
        with pytest.raises(PartInUseError):
            await world.uploads.ender.delete_damaged(upload_id(parts[0]))
        assert world.state(parts[0]) is UploadState.COMPLETE
    await world.uploads.ender.delete_damaged(upload_id(final))
    for token in (final, *parts):
        assert world.state(token) is UploadState.DELETED
    for token in parts:
        assert world.store.kept[upload_id(token)].ended is UploadState.DELETED
    await world.uploads.finisher.stop()
