"""Everything that a drop-off received as a tar archive, made while it is sent."""

import hashlib
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from datetime import datetime

from dropoff_tus.errors import ToldError
from server.usecases.operating.exporting import Counted, Export, Exporter, Item, check_content, groups, is_small
from server.usecases.operating.manifest import manifests
from server.usecases.ports import Advance


async def as_tar(
    exporter: Exporter, export: Export, planned: AsyncIterator[list[Item]], advance: Advance
) -> AsyncGenerator[bytes, None]:
    """Yield a tar archive (pax) of what is planned, with the manifest at its end.

    Memory is flat, but for the manifest. A small file is verified before its header goes out, so a damaged one is
    left out, and noted in `export`.

    Args:
        exporter: Reads the uploads, and records that they leave.
        export: Gets what was written, and what was not.
        planned: From its `planned`.
        advance: Counts the bytes.

    Raises:
        ToldError: A larger one does not verify: the archive is cut short there, and so tar says.
    """
    now: datetime | None = None
    async for some in planned:
        for items in groups(some):
            now = items[-1].completed_at
            async with aclosing(_in_tar(exporter, export, items, advance)) as pieces:
                async for piece in pieces:
                    yield piece
    for name, content in manifests(export.rows).items():
        yield _header(name, len(content), now) + content + _padding(len(content))
    yield bytes(2 * tarfile.BLOCKSIZE)


async def _in_tar(
    exporter: Exporter, export: Export, items: Sequence[Item], advance: Advance
) -> AsyncGenerator[bytes, None]:
    if is_small(items[0]):
        for item, content in await exporter.read_small(export, items):
            yield _header(item.path, len(content), item.completed_at) + content + _padding(len(content))
            export.rows.append(item.row(item.path, len(content), hashlib.sha256(content).hexdigest()))
            advance(len(content))
        return
    (item,) = items
    try:
        await exporter.record(items)
        # Only the end tells the length of what is in an age file.
        size_bytes = (await exporter.count(item)).size_bytes if item.opened else item.stored_bytes
    except ToldError as error:
        export.failed.append((item.id, str(error)))
        return
    counted = Counted(exporter.read(item), advance)
    yield _header(item.path, size_bytes, item.completed_at)
    async with aclosing(counted.all()) as pieces:
        async for piece in pieces:
            yield piece
    check_content(item, counted.sha256)
    yield _padding(size_bytes)
    export.rows.append(item.row(item.path, counted.size_bytes, counted.sha256))


def _header(path: str, size_bytes: int, at: datetime | None) -> bytes:
    info = tarfile.TarInfo(path)
    info.size, info.mode = size_bytes, 0o600
    info.mtime = 0 if at is None else int(at.timestamp())
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _padding(size_bytes: int) -> bytes:
    return bytes(-size_bytes % tarfile.BLOCKSIZE)
