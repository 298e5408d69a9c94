"""Running digests answer for their own position only, and the memory keeps none that stand elsewhere."""

import asyncio
import hashlib
from pathlib import Path

import pytest

from storage.uploads.memory import RunningDigests, UploadMemory
from tests.support.store_kit import StoreKit

_NAMES = {"sha256"}


def test_digests_refuse_another_position_and_another_name() -> None:
    """Whoever asks for bytes that they do not stand for has to read them back."""
    digests = RunningDigests(_NAMES)
    assert digests.at(0, _NAMES) == {"sha256": hashlib.sha256(b"").digest()}
    digests.feed(memoryview(b"four"))
    assert digests.at(4, _NAMES) == {"sha256": hashlib.sha256(b"four").digest()}
    assert digests.at(3, _NAMES) is digests.at(5, _NAMES) is digests.at(4, {"sha512"}) is None
    assert RunningDigests().at(0, _NAMES) is None


def test_copy_goes_on_by_itself() -> None:
    """What a checksummed body adds can be taken back."""
    digests = RunningDigests(_NAMES)
    saved = digests.copy()
    digests.feed(memoryview(b"wrong"))
    saved.feed(memoryview(b"right"))
    assert saved.at(5, _NAMES) == {"sha256": hashlib.sha256(b"right").digest()}


def test_digests_that_failed_half_way_answer_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One hash may have the bytes, and the next one not."""

    class _NoMemory:
        def update(self, data: memoryview) -> None:
            raise MemoryError(data)

    digests = RunningDigests(_NAMES)
    monkeypatch.setitem(digests._hashes, "sha512", _NoMemory())  # noqa: SLF001 - nothing else makes a hash fail
    with pytest.raises(MemoryError):
        digests.feed(memoryview(b"four"))
    assert [digests.at(position, _NAMES) for position in (0, 4)] == [None, None]


def test_memory_drops_digests_that_stand_elsewhere(tmp_path: Path) -> None:
    """Bytes that were lost are in them: they must not count again when the upload has grown to their position."""
    kit = StoreKit(tmp_path, durability="os")
    _, upload = asyncio.run(kit.create(10))
    memory: UploadMemory = kit.store.base.memory
    memory.digests(upload.id, 0).feed(memoryview(b"lost!"))
    assert not memory.digests(upload.id, 3)
    assert not memory.digests(upload.id, 5)
    assert memory.digests(upload.id, 5).at(5, _NAMES) is None
