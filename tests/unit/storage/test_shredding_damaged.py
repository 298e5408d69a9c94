"""Shredding what does not verify: an end that verifies, no key, no byte, and the log as it was found."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dropoff_tus.errors import UploadDamagedError, UploadLockedError, UploadNotFoundError
from dropoff_tus.model import Mode
from dropoff_tus.states import UploadState
from storage.files.layout import UploadPaths
from storage.uploads.maintenance.check import check_store
from tests.support.aio import async_test
from tests.support.killing import Killer
from tests.support.store_kit import StoreKit


def _flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


_IN_THE_LOG: dict[str, Callable[[UploadPaths], object]] = {
    "create": lambda paths: _flip(paths.log, 20),
    "middle": lambda paths: _flip(paths.log, paths.log.read_bytes().index(b"\n") + 20),
    "last": lambda paths: _flip(paths.log, paths.log.stat().st_size - 20),
    "last-lf": lambda paths: _flip(paths.log, paths.log.stat().st_size - 1),
    "emptied": lambda paths: paths.log.write_bytes(b""),
    "foreign": lambda paths: paths.log.write_bytes(b"x" * 100 + b"\n"),
}
_ELSEWHERE: dict[str, Callable[[UploadPaths], object]] = {
    "data-cut": lambda paths: paths.data.write_bytes(paths.data.read_bytes()[:-1]),
    "data-gone": lambda paths: paths.data.unlink(),
    "log-gone": lambda paths: paths.log.unlink(),
    "nothing": lambda _paths: None,
}
_WITHOUT_TOMBSTONE = {"create", "emptied", "foreign", "log-gone"}


async def _made(folder: Path, damage: Callable[[UploadPaths], object]) -> tuple[StoreKit, UploadPaths, str]:
    kit = StoreKit(folder, mode=Mode.SEALED)
    _, upload = await kit.create(10)
    for offset in range(2):
        await kit.append(upload.id, offset, b"x")
    paths = kit.store.layout.of(upload.id)
    damage(paths)
    kit.open()
    return kit, paths, upload.id


async def _shred(kit: StoreKit, upload_id: str) -> None:
    await kit.store.shred_damaged(upload_id, UploadState.DELETED, "a test", datetime.now(UTC))


def _is_tombstone_of(paths: UploadPaths, found: bytes) -> bool:
    lines = paths.log.read_bytes().splitlines(keepends=True)
    return len(lines) == 2 and found.startswith(lines[0])


async def _assert_shredded(kit: StoreKit, paths: UploadPaths, upload_id: str, name: str) -> None:
    kit.open()
    assert not any(path.exists() for path in paths.key_files)
    assert not paths.data.exists() or paths.data.stat().st_size == 0
    assert [finding.problem async for finding in check_store(kit.store)] == [None]
    if name in _WITHOUT_TOMBSTONE:
        with pytest.raises(UploadNotFoundError):
            await kit.store.stat(upload_id)
    else:
        assert (await kit.store.stat(upload_id)).ended is UploadState.DELETED


@pytest.mark.parametrize("name", [*_IN_THE_LOG, *_ELSEWHERE])
@async_test
async def test_damaged_upload_is_shredded_and_its_log_kept(tmp_path: Path, name: str) -> None:
    """Wherever the damage is; and again is the same."""
    kit, paths, upload_id = await _made(tmp_path, (_IN_THE_LOG | _ELSEWHERE)[name])
    found = paths.log.read_bytes() if paths.log.exists() else b""
    await _shred(kit, upload_id)
    await _assert_shredded(kit, paths, upload_id, name)
    if name in _IN_THE_LOG:
        assert paths.damaged_log.read_bytes() == found
    else:
        assert not paths.damaged_log.exists()
        assert not found or _is_tombstone_of(paths, found)
    await _shred(kit, upload_id)
    await _assert_shredded(kit, paths, upload_id, name)


@pytest.mark.parametrize("name", ["create", "middle", "data-cut"])
@async_test
async def test_shredding_killed_at_any_step_is_gone_on_with(tmp_path: Path, killer: Killer, name: str) -> None:
    """The end comes first, so that it ends whenever it died; the keys go before the bytes."""
    step = 0
    while True:
        step += 1
        kit, paths, upload_id = await _made(tmp_path / str(step), (_IN_THE_LOG | _ELSEWHERE)[name])
        with killer.at(step):
            await _shred(kit, upload_id)
        if not killer.died:
            break
        keys = any(path.exists() for path in paths.key_files)
        assert not keys or paths.data.stat().st_size
        kit.open()
        await _shred(kit, upload_id)
        await _assert_shredded(kit, paths, upload_id, name)
    assert step > 5


@async_test
async def test_upload_that_somebody_writes_or_nobody_has_is_refused(tmp_path: Path) -> None:
    """By another process, whose lease is the lock of the log; nothing changes."""
    kit, paths, upload_id = await _made(tmp_path, _ELSEWHERE["nothing"])
    log = paths.log.read_bytes()
    other = StoreKit.at(kit, tmp_path)
    async with other.store.lease(upload_id):
        with pytest.raises(UploadLockedError, match="nothing was changed"):
            await _shred(kit, upload_id)
    assert (paths.log.read_bytes(), paths.root_envelope.exists()) == (log, True)
    for unknown in ("0" * 32, "../../etc"):
        with pytest.raises(UploadNotFoundError):
            await _shred(kit, unknown)


@async_test
async def test_damaged_upload_is_not_ended_by_a_lease(tmp_path: Path) -> None:
    """Else the other way would not be needed, and the operator would not be asked."""
    for number, damage in enumerate((*_IN_THE_LOG.values(), _ELSEWHERE["data-cut"])):
        kit, paths, upload_id = await _made(tmp_path / str(number), damage)
        with pytest.raises((UploadDamagedError, UploadNotFoundError)):
            async with kit.store.lease(upload_id) as lease:
                await lease.end(UploadState.DELETED, "a test", datetime.now(UTC))
        assert paths.root_envelope.exists()
