"""A program for tests to kill, or to starve of disk: adds uploads until it is ended, and prints each that was answered.

python -m tests.integration.catalog.writer URL DROP_ID [MAX_FILE_BYTES]

With MAX_FILE_BYTES no file can grow beyond it, as on a full disk: it adds until the catalog is unavailable, prints
`unavailable` and the message, lifts the limit and adds one more.
"""

import asyncio
import os
import resource
import sys
from typing import cast

from dropoff_tus.errors import CatalogUnavailableError
from dropoff_tus.model import Dropoff
from storage.catalog import SqlCatalog, open_catalog
from tests.integration.catalog.harness import allow, make_upload


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


async def _add_for_ever(catalog: SqlCatalog, dropoff: Dropoff) -> None:
    while True:
        row = await catalog.add_upload(make_upload(dropoff, 3), allow)
        _say(row.id)
        if int(row.id[0], 16) % 2:
            await catalog.complete_upload(row.id, 2, row.created_at)


async def _add_until_full(catalog: SqlCatalog, dropoff: Dropoff, max_file_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, resource.RLIM_INFINITY))
    try:
        for _ in range(100_000):
            _say((await catalog.add_upload(make_upload(dropoff, 3), allow)).id)
    except CatalogUnavailableError as error:
        _say(f"unavailable {error.message}")
    else:
        return
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    _say((await catalog.add_upload(make_upload(dropoff, 3), allow)).id)


async def _main(url: str, drop_id: str, max_file_bytes: int) -> None:
    async with open_catalog(url) as catalog:
        dropoff = cast("Dropoff", await catalog.dropoff(drop_id))
        if max_file_bytes:
            await _add_until_full(catalog, dropoff, max_file_bytes)
        else:
            await asyncio.gather(*(_add_for_ever(catalog, dropoff) for _ in range(32)))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 0))
