"""Any range of an upload or of a concatenation is the slice of what was sent, at the cost of only that range."""

import asyncio
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dropoff_tus.model import Role
from storage.age import CHUNK_BYTES
from tests.support.store_kit import StoreKit

# Segments around the size of a chunk, and tiny ones.
_SIZES = (1, CHUNK_BYTES, CHUNK_BYTES + 1, 3, 2 * CHUNK_BYTES - 1, 20, CHUNK_BYTES - 1, 1)
_WHOLE = random.Random(7).randbytes(sum(_SIZES))
_EDGES = sorted({0, *(sum(_SIZES[:count]) for count in range(len(_SIZES) + 1)), CHUNK_BYTES, 2 * CHUNK_BYTES})
_places = st.builds(
    lambda edge, by: min(max(edge + by, 0), len(_WHOLE)), st.sampled_from(_EDGES), st.integers(-2, 2)
) | st.integers(0, len(_WHOLE))


class _Stored:
    """The same bytes twice: as one upload of many segments, and as a concatenation of as many parts."""

    def __init__(self, folder: Path) -> None:
        self.kit = StoreKit(folder, durability="os")
        self.ids = asyncio.run(self._make())

    async def _make(self) -> list[str]:
        _, upload = await self.kit.create(len(_WHOLE))
        offset, parts = 0, []
        for size in (*_SIZES, 0):
            piece = _WHOLE[offset : offset + size]
            _, part = await self.kit.create(size, role=Role.PARTIAL)
            if piece:
                await self.kit.append(upload.id, offset, piece)
                await self.kit.append(part.id, 0, piece)
            await self.kit.finish(part.id)
            parts.append(part.id)
            offset += size
        await self.kit.finish(upload.id)
        _, final = await self.kit.create(None, role=Role.FINAL, parts=parts)
        await self.kit.finish(final.id)
        return [upload.id, final.id]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> _Stored:
    """Store the bytes once."""
    return _Stored(tmp_path_factory.mktemp("ranges"))


@pytest.mark.parametrize("which", [0, 1], ids=["segments", "parts"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=_places, stop=_places | st.none() | st.just(len(_WHOLE) + 100))
def test_range_is_the_slice_of_what_was_sent(stored: _Stored, which: int, start: int, stop: int | None) -> None:
    """From start up to stop, wherever they lie: in a chunk, on an edge, in one segment or over many, past the end."""
    assert asyncio.run(stored.kit.read(stored.ids[which], start, stop)) == _WHOLE[start:stop]


@contextmanager
def _bytes_read() -> Iterator[dict[str, int]]:
    """Count what is read of each file."""
    real, counts = os.pread, dict[str, int]()

    def pread(descriptor: int, count: int, offset: int) -> bytes:
        data = real(descriptor, count, offset)
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        counts[name] = counts.get(name, 0) + len(data)
        return data

    with patch.object(os, "pread", pread):
        yield counts


def test_short_range_reads_no_more_than_its_chunks(stored: _Stored) -> None:
    """One byte out of the middle costs one segment's header and some chunks, not what lies before or after."""
    middle = sum(_SIZES[:4]) + 5
    with _bytes_read() as counts:
        assert asyncio.run(stored.kit.read(stored.ids[0], middle, middle + 1)) == _WHOLE[middle : middle + 1]
    assert 0 < counts["data"] <= 2 * (CHUNK_BYTES + 16) + 184


def test_append_reads_nothing_of_what_was_stored_before(tmp_path: Path) -> None:
    """However long the log, a further PATCH in the same process reads none of it, and finishing reads it once."""
    kit = StoreKit(tmp_path, durability="os")

    async def work() -> None:
        _, upload = await kit.create(None)
        for offset in range(300):
            await kit.append(upload.id, offset, b"x")
        with _bytes_read() as counts:
            for offset in range(300, 310):
                await kit.append(upload.id, offset, b"x")
        assert counts == {}
        log_bytes = kit.store.layout.of(upload.id).log.stat().st_size
        assert log_bytes > 100_000
        with _bytes_read() as counts:
            async with kit.store.lease(upload.id) as lease:
                await lease.write_final(upload.created_at)
        assert counts == {"log": log_bytes}

    asyncio.run(work())


def test_head_after_a_restart_reads_two_records(tmp_path: Path) -> None:
    """The first and the last record show where an upload stands, however many lie between."""
    kit = StoreKit(tmp_path, durability="os")

    async def work() -> None:
        _, upload = await kit.create(None)
        for offset in range(300):
            await kit.append(upload.id, offset, b"x")
        await kit.store.close()
        kit.open()
        with _bytes_read() as counts:
            assert (await kit.store.stat(upload.id)).offset == 300
        assert counts["log"] <= 4 * (16 << 10)

    asyncio.run(work())
