"""The floor of free space holds while bytes come, not only when an upload begins."""

import os
import threading
from pathlib import Path

import pytest

from dropoff_tus.errors import StorageFullError
from tests.support.aio import async_test
from tests.support.store_kit import StoreKit


@pytest.mark.parametrize("pieces", [1, 1000])
@async_test
async def test_floor_holds_at_each_batch_and_what_came_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: int
) -> None:
    """In one body or in many small ones nothing is written below it, and the upload goes on when there is room."""
    kit, size = StoreKit(tmp_path, durability="os"), 4_000_000
    _, upload = await kit.create(size)
    room = 2_500_000
    monkeypatch.setattr("storage.files.folders.os.statvfs", lambda _path: _Free(room - _used(kit)))
    content, step = bytes(size), size // pieces

    async def send() -> None:
        for offset in range(0, size, step):
            await kit.append(upload.id, offset, content[offset : offset + step])

    with pytest.raises(StorageFullError) as refused:
        await send()
    assert refused.value.status_hint == 507
    offset = (await kit.store.stat(upload.id)).offset
    assert 1_000_000 < offset < room
    assert f"up to {offset}" in refused.value.message
    assert room - _used(kit) > -20_000
    room = 10_000_000
    assert await kit.append(upload.id, offset, content[offset:]) == size
    await kit.finish(upload.id)
    assert await kit.read(upload.id) == content


class _Free:
    f_frsize = 1

    def __init__(self, free_bytes: int) -> None:
        self.f_bavail = free_bytes


def _used(kit: StoreKit) -> int:
    return sum(path.stat().st_size for path in kit.store.layout.root.rglob("*") if path.is_file())


@async_test
async def test_free_space_is_looked_up_beside_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that hangs, as over a network, must not hold up every other request."""
    kit, askers, statvfs = StoreKit(tmp_path), set[int](), os.statvfs
    await kit.create(1)

    def looked_up(path: Path) -> os.statvfs_result:
        askers.add(threading.get_ident())
        return statvfs(path)

    monkeypatch.setattr("storage.files.folders.os.statvfs", looked_up)
    await kit.open().free_bytes()
    assert len(askers - {threading.get_ident()}) == len(askers) == 1
