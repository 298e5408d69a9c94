"""The port's API tokens, and pages of uploads, on every database."""

from dataclasses import replace
from datetime import timedelta

import pytest

from dropoff_tus.model import ApiToken, Scope, UploadRow
from storage.catalog import open_catalog
from tests.integration.catalog.harness import NOW, add_complete, make_dropoff
from tests.support.aio import async_test

_TOKEN = ApiToken(
    "0123456789abcdef", "Prüfung ✓", tuple(Scope), NOW, bytes(range(32)), NOW + timedelta(days=1), NOW, "d"
)


@async_test
async def test_token_comes_back_equal(catalog_url: str) -> None:
    """Nothing of a token is lost or changed on its way through the database, and an unknown one is none."""
    plain = ApiToken("f" * 16, "plain", (Scope.DROPS_READ,), NOW - timedelta(days=1), bytes(32))
    async with open_catalog(catalog_url) as catalog:
        for token in (_TOKEN, plain):
            await catalog.add_token(token)
        assert await catalog.token(_TOKEN.id) == _TOKEN
        assert await catalog.tokens() == [plain, _TOKEN]
        assert await catalog.token("0" * 16) is None


@async_test
async def test_revoke_token_twice_keeps_the_first_time(catalog_url: str) -> None:
    """A token is revoked once and for all, and an unknown one cannot be."""
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_token(replace(_TOKEN, revoked_at=None))
        for days in (1, 2):
            assert await catalog.revoke_token(_TOKEN.id, NOW + timedelta(days=days))
        found = await catalog.token(_TOKEN.id)
        assert found == replace(_TOKEN, revoked_at=NOW + timedelta(days=1))
        assert not await catalog.revoke_token("0" * 16, NOW)


@pytest.mark.parametrize("of_dropoff", [True, False], ids=["of-dropoff", "of-all"])
@async_test
async def test_uploads_read_in_pages_are_those_read_at_once(catalog_url: str, of_dropoff: bool) -> None:
    """Pages miss nothing and repeat nothing, also where several uploads were created in one moment."""
    dropoff = make_dropoff()
    async with open_catalog(catalog_url) as catalog:
        await catalog.add_dropoff(dropoff)
        for _ in range(7):
            await add_complete(catalog, dropoff, 5)
        drop_id = dropoff.id if of_dropoff else None
        every = await catalog.uploads(drop_id=drop_id)
        paged: list[UploadRow] = []
        while page := await catalog.uploads(
            drop_id=drop_id, after=(paged[-1].created_at, paged[-1].id) if paged else None, limit=3
        ):
            assert len(page) <= 3
            paged += page
        assert paged == every
