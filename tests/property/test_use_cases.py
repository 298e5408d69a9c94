"""Uploads through restarts, catalog outages and take-overs: nothing acknowledged is lost, and everything ends once."""

import random
from dataclasses import dataclass, field, replace

import pytest

from dropoff_tus.errors import DropoffError
from dropoff_tus.ids import upload_id
from dropoff_tus.model import Mode, Role
from dropoff_tus.states import ENDED, UploadState
from tests.support.aio import async_test
from tests.support.memory_body import MemoryBody
from tests.unit.server.usecases.world import SETTINGS, World, token_of

_STEPS = 60


@dataclass
class _Client:
    """One client, and the answers it got."""

    token: str
    content: bytes
    acknowledged_bytes: int = 0
    ended: bool = False


@dataclass
class _Run:
    world: World
    chance: random.Random
    clients: list[_Client] = field(default_factory=list)

    async def step(self) -> None:
        """Do one thing that may go wrong."""
        kind = self.chance.randrange(10)
        if kind == 0:
            await self.world.restart()
            self.world.catalog.down = False
            await self.world.uploads.reconciler.reconcile()
        elif kind == 1:
            self.world.catalog.down = not self.world.catalog.down
        elif kind == 2 or not self.clients:
            await self._create()
        elif kind == 3:
            client = self.chance.choice(self.clients)
            if self.world.state(client.token) is not UploadState.OPEN:
                # Reconcile does not look at complete uploads: a failed deletion has to be repeated.
                return
            client.ended = True
            await self.world.uploads.ender.delete(upload_id(client.token))
        else:
            await self._send(self.chance.choice(self.clients))

    async def _create(self) -> None:
        content = self.chance.randbytes(self.chance.randrange(6))
        length = self.chance.choice([len(content), None])
        role = self.chance.choice([Role.REGULAR, Role.PARTIAL])
        created = await self.world.create(length, role=role)
        self.clients.append(_Client(token_of(created), content))

    async def _send(self, client: _Client) -> None:
        start = (await self.world.head(client.token)).offset
        assert start >= client.acknowledged_bytes
        client.acknowledged_bytes = start
        stop = self.chance.randrange(start, len(client.content) + 1)
        piece = client.content[start:stop]
        body = MemoryBody(piece, ended=self.chance.random() < 0.8)
        if self.chance.random() < 0.5:
            body.cut()
        declare = len(client.content) if stop == len(client.content) else None
        answer = await self.world.patch(
            client.token, start, body if self.chance.random() < 0.5 else piece, declare=declare
        )
        assert answer.offset == stop
        client.acknowledged_bytes = stop

    async def settle(self) -> None:
        """Let the catalog come back, a new process start, and every client send what is left."""
        self.world.catalog.down = False
        await self.world.restart()
        await self.world.uploads.reconciler.reconcile()
        for client in self.clients:
            if not client.ended:
                start = (await self.world.head(client.token)).offset
                assert start >= client.acknowledged_bytes
                await self.world.patch(client.token, start, client.content[start:], declare=len(client.content))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("mode", list(Mode))
@async_test
async def test_uploads_through_anything_end_once_and_whole(mode: Mode, seed: int) -> None:
    """Answers to clients stay true, and the catalog's sums are those of the store."""
    # Some bodies stand still on purpose, and are waited for in real time.
    settings = replace(SETTINGS, body_idle_timeout_seconds=1)
    run = _Run(World(mode=mode, read_back_bytes=3, settings=settings), random.Random(seed))
    for _ in range(_STEPS):
        try:
            await run.step()
        except DropoffError:
            continue
    await run.settle()
    await run.world.restart()
    await run.world.uploads.reconciler.reconcile()
    rows = run.world.catalog.rows
    for client in run.clients:
        kept, row = run.world.store.kept[upload_id(client.token)], rows[upload_id(client.token)]
        if client.ended:
            # Asked for while the catalog was away, it may have been refused; but both say the same of it.
            assert (row.state in ENDED) == (kept.ended is not None)
            continue
        assert row.state in {UploadState.COMPLETE, UploadState.CHECKING}
        assert bytes(kept.data) == client.content
        assert kept.times_completed <= 1
    await run.world.uploads.finisher.stop()
    usage = await run.world.catalog.usage(run.world.drop.id)
    living = [row for row in rows.values() if row.state not in ENDED]
    assert usage.uploads == sum(row.role is not Role.PARTIAL for row in living)
    assert usage.bytes == sum(
        len(run.world.store.content(row.id)) if row.state is UploadState.COMPLETE else row.reserved_bytes
        for row in living
    )
