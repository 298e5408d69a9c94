"""Ingest identities are kept for exactly as long as something may still need them."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from dropoff_tus.ids import upload_id
from dropoff_tus.model import Mode, Role, UploadRow, UploadState
from server.uploads import UploadSettings
from tests.support.aio import async_test
from tests.support.fake_clock import NOON
from tests.unit.server.world import DAY_SECONDS, World, token_of

DAY = NOON.date().isoformat()
_TO_MIDNIGHT = DAY_SECONDS / 2


def _world() -> World:
    return World(mode=Mode.SEALED, settings=UploadSettings(expire_after_seconds=0))


async def _needed(world: World) -> set[str]:
    await world.uploads.expire()
    return world.store.retired[-1]


@async_test
async def test_day_is_needed_for_an_hour_after_midnight() -> None:
    """A creation of its last moment may reach the catalog after it; later nothing can."""
    world = _world()
    world.clock.advance(_TO_MIDNIGHT + 3599)
    assert DAY in await _needed(world)
    world.clock.advance(2)
    assert DAY not in await _needed(world)


@async_test
async def test_upload_that_waits_over_days_and_restarts_keeps_its_day() -> None:
    """The day of its creation counts, not that of its last byte."""
    world = _world()
    world.clock.advance(_TO_MIDNIGHT - 1)
    token = token_of(await world.create(5))
    for _ in range(3):
        world.clock.advance(DAY_SECONDS)
        await world.restart()
        await world.uploads.reconcile()
        assert DAY in await _needed(world)
    world.catalog.rows[upload_id(token)] = replace(world.catalog.rows[upload_id(token)], state=UploadState.COMPLETE)
    assert DAY not in await _needed(world)


@pytest.mark.parametrize("state", [UploadState.OPEN, UploadState.FINISHING, UploadState.CHECKING])
@async_test
async def test_unfinished_final_keeps_the_days_of_its_parts(state: UploadState) -> None:
    """Also while it is only being read back."""
    world = _world()
    part = await world.part(b"01")
    world.clock.advance(3 * DAY_SECONDS)
    final = token_of(await world.create(None, role=Role.FINAL, parts=[part]))
    assert DAY not in await _needed(world)
    world.catalog.rows[upload_id(final)] = replace(world.catalog.rows[upload_id(final)], state=state)
    assert DAY in await _needed(world)


@async_test
async def test_part_that_is_claimed_between_two_questions_keeps_its_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalog is asked more than once, and an upload may move on in between."""
    world = _world()
    part = upload_id(await world.part(b"01"))
    world.clock.advance(3 * DAY_SECONDS)
    asked: Callable[..., Awaitable[list[UploadRow]]] = world.catalog.uploads
    final = replace(world.catalog.rows[part], id="f" * 32, role=Role.FINAL, state=UploadState.OPEN)

    async def uploads(**filters: Any) -> list[UploadRow]:  # noqa: ANN401 - whatever is asked
        rows = await asked(**filters)
        if final.id not in world.catalog.rows:
            world.catalog.rows[final.id] = replace(final, created_at=world.clock.now())
            world.catalog.rows[part] = replace(world.catalog.rows[part], final_id=final.id)
        return rows

    monkeypatch.setattr(world.catalog, "uploads", uploads)
    unfinished = await world.catalog.uploads(states=[UploadState.OPEN])
    needed = await world.uploads._ender._needed_epochs(unfinished, world.clock.now())  # noqa: SLF001 - what matters
    assert DAY in needed
    assert (NOON + timedelta(days=3)).date().isoformat() in needed
