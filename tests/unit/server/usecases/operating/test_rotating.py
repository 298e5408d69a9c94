"""The recipients of a rotation: the drop-off's own, else the roots of today, if nobody changed it."""

import pytest

from dropoff_tus.ids import upload_id
from server.usecases.operating.rotating import RootRotation, Wrapping
from tests.support.aio import async_test
from tests.unit.server.usecases.world import World, token_of

_ROOTS, _OWN = ("root one", "root two"), ("the drop-off's own",)


async def _planned(world: World, ids: list[str], roots: tuple[str, ...] = _ROOTS) -> list[Wrapping]:
    return [item async for item in RootRotation(world.store, world.catalog, roots).plan(ids)]


@pytest.mark.parametrize("own", [(), _OWN])
@async_test
async def test_upload_is_wrapped_for_its_drop_offs_own_recipients_else_the_roots(own: tuple[str, ...]) -> None:
    """All uploads of a drop-off are, in the order asked for."""
    world = World()
    world.change_drop(recipients=own)
    ids = [upload_id(token_of(await world.create(1))) for _ in range(3)]
    assert await _planned(world, ids) == [Wrapping(one, own or _ROOTS) for one in ids]


@async_test
async def test_upload_for_whom_nothing_is_sure_is_passed_over_with_the_reason() -> None:
    """A changed drop-off must not get its uploads wrapped for recipients that somebody wrote into the database."""
    world = World()
    found = upload_id(token_of(await world.create(1)))
    ((none,), (missing,)) = await _planned(world, [found], ()), await _planned(world, ["0" * 32])
    world.change_drop(recipients=("an attacker",), signature=b"forged")
    (forged,) = await _planned(world, [found])
    del world.catalog.drops[world.drop.id]
    (lost,) = await _planned(world, [found])
    assert [item.recipients for item in (none, missing, forged, lost)] == [()] * 4
    reasons = [item.why or "" for item in (none, missing, forged, lost)]
    for reason, word in zip(
        reasons, ("root_recipients is empty", "no such upload", "was changed", "not in"), strict=True
    ):
        assert word in reason
