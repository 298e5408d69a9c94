"""Ends by time are planned first, and executed as far as they still hold."""

from dropoff_tus.ids import upload_id
from dropoff_tus.model import Role
from dropoff_tus.states import UploadState
from server.usecases.expiring import IDLE, PART, RETAINED
from tests.support.aio import async_test
from tests.unit.server.usecases.world import World, token_of


async def _aged(world: World) -> dict[str, str]:
    """Return tokens of one upload for each way to end by time, by why; all of them are old."""
    world.change_drop(retain_seconds=100)
    tokens = {
        IDLE: token_of(await world.create(5, b"01")),
        PART: token_of(await world.create(2, b"01", role=Role.PARTIAL)),
        RETAINED: token_of(await world.create(3, b"012")),
    }
    world.clock.advance(2000)
    return tokens


@async_test
async def test_plan_names_all_that_is_due_and_changes_nothing() -> None:
    """So `store sweep --dry-run` says what a server would do, by the same code."""
    world = World()
    tokens = await _aged(world)
    rows = dict(world.catalog.rows)
    plan = await world.uploads.expirer.plan()
    assert {due.why: due.row for due in plan.due} == {why: world.row(token) for why, token in tokens.items()}
    assert world.catalog.rows == rows
    assert all(kept.ended is None for kept in world.store.kept.values())
    assert len(await world.uploads.expirer.execute(plan)) == len(tokens)
    assert {world.state(token) for token in tokens.values()} == {UploadState.EXPIRED}


@async_test
async def test_execution_leaves_what_changed_since_the_plan() -> None:
    """A plan may be old: each upload is looked at again under its lease."""
    world = World()
    tokens = await _aged(world)
    plan = await world.uploads.expirer.plan()
    final = await world.create(None, role=Role.FINAL, parts=[tokens[PART]])
    world.store.kept[plan.due[0].row.id].last_commit_at = world.clock.now()
    assert await world.uploads.expirer.execute(plan) == {upload_id(tokens[RETAINED])}
    assert world.state(tokens[IDLE]) is UploadState.OPEN
    assert world.state(token_of(final)) is UploadState.COMPLETE
