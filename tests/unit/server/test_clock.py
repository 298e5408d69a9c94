"""Time stands still for endings while the clock is far ahead of when a server last ran."""

import pytest

from dropoff_tus.errors import DropoffFullError, UploadGoneError
from dropoff_tus.states import UploadState
from server.clock import FAR_AHEAD
from tests.support.aio import async_test
from tests.support.fake_clock import NOON
from tests.unit.server.usecases.world import DAY_SECONDS, World, token_of

_YEAR_SECONDS = 365 * DAY_SECONDS
_FAR_SECONDS = FAR_AHEAD.total_seconds()


async def _with_everything(world: World) -> list[str]:
    """Make what each rule would end: an idle upload, a part, a retained one, a creation without a byte."""
    world.change_drop(retain_seconds=100, max_uploads=3)
    tokens = [token_of(await world.create(5, b"0")), await world.part(b"01"), token_of(await world.create(1, b"0"))]
    tokens.append(token_of(await world.create(5)))
    await world.uploads.expirer.expire()
    return tokens


@pytest.mark.parametrize("restarted", [False, True])
@async_test
async def test_clock_that_jumps_ends_nothing_whoever_asks(restarted: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Neither while a server runs nor at its start; and rows that are written meanwhile do not make it right."""
    world = World()
    tokens = await _with_everything(world)
    before = [world.state(token) for token in tokens]
    world.clock.advance(_YEAR_SECONDS)
    if restarted:
        await world.restart()
        await world.uploads.trusted_time.learn()
        await world.uploads.reconciler.reconcile()
    for _ in range(2):
        assert await world.uploads.expirer.expire() == 0
        with pytest.raises(DropoffFullError):
            await world.create(5)
        assert (await world.head(tokens[0])).offset == 1
        await world.part(b"under the wrong clock")
    assert [world.state(token) for token in tokens] == before
    problem = world.uploads.trusted_time.problem
    assert problem is not None
    assert "store trust-clock" in problem
    # Once, not each minute.
    assert [line.message for line in caplog.records if line.levelname == "WARNING"].count(problem) == 1


@async_test
async def test_clock_that_is_set_right_ends_what_is_old_and_nothing_else() -> None:
    """No word is needed then, and what went on under the wrong clock goes on."""
    world = World()
    tokens = await _with_everything(world)
    world.clock.advance(_YEAR_SECONDS)
    assert await world.uploads.expirer.expire() == 0
    await world.patch(tokens[0], 1, b"1")
    world.clock.advance(-_YEAR_SECONDS + 1001)
    assert await world.uploads.expirer.expire() == 3
    assert world.state(tokens[0]) is UploadState.OPEN
    assert world.uploads.trusted_time.problem is None


@async_test
async def test_operator_who_trusts_the_clock_lets_every_server_go_on() -> None:
    """The word is in the catalog, where each of them looks."""
    world = World()
    tokens = await _with_everything(world)
    other = world.other_process()
    world.clock.advance(_YEAR_SECONDS)
    assert [await world.uploads.expirer.expire(), await other.expirer.expire()] == [0, 0]
    await world.catalog.note_time(world.clock.now())
    assert await other.expirer.expire() == 4
    with pytest.raises(UploadGoneError):
        await world.head(tokens[0])
    assert await world.uploads.expirer.expire() == 0
    assert world.uploads.trusted_time.problem is None


@async_test
async def test_three_days_are_no_jump_and_a_server_that_runs_sees_none() -> None:
    """A weekend off needs no word; nor do years in which nothing but time passes."""
    world = World()
    part = await world.part(b"01")
    trusted = world.uploads.trusted_time
    await trusted.look()
    world.clock.advance(_FAR_SECONDS)
    assert trusted.now() == world.clock.now()
    world.clock.advance(1)
    assert trusted.now() == NOON
    world.clock.advance(-1)
    await trusted.look()
    await world.let_pass(800)
    assert trusted.now() == world.clock.now()
    assert trusted.problem is None
    assert await world.uploads.expirer.expire() == 1
    assert world.state(part) is UploadState.EXPIRED


@async_test
async def test_clock_that_starts_in_the_past_and_is_then_set_right_is_no_jump() -> None:
    """As on a machine without a clock of its own, until it has asked others for the time."""
    world = World()
    await world.let_pass(1)
    now = world.clock.now()
    world.clock.advance(-30 * _YEAR_SECONDS)
    await world.restart()
    await world.uploads.expirer.expire()
    world.clock.advance(30 * _YEAR_SECONDS)
    await world.uploads.expirer.expire()
    assert world.uploads.trusted_time.now() == now
    assert await world.catalog.noted_time() == now
