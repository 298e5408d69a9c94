"""A receiving upload is not idle, however old its last commit is, whoever asks; nor are a part's siblings."""

import asyncio
import hashlib
import uuid
from collections.abc import Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from dropoff_tus.checksum import ExpectedChecksum
from dropoff_tus.errors import BodyCutError, ChecksumMismatchError, DropoffFullError, UploadGoneError
from dropoff_tus.ids import UploadToken, upload_id
from dropoff_tus.messages import BodyInfo, Patch
from dropoff_tus.model import Role
from dropoff_tus.states import UploadState
from server.usecases.ending import LOST_CREATION_SECONDS
from tests.support.aio import async_test
from tests.support.memory_body import MemoryBody
from tests.unit.server.usecases.world import SETTINGS, URL, World, token_of

_EXPIRE_SECONDS = SETTINGS.expire_after_seconds
_CHECKSUM = ExpectedChecksum("sha256", hashlib.sha256(b"01234").digest())


def _patch(world: World, token: str, body: MemoryBody) -> Coroutine[Any, Any, object]:
    """Send a body with a checksum, which commits nothing before its end."""
    request = Patch(0, BodyInfo(None, checksum=_CHECKSUM), None)
    return world.uploads.appender.append(world.drop.id, UploadToken(token), request, body, URL + token)


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
    assert await world.uploads.expirer.expire() == 0
    status = await world.head(token)
    assert status.expires_at == world.clock.now() + timedelta(seconds=_EXPIRE_SECONDS)
    assert await world.uploads.expirer.expire() == 0
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
    assert await world.uploads.expirer.expire() == 0
    body.feed(b"34")
    body.end()
    assert world.state(token_of(await task)) is UploadState.COMPLETE


@async_test
async def test_full_drop_off_refuses_another_rather_than_ending_what_is_received() -> None:
    """No byte is committed and ten minutes have gone; the newcomer is refused as long as the first one sends."""
    world = World(max_uploads=1)
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
    assert await world.uploads.expirer.expire() == 0
    assert (await world.head(token)).offset == 0
    world.clock.advance(2)
    with pytest.raises(UploadGoneError):
        await world.head(token)
    assert await world.uploads.expirer.expire() == 1


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


# ---- parts ------------------------------------------------------------------------------------------------------


@async_test
async def test_complete_part_waits_for_a_sibling_that_is_received() -> None:
    """However long that takes; and then their client has as long as ever to join them."""
    world = World()
    done, slow = await world.part(b"01"), token_of(await world.create(5, role=Role.PARTIAL))
    body, task = await _running(world, slow)
    for _ in range(3):
        world.clock.advance(_EXPIRE_SECONDS - 1)
        assert await world.uploads.expirer.expire() == 0
    body.feed(b"34")
    body.end()
    await task
    world.clock.advance(_EXPIRE_SECONDS - 1)
    assert await world.uploads.expirer.expire() == 0
    final = await world.create(None, role=Role.FINAL, parts=[done, slow])
    assert world.state(token_of(final)) is UploadState.COMPLETE


@async_test
async def test_parts_go_together_once_the_last_of_them_is_idle() -> None:
    """An unfinished one that nobody goes on with keeps the others no longer than itself."""
    world = World()
    tokens = [await world.part(b"01"), await world.part(b"23"), token_of(await world.create(5, role=Role.PARTIAL))]
    world.clock.advance(_EXPIRE_SECONDS + 1)
    assert await world.uploads.expirer.expire() == 3
    assert {world.state(token) for token in tokens} == {UploadState.EXPIRED}


@pytest.mark.parametrize("other_drop", [False, True])
@async_test
async def test_part_does_not_wait_for_what_is_no_sibling(other_drop: bool) -> None:
    """Neither for parts of another drop-off nor for those that began when it would have been gone: a busy one."""
    world = World()
    alone = await world.part(b"01")
    if not other_drop:
        world.clock.advance(_EXPIRE_SECONDS + 0.5)
    later = token_of(await world.create(5, role=Role.PARTIAL))
    if other_drop:
        kept = world.catalog.rows[upload_id(later)]
        world.catalog.rows[kept.id] = replace(kept, drop_id=str(uuid.uuid4()))
    _, task = await _running(world, later)
    world.clock.advance(_EXPIRE_SECONDS + 1)
    assert await world.uploads.expirer.expire() == 1
    assert (world.state(alone), world.state(later)) == (UploadState.EXPIRED, UploadState.OPEN)
    task.cancel()


@async_test
async def test_concatenation_of_a_part_that_expired_is_gone() -> None:
    """410 with what to do, ended already or only idle for too long; not that it never was of this drop-off."""
    world = World()
    done, idle = await world.part(b"01"), token_of(await world.create(5, b"01", role=Role.PARTIAL))
    world.clock.advance(_EXPIRE_SECONDS + 1)
    for ended in (0, 2):
        assert ended == 0 or await world.uploads.expirer.expire() == ended
        with pytest.raises(UploadGoneError, match="upload it again"):
            await world.create(None, role=Role.FINAL, parts=[done, idle])
