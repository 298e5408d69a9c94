"""Who receives for an upload is not idle, however old its last commit is, whoever asks."""

import asyncio
import hashlib
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

import pytest

from dropoff_tus.checksum import ExpectedChecksum
from dropoff_tus.errors import BodyCutError, ChecksumMismatchError, DropoffFullError, UploadGoneError
from dropoff_tus.messages import BodyInfo, Patch
from dropoff_tus.model import Limits, Role, UploadState
from server.ending import LOST_CREATION_SECONDS
from tests.support.aio import async_test
from tests.support.memory_body import MemoryBody
from tests.unit.server.world import SETTINGS, URL, World, token_of

_EXPIRE_SECONDS = SETTINGS.expire_after_seconds
_CHECKSUM = ExpectedChecksum("sha256", hashlib.sha256(b"01234").digest())


def _patch(world: World, token: str, body: MemoryBody) -> Coroutine[Any, Any, object]:
    """Send a body with a checksum, which commits nothing before its end."""
    request = Patch(0, BodyInfo(None, checksum=_CHECKSUM), None)
    return world.uploads.append(world.drop.id, token, request, body, URL + token)


async def _running(world: World, token: str) -> tuple[MemoryBody, "asyncio.Task[object]"]:
    body = MemoryBody(b"012", ended=False)
    task = asyncio.ensure_future(_patch(world, token, body))
    await body.until_taken(3)
    return body, task


@pytest.mark.parametrize("role", [Role.REGULAR, Role.PARTIAL])
@async_test
async def test_upload_that_is_being_received_is_not_idle(role: Role) -> None:
    """Neither expiry ends it, nor is HEAD told 410, nor does it interrupt the body; Upload-Expires is ahead."""
    world = World()
    token = token_of(await world.create(5, role=role))
    body, task = await _running(world, token)
    world.clock.advance(3 * _EXPIRE_SECONDS)
    assert await world.uploads.expire() == 0
    status = await world.head(token)
    assert status.expires_at == world.clock.now() + timedelta(seconds=_EXPIRE_SECONDS)
    assert await world.uploads.expire() == 0
    body.feed(b"34")
    body.end()
    await task
    assert world.state(token) is UploadState.COMPLETE


@async_test
async def test_creation_that_brings_its_body_is_not_idle() -> None:
    """The bytes come in the POST, whose client has no URL yet."""
    world = World()
    body = MemoryBody(b"012", ended=False)
    task = asyncio.ensure_future(world.create(5, body))
    await body.until_taken(3)
    world.clock.advance(3 * _EXPIRE_SECONDS)
    assert await world.uploads.expire() == 0
    body.feed(b"34")
    body.end()
    assert world.state(token_of(await task)) is UploadState.COMPLETE


@async_test
async def test_full_drop_off_refuses_another_rather_than_ending_what_is_received() -> None:
    """No byte is committed and ten minutes have gone; the newcomer is refused as long as the first one sends."""
    world = World(limits=Limits(max_uploads=1))
    token = token_of(await world.create(5))
    body, task = await _running(world, token)
    world.clock.advance(LOST_CREATION_SECONDS + 30)
    with pytest.raises(DropoffFullError):
        await world.create(5)
    body.feed(b"34")
    body.end()
    await task
    assert world.state(token) is UploadState.COMPLETE


@pytest.mark.parametrize("how", ["cut", "mismatch"])
@async_test
async def test_body_that_is_discarded_begins_the_idle_time_anew(how: str) -> None:
    """Its client was here just now: it goes on, and the upload expires as long after as any other."""
    world = World()
    token = token_of(await world.create(5))
    body, task = await _running(world, token)
    world.clock.advance(_EXPIRE_SECONDS - 1)
    if how == "cut":
        body.cut()
    else:
        body.feed(b"xx")
        body.end()
    with pytest.raises(BodyCutError if how == "cut" else ChecksumMismatchError):
        await task
    world.clock.advance(_EXPIRE_SECONDS - 1)
    assert await world.uploads.expire() == 0
    assert (await world.head(token)).offset == 0
    world.clock.advance(2)
    with pytest.raises(UploadGoneError):
        await world.head(token)
    assert await world.uploads.expire() == 1


@async_test
async def test_writer_that_commits_while_head_asks_is_seen() -> None:
    """Between the look at the upload and the question whether somebody receives, the writer ends."""
    world = World()
    token = token_of(await world.create(5))
    body, task = await _running(world, token)
    world.clock.advance(3 * _EXPIRE_SECONDS)
    asked = world.store.receiving

    async def late(upload_id: str) -> bool:
        body.feed(b"34")
        body.end()
        await task
        return await asked(upload_id)

    world.store.receiving = late  # type: ignore[method-assign]
    assert (await world.head(token)).offset == 5
