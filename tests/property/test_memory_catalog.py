"""The catalog that use-case tests run on does what the real one does, operation by operation."""

import asyncio
import json
import random
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dropoff_tus.errors import DropoffError, QuotaError
from dropoff_tus.model import Dropoff, DropTerms, Mode, Role, UploadRow, Usage
from dropoff_tus.outbox import EventKind, Sink, SinkName
from dropoff_tus.ports.catalog import Catalog
from dropoff_tus.states import UploadState
from storage.catalog import SqlCatalog, migrate, open_catalog
from tests.support.aio import async_test
from tests.support.fake_clock import NOON, FakeClock
from tests.support.memory_catalog import MemoryCatalog

Operation = Callable[[Catalog], Awaitable[object]]
_MOVES = [UploadState.CHECKING, UploadState.WITHDRAWN, UploadState.TERMINATED, UploadState.EXPIRED, UploadState.DELETED]
_STEPS = 120
_SINKS = {
    SinkName.WEBHOOK: Sink(frozenset(EventKind)),
    SinkName.MAIL: Sink(frozenset({EventKind.COMPLETE}), window_seconds=7, notified_only=True),
}
_ROOM = 60


def _decide(_dropoff: Dropoff, usage: Usage) -> None:
    """Refuse when there is no room, so that what both show of usage matters."""
    if usage.bytes > _ROOM:
        raise QuotaError("full")


class _Chance:
    """Draws operations on a few drop-offs and uploads."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._clock = FakeClock()
        told = {1: ("a@example.org",)}
        self.drops = [Dropoff(str(uuid.UUID(int=n)), NOON, DropTerms("x", notify=told.get(n, ()))) for n in (1, 2)]
        self.ids: list[str] = []
        self.partials: dict[str, list[str]] = {drop.id: [] for drop in self.drops}

    def operation(self) -> Operation:
        """Return the next one."""
        self._clock.advance(1)
        draw, at = self._random, self._clock.now()
        one = draw.choice(self.ids) if self.ids else "0" * 32
        size = draw.randrange(10)
        kind = draw.randrange(8)
        if kind < 2 or not self.ids:
            row = self._row(draw.choice([Role.REGULAR, Role.PARTIAL]), size)
            return lambda catalog: catalog.add_upload(row, _decide)
        if kind == 2:
            row = self._row(Role.FINAL, 0)
            # Mostly what is fit to be joined, now and then anything.
            fit = self.partials[row.drop_id] if draw.random() < 0.7 else self.ids
            parts = draw.sample(fit, min(len(fit), draw.randrange(1, 3)))
            return lambda catalog: catalog.add_upload(row, _decide, parts=parts)
        if kind == 3:
            length = draw.choice([None, size])
            return lambda catalog: catalog.reserve(one, size, _decide, length=length)
        if kind == 4:
            return lambda catalog: catalog.drop_upload(one)
        if kind == 5:
            state = draw.choice(_MOVES)
            return lambda catalog: catalog.set_state(one, state, at)
        return lambda catalog: catalog.complete_upload(one, size, at)

    def _row(self, role: Role, size: int) -> UploadRow:
        found = f"{self._random.getrandbits(128):032x}"
        self.ids.append(found)
        drop = self._random.choice(self.drops)
        if role is Role.PARTIAL:
            self.partials[drop.id].append(found)
        return UploadRow(found, drop.id, role, Mode.SEALED, UploadState.OPEN, self._clock.now(), size, size)


async def _outcome(catalog: Catalog, operation: Operation) -> object:
    try:
        found = await operation(catalog)
    except DropoffError as error:
        return type(error)
    return _plain(found) if isinstance(found, UploadRow) else found


def _plain(row: UploadRow) -> UploadRow:
    """Leave out what nobody reads of what ended: its former reservation."""
    return replace(row, reserved_bytes=0) if row.state in _MOVES[2:] else row


async def _seen(catalog: SqlCatalog | MemoryCatalog, drops: list[Dropoff]) -> list[object]:
    rows = {row.id: _plain(row) for row in await catalog.uploads()}
    unclaimed = {row.id for row in await catalog.uploads(states=[UploadState.COMPLETE], unclaimed=True)}
    usages = [await catalog.usage(drop.id) for drop in drops]
    return [rows, unclaimed, usages, await catalog.outbox.rows()]


@pytest.mark.parametrize("seed", range(4))
@async_test
async def test_memory_catalog_agrees_with_the_real_one(tmp_path: Path, seed: int) -> None:
    """The same answers, the same refusals, the same rows and the same usage after each of many operations."""
    url = f"sqlite:///{tmp_path}/catalog.sqlite3"
    await asyncio.to_thread(migrate, url)
    memory, chance = MemoryCatalog(_SINKS), _Chance(seed)
    async with open_catalog(url, sinks=_SINKS) as real:
        for drop in chance.drops:
            for catalog in (real, memory):
                await catalog.add_dropoff(drop)
        for _ in range(_STEPS):
            operation = chance.operation()
            assert await _outcome(memory, operation) == await _outcome(real, operation)
            assert await _seen(memory, chance.drops) == await _seen(real, chance.drops)
        rows = [json.loads(text) for _, text in await real.audit_rows(0, 1 << 62, 1000)]
    told = [(row["act"], row["drop"], row.get("upload"), row.get("result"), row.get("bytes")) for row in rows]
    assert told == [(e.act, e.drop_id, e.upload_id, e.result, e.size_bytes) for e in memory.events]
