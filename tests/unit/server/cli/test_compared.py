"""An export of a whole upload is compared with its receipt."""

import hashlib
from collections.abc import AsyncIterator

import pytest
from blake3 import blake3

from dropoff_tus.errors import UploadDamagedError
from server.cli.opening import compared
from tests.support.aio import async_test

_CONTENT = b"Hello, institute!\n"


async def _pieces() -> AsyncIterator[bytes]:
    yield _CONTENT[:7]
    yield _CONTENT[7:]


@pytest.mark.parametrize("name", ["sha256", "sha512", "blake3"])
@async_test
async def test_export_is_refused_where_it_is_not_the_content_of_the_receipt(name: str) -> None:
    """By whichever digest there is, once all has passed."""
    digest = blake3(_CONTENT) if name == "blake3" else hashlib.new(name, _CONTENT)
    assert b"".join([one async for one in compared(_pieces(), "0" * 32, {name: digest.hexdigest()})]) == _CONTENT
    with pytest.raises(UploadDamagedError, match="not those of its receipt"):
        _ = [one async for one in compared(_pieces(), "0" * 32, {name: "0" * 64})]


@async_test
async def test_export_without_a_receipt_or_a_digest_in_it_is_passed_on() -> None:
    """The signed log vouches for it then."""
    assert b"".join([one async for one in compared(_pieces(), "0" * 32, {"length": 18})]) == _CONTENT
