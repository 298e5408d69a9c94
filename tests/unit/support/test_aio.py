"""The decorator that runs async tests."""

import asyncio

import pytest

from tests.support.aio import async_test


def test_async_test_failing_coroutine_fails() -> None:
    """An assertion inside the coroutine reaches the caller; nothing passes by not being awaited."""

    @async_test
    async def fails() -> None:
        await asyncio.sleep(0)
        raise AssertionError("reached")

    with pytest.raises(AssertionError, match="reached"):
        fails()


@async_test
async def test_async_test_fixture_is_passed(tmp_path: object) -> None:
    """Fixtures reach a decorated test by name."""
    await asyncio.sleep(0)
    assert tmp_path is not None
