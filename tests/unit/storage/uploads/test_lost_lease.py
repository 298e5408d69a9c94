"""A lease that another server took over: nothing is committed under it, and the answer says how to go on."""

import asyncio
from pathlib import Path

import pytest

from dropoff_tus.errors import UploadInterruptedError
from dropoff_tus.messages import AppendPlan
from tests.support.aio import async_test
from tests.support.memory_body import MemoryBody
from tests.support.store_kit import BytesBody, MemoryKit


@async_test
async def test_append_under_a_lost_lease_commits_nothing_and_forgets_what_it_knew(tmp_path: Path) -> None:
    """Another server wrote meanwhile: its bytes stay, ours are dropped, and the digest is that of what is there."""
    kit = MemoryKit(tmp_path)
    _, upload = await kit.create(6)
    stored = kit.backing.of(upload.id)
    mine, other = kit.store, kit.open()
    body = MemoryBody(b"mine", ended=False)
    async with mine.lease(upload.id, offset=0) as lease:
        task = asyncio.create_task(lease.append(body, AppendPlan(0, 6, None), idle_timeout_seconds=5))
        await body.until_taken(4)
        stored.holder = None
        async with other.lease(upload.id, offset=0) as theirs:
            await theirs.append(BytesBody(b"the"), AppendPlan(0, 3, 3), idle_timeout_seconds=5)
        body.end()
        with pytest.raises(UploadInterruptedError, match="another server"):
            await task
    assert (await mine.stat(upload.id)).offset == 3
    async with mine.lease(upload.id, offset=3) as lease:
        await lease.append(BytesBody(b"irs"), AppendPlan(3, 3, 3), idle_timeout_seconds=5)
    await kit.finish(upload.id)
    assert await kit.read(upload.id) == b"theirs"
    await other.close()
    await mine.close()
