"""The watch on `drop close --now`: it ends what is open, and repeats until nothing is left."""

import asyncio
from dataclasses import replace

from dropoff_tus.errors import CatalogUnavailableError
from dropoff_tus.model import Dropoff, DropTerms
from server.usecases.closing import ClosingWatch, set_closed
from tests.support.aio import async_test
from tests.support.fake_clock import NOON
from tests.support.memory_catalog import MemoryCatalog

_FIRST, _SECOND = (f"{digit}f0c5f4a-8d1c-4c44-9a37-0f5f3f0c5f4a" for digit in "12")


class _Watched:
    """A watch over two drop-offs; the test says what ending comes to."""

    def __init__(self) -> None:
        self.catalog = MemoryCatalog()
        drop = Dropoff(_FIRST, NOON, DropTerms("first"))
        self.catalog.drops = {_FIRST: drop, _SECOND: replace(drop, id=_SECOND)}
        self.attempts: list[str] = []
        self.left = 0
        self.failing = False
        self.stuck: dict[str, asyncio.Event] = {}
        self.marked = {_FIRST, _SECOND}
        self.watch = ClosingWatch(self.catalog, self.marked, self._end_open)

    async def _end_open(self, drop_id: str) -> int:
        self.attempts.append(drop_id)
        if drop_id in self.stuck:
            await self.stuck[drop_id].wait()
        if self.failing:
            raise CatalogUnavailableError("down")
        return self.left

    async def look(self) -> list[str]:
        """Look, and return what was attempted."""
        self.attempts = []
        await self.watch.look()
        for _ in range(5):
            await asyncio.sleep(0)
        return self.attempts


@async_test
async def test_closed_drop_off_is_ended_once_and_then_costs_one_question_a_look() -> None:
    """Only a change of some drop-off makes the watch read them."""
    watched = _Watched()
    assert await watched.look() == []
    await watched.catalog.set_closed(_FIRST, closed=True, end_open=True)
    assert await watched.look() == [_FIRST]
    asked = watched.catalog.asked
    assert await watched.look() == []
    assert watched.catalog.asked == asked + 1


@async_test
async def test_closed_drop_off_with_uploads_left_is_ended_again_until_none_is() -> None:
    """An upload that was in use, or a catalog that was away, is no reason to forget."""
    watched = _Watched()
    await watched.catalog.set_closed(_FIRST, closed=True, end_open=True)
    watched.left = 1
    assert await watched.look() == [_FIRST]
    watched.failing = True
    assert await watched.look() == [_FIRST]
    watched.failing, watched.left = False, 0
    assert await watched.look() == [_FIRST]
    assert await watched.look() == []


@async_test
async def test_closed_drop_off_that_cannot_be_ended_is_tried_less_and_less_often() -> None:
    """A damaged upload does not fill the log; any change of a drop-off is a reason to try at once."""
    watched = _Watched()
    await watched.catalog.set_closed(_FIRST, closed=True, end_open=True)
    watched.left = 1
    tried = [bool(await watched.look()) for _ in range(200)]
    assert [place for place, was in enumerate(tried) if was][:5] == [0, 1, 3, 7, 15]
    assert 8 <= sum(tried) <= 12
    await watched.catalog.set_closed(_SECOND, closed=True)
    assert await watched.look() == [_FIRST]


@async_test
async def test_closed_drop_off_that_is_opened_again_keeps_what_is_left() -> None:
    """An upload that was not ended before the operator reopened goes on."""
    watched = _Watched()
    await watched.catalog.set_closed(_FIRST, closed=True, end_open=True)
    watched.left = 1
    assert await watched.look() == [_FIRST]
    await watched.catalog.set_closed(_FIRST, closed=False)
    assert await watched.look() == []


@async_test
async def test_closed_drop_off_that_takes_long_does_not_keep_others_waiting() -> None:
    """The second one is ended while the first one still waits, which is not begun twice."""
    watched = _Watched()
    watched.stuck[_FIRST] = asyncio.Event()
    await watched.catalog.set_closed(_FIRST, closed=True, end_open=True)
    assert await watched.look() == [_FIRST]
    await watched.catalog.set_closed(_SECOND, closed=True, end_open=True)
    assert await watched.look() == [_SECOND]
    watched.stuck[_FIRST].set()
    await watched.look()
    assert await watched.look() == []
    await watched.watch.stop()


@async_test
async def test_watch_that_closes_leaves_no_task_behind() -> None:
    """The next start does the work that the stop left."""
    watched = _Watched()
    watched.stuck[_FIRST] = asyncio.Event()
    await watched.catalog.set_closed(_FIRST, closed=True, end_open=True)
    await watched.look()
    await watched.watch.stop()
    assert len(asyncio.all_tasks()) == 1


@async_test
async def test_drop_off_that_only_its_row_calls_ended_keeps_what_is_open() -> None:
    """Writing to the database, but not beside the keys, ends nothing; a reopening takes the mark off."""
    watched = _Watched()
    watched.marked.clear()
    await watched.catalog.set_closed(_FIRST, closed=True, end_open=True)
    assert await watched.look() == []
    assert await set_closed(watched.catalog, watched.marked, _SECOND, closed=True, end_open=True)
    assert await watched.look() == [_SECOND]
    assert await set_closed(watched.catalog, watched.marked, _SECOND, closed=False)
    assert watched.marked == set()
    assert not await set_closed(watched.catalog, watched.marked, "../../x", closed=True, end_open=True)
    assert watched.marked == set()
