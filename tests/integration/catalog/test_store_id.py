"""The id of the store that the catalog speaks of, on every database."""

import asyncio

from storage.catalog import migrate, open_catalog
from tests.integration.catalog.conftest import RUNTIME
from tests.support.aio import async_test
from tests.support.postgres import PostgresServer


@async_test
async def test_store_id_is_none_until_it_is_kept_and_then_never_changes(
    postgres: PostgresServer, empty_database: str, sqlite_url: str
) -> None:
    """If several come at once one is kept, and all learn which; another opening sees it too."""
    await asyncio.to_thread(migrate, postgres.url(empty_database))
    postgres.sql(f"GRANT SELECT, UPDATE ON catalog_state, alembic_version TO {RUNTIME}", database=empty_database)
    for url in (sqlite_url, postgres.url(empty_database, RUNTIME)):
        async with open_catalog(url) as catalog, open_catalog(url) as other:
            assert await catalog.store_id() is None
            ids = [f"{number:032x}" for number in range(10)]
            kept = set(await asyncio.gather(*((catalog, other)[int(one, 16) % 2].keep_store_id(one) for one in ids)))
            assert len(kept) == 1
            assert kept <= set(ids)
            assert {await catalog.store_id(), await other.store_id()} == kept
            assert {await other.keep_store_id("f" * 32)} == kept
