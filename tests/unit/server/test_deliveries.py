"""The loop that delivers: again and again with one id, with growing pauses, until it is done or given up."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest

from dropoff_tus.outbox import EventKind, OutboxRow, Outcome, Sink, SinkName, event_id, retry_seconds
from server.outbox.loop import Deliveries, DeliveryError
from tests.support.aio import async_test
from tests.support.fake_clock import FakeClock
from tests.unit.server.usecases.world import World

_HOOK = SinkName.WEBHOOK


class _Courier:
    """Delivers into a list; the test says what becomes of each."""

    sink, timeout_seconds, max_attempts, claim_rows = _HOOK, 0.2, 3, 2
    side_by_side, rounds = 2, 1

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.running = self.most = 0
        self.tried: list[str] = []
        self.fails: Exception | None = None
        self.passes = 0.0
        self.attempts: set[int] = set()
        self.hangs = False
        self.began = asyncio.Event()

    def groups(self, rows: Sequence[OutboxRow]) -> list[list[OutboxRow]]:
        return [[row] for row in rows]

    async def deliver(self, rows: Sequence[OutboxRow]) -> None:
        self.tried += [row.event_id for row in rows]
        self.began.set()
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        self.attempts |= {row.attempts for row in rows}
        self.clock.advance(self.passes)
        if self.hangs:
            await asyncio.sleep(60)
        if self.fails is not None:
            raise self.fails


class _Line:
    """A world whose events are delivered."""

    def __init__(self) -> None:
        self.world = World(sinks={_HOOK: Sink(frozenset({EventKind.COMPLETE}))})
        self.clock: FakeClock = self.world.clock
        self.outbox, self.courier = self.world.catalog.outbox, _Courier(self.clock)
        self.counted: Counter[str] = Counter()
        self.deliveries = Deliveries(self.outbox, self.clock, self.courier, self._count, lambda: 1.0)

    def _count(self, sink: SinkName, outcome: Outcome, events: int) -> None:
        assert sink is _HOOK
        self.counted[outcome] += events

    async def finish(self, count: int = 1) -> list[str]:
        """Finish uploads; return the ids of their events."""
        made = [await self.world.create(1, b"x") for _ in range(count)]
        return [event_id(one.upload_id, EventKind.COMPLETE) for one in made]


@async_test
async def test_finished_uploads_are_delivered_once_each() -> None:
    """More than one claim takes, and nothing is left."""
    line = _Line()
    ids = await line.finish(5)
    await line.deliveries.look()
    await line.deliveries.look()
    assert sorted(line.courier.tried) == sorted(ids)
    assert await line.outbox.rows() == []
    assert line.counted == {"delivered": 5}


@async_test
async def test_no_more_deliveries_run_at_a_time_than_the_courier_allows() -> None:
    """However many are claimed; a mail server lets in few connections of one address."""
    line = _Line()
    await line.finish(20)
    line.courier.claim_rows = 20
    await line.deliveries.look()
    assert (len(line.courier.tried), line.courier.most) == (20, 2)


@async_test
async def test_delivery_that_had_no_turn_while_its_claim_lasted_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is due again at once, and nothing was counted against it."""
    line = _Line()
    ids = await line.finish(3)
    line.courier.claim_rows, line.courier.side_by_side, line.courier.passes = 3, 1, 1.5
    release, given_back = line.outbox.release, list[str]()

    async def note(rows: Sequence[OutboxRow], now: datetime) -> None:
        given_back.extend(row.event_id for row in rows)
        await release(rows, now)

    monkeypatch.setattr(line.outbox, "release", note)
    await line.deliveries.look()
    assert sorted(line.courier.tried) == sorted(ids)
    assert given_back == line.courier.tried[2:]
    assert line.counted == {"delivered": 3}
    assert line.courier.attempts == {1}


@async_test
async def test_failed_delivery_is_repeated_after_growing_pauses_and_then_dead() -> None:
    """The same id each time; a bug in making an event is no other than a failure."""
    line = _Line()
    (found,) = await line.finish()
    for attempt, fails in enumerate((DeliveryError("status 500"), RuntimeError("secret"), DeliveryError("end")), 1):
        line.courier.fails = fails
        await line.deliveries.look()
        assert line.courier.tried == [found] * attempt
        line.clock.advance(retry_seconds(attempt, 1.0) - 0.01)
        await line.deliveries.look()
        assert line.courier.tried == [found] * attempt
        line.clock.advance(0.01)
    line.clock.advance(1e6)
    await line.deliveries.look()
    assert len(line.courier.tried) == 3
    (dead,) = await line.outbox.rows(dead_only=True)
    assert (dead.problem, dead.attempts) == ("end", 3)
    assert line.counted == {"failed": 3, "dead": 1}


@async_test
async def test_delivery_that_hangs_is_cut_off_and_repeated() -> None:
    """A receiver has so much time and no more."""
    line = _Line()
    await line.finish()
    line.courier.hangs = True
    await line.deliveries.look()
    (row,) = await line.outbox.rows()
    assert (row.problem, row.next_at) == ("no answer in time", line.clock.now() + timedelta(seconds=5))


@async_test
async def test_delivery_that_died_before_its_mark_comes_again_when_the_claim_has_run_out() -> None:
    """With the same id, and not before."""
    line = _Line()
    (found,) = await line.finish()
    line.courier.hangs = True
    died = asyncio.create_task(line.deliveries.look())
    await line.courier.began.wait()
    died.cancel()
    await asyncio.gather(died, return_exceptions=True)
    line.courier.hangs = False
    await line.deliveries.look()
    assert line.courier.tried == [found]
    line.clock.advance(3)
    await line.deliveries.look()
    assert line.courier.tried == [found, found]
    assert await line.outbox.rows() == []


def test_pauses_double_up_to_six_hours_and_are_never_less_than_half() -> None:
    """So a receiver that comes back is not met by a crowd."""
    assert [retry_seconds(attempts, 1.0) for attempts in (1, 2, 3, 40)] == [5, 10, 20, 21600]
    assert retry_seconds(3, 0.0) == 10
