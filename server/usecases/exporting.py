"""Everything that a drop-off received, out of the store: with the clients' paths, into a folder or a tar archive.

First a plan, which gives every finished upload its path, then the copying. The order of completion decides about the
numbers of paths that clash, so that a later run, or one of what came later, gives the same ones. An upload that cannot
be exported is left out with the reason, and the others are done.
"""

import asyncio
import csv
import errno
import hashlib
import io
import json
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any, Protocol

from dropoff_tus.audit import Act, Event
from dropoff_tus.errors import ToldError, UploadDamagedError
from dropoff_tus.model import StoredUpload, UploadRow
from dropoff_tus.paths import Paths, clean_path, told_path
from dropoff_tus.ports.catalog import UploadRows
from dropoff_tus.protocol import check_agrees
from dropoff_tus.shown import show
from dropoff_tus.states import UploadState
from server.usecases.ports import Advance, Begin

MANIFEST_CSV, MANIFEST_JSON = "manifest.csv", "manifest.json"
_PLANNED_SIDE_BY_SIDE = 16
_WORKERS = 6
_WHOLE_BYTES = 1 << 20
"""Up to this size a file of an archive is verified to its end before its header goes out."""
_DISK_IS_OUT = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE})
"""Of these every further file would fail too."""
_FORMULA = ("=", "+", "-", "@", "'")

Open = Callable[[AsyncGenerator[bytes, None]], AsyncGenerator[bytes, None]]
"""Opens the age file that a browser sealed."""


class ExportedStore(Protocol):
    """The store, as exporting needs it."""

    async def stat(self, upload_id: str) -> StoredUpload:
        """Return the durable state."""
        ...

    async def receipt(self, upload_id: str, identities: Sequence[str] = ()) -> dict[str, Any] | None:
        """Return what an upload's receipt says, or None where it cannot be read here."""
        ...

    def read(
        self, upload_id: str, *, start: int = 0, stop: int | None = None, identities: Sequence[str] = ()
    ) -> AsyncGenerator[bytes, None]:
        """Yield the verified plain bytes."""
        ...


class ExportedRows(UploadRows, Protocol):
    """The catalog, as exporting needs it."""

    async def record(self, *events: Event) -> None:
        """Record events in the audit."""
        ...


class Folder(Protocol):
    """The folder that files are written into. Paths have `/` between their names, and no link in them is followed.

    Its methods raise OSError where the disk does not do it, and ToldError where something is in the way.
    """

    async def has(self, path: str) -> bool:
        """Tell whether an ordinary file has the path."""
        ...

    async def sha256(self, path: str) -> str:
        """Return the hex SHA-256 of a file that is there."""
        ...

    async def write(self, path: str, pieces: AsyncIterator[bytes], check: Callable[[], None]) -> None:
        """Write a new file, which gets its name when it is whole and `check`, called then, has not raised."""
        ...


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One exported file. `size` and `sha256` are of the file as it was written; `receipt` is the receipt's id."""

    id: str
    path: str
    size: int
    created_at: str
    completed_at: str
    sha256: str
    sender: str | None
    receipt: str


COLUMNS = tuple(column.name for column in fields(ManifestRow))


@dataclass(frozen=True, slots=True)
class Item:
    """One upload that is to be exported: `sha256` is None where it is not recorded, or not that of the opened file."""

    id: str
    name: tuple[str, ...]
    path: str
    stored_bytes: int
    completed_at: datetime
    opened: bool
    sha256: str | None
    receipt: dict[str, Any] = field(repr=False)

    def row(self, path: str, size_bytes: int, sha256: str) -> ManifestRow:
        """Return the row of the manifest for it."""
        told = self.receipt
        times = (told["created_at"], told["completed_at"])
        return ManifestRow(self.id, path, size_bytes, *times, sha256, told.get("sender"), told["receipt"])


@dataclass(slots=True)
class Export:
    """The plan, and the result: `failed` are ids with the reason."""

    items: list[Item]
    paths: Paths
    failed: list[tuple[str, str]] = field(default_factory=list)
    rows: list[ManifestRow] = field(default_factory=list)
    kept: int = 0
    """How many of them were there already."""

    @property
    def stored_bytes(self) -> int:
        """How much there is to read."""
        return sum(item.stored_bytes for item in self.items)


class Counted:
    """Passes pieces on, and knows their size and SHA-256."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], advance: Advance) -> None:
        """Take the pieces."""
        self._pieces, self._advance, self._hash = pieces, advance, hashlib.sha256()
        self.size_bytes = 0

    async def all(self) -> AsyncGenerator[bytes, None]:
        """Go through them."""
        async with aclosing(self._pieces):
            async for piece in self._pieces:
                self._hash.update(piece)
                self.size_bytes += len(piece)
                self._advance(len(piece))
                yield piece

    @property
    def sha256(self) -> str:
        """The hex SHA-256 of what has passed."""
        return self._hash.hexdigest()


class Exporter:
    """Exports drop-offs."""

    def __init__(
        self, store: ExportedStore, catalog: ExportedRows, identities: Sequence[str] = (), opening: Open | None = None
    ) -> None:
        """Take the ports.

        Args:
            store: Where the bytes are.
            catalog: Knows which uploads there are, and records what leaves.
            identities: age identities that open what the server cannot.
            opening: Opens what a browser sealed; without it the age files are exported.
        """
        self._store, self._catalog, self._identities, self._opening = store, catalog, tuple(identities), opening

    async def plan(self, drop_id: str, since: datetime | None, begin: Begin) -> Export:
        """Give every finished upload of a drop-off its path, and say which are to be exported.

        Args:
            drop_id: The drop-off.
            since: Only what was completed at this time or later.
            begin: Gets the number of uploads to look at, and makes their counter.
        """
        rows = await self._catalog.uploads(drop_id=drop_id, states=(UploadState.COMPLETE,), partials=False)
        ordered = sorted(rows, key=lambda row: (row.completed_at or row.created_at, row.id))
        export = Export([], Paths(MANIFEST_CSV, MANIFEST_JSON))
        advance = begin(len(ordered))
        for start in range(0, len(ordered), _PLANNED_SIDE_BY_SIDE):
            some = ordered[start : start + _PLANNED_SIDE_BY_SIDE]
            for row, found in zip(some, await asyncio.gather(*map(self._look, some)), strict=True):
                wanted = since is None or (row.completed_at or row.created_at) >= since
                if isinstance(found, Item):
                    # A path is given to what is left out too: so it is the same whatever is left out.
                    item = replace(found, path=export.paths.give(found.name))
                    export.items += [item] if wanted else []
                elif wanted:
                    export.failed.append((row.id, found))
            advance(len(some))
        return export

    async def _look(self, row: UploadRow) -> Item | str:
        """Return what is known of an upload, without its path; or why it cannot be exported."""
        try:
            stored = await self._store.stat(row.id)
            check_agrees(row, stored)
            receipt = await self._store.receipt(row.id, self._identities)
        except ToldError as error:
            return str(error)
        if stored.ended is not None or not stored.final:
            return "the store does not have it whole; run `dropoff-tus store check`"
        if receipt is None:
            sealed = "it is sealed; give --identity FILE with a root identity"
            return f"its receipt cannot be read here ({sealed})" if self._identities else sealed
        by_browser = "sealed_by" in receipt
        opened = by_browser and self._opening is not None
        name = clean_path(told_path(receipt.get("relative_path"), receipt.get("path")), row.id)
        if by_browser and not opened:
            name = (*name[:-1], f"{name[-1]}.age")
        sha256 = None if opened else receipt.get("sha256")
        return Item(row.id, name, "", stored.offset, row.completed_at or row.created_at, opened, sha256, receipt)

    def _read(self, item: Item) -> AsyncGenerator[bytes, None]:
        pieces = self._store.read(item.id, identities=self._identities)
        return self._opening(pieces) if item.opened and self._opening is not None else pieces

    async def _record(self, item: Item) -> None:
        """Record that an upload leaves, before its first byte does."""
        event = Event(Act.UPLOAD_EXPORT, item.receipt["drop"], item.id, size_bytes=item.stored_bytes)
        await self._catalog.record(event)

    # ---- into a folder ----------------------------------------------------------------------------------------------

    async def into_folder(self, export: Export, folder: Folder, advance: Advance) -> None:
        """Copy what is planned, several at a time.

        A file is there already if it has the path and the SHA-256; then it is left as it is. If it has the path and
        other content, another number is given, and it is left too.

        Raises:
            OSError: The disk takes no more; what was written until then is whole.
        """
        waiting = iter(export.items)
        out: list[OSError] = []

        async def work() -> None:
            for item in waiting:
                try:
                    export.rows.append(await self._copy(export, item, folder, advance))
                except ToldError as error:
                    export.failed.append((item.id, str(error)))
                except OSError as error:
                    if error.errno in _DISK_IS_OUT:
                        out.append(error)
                    else:
                        export.failed.append((item.id, f"cannot write {item.path}: {error.strerror}"))
                if out:
                    return

        async with asyncio.TaskGroup() as group:
            for _ in range(_WORKERS):
                group.create_task(work())
        if out:
            raise out[0]

    async def _copy(self, export: Export, item: Item, folder: Folder, advance: Advance) -> ManifestRow:
        path = item.path
        expected = item.sha256
        size_bytes = item.stored_bytes
        while await folder.has(path):
            if expected is None:
                counted = await self._count(item)
                expected, size_bytes = counted.sha256, counted.size_bytes
            if await folder.sha256(path) == expected:
                export.kept += 1
                advance(item.stored_bytes)
                return item.row(path, size_bytes, expected)
            path = export.paths.give(item.name)
        await self._record(item)
        counted = Counted(self._read(item), advance)
        await folder.write(path, counted.all(), lambda: _check(item, counted))
        return item.row(path, counted.size_bytes, counted.sha256)

    async def _count(self, item: Item) -> Counted:
        """Read an upload only for its size and SHA-256."""
        counted = Counted(self._read(item), lambda _count: None)
        async for _ in counted.all():
            pass
        return counted

    # ---- as an archive ----------------------------------------------------------------------------------------------

    async def as_tar(self, export: Export, advance: Advance) -> AsyncGenerator[bytes, None]:
        """Yield a tar archive (pax) of what is planned, with the manifest at its end.

        Memory is flat. A small file is verified before its header goes out, so a damaged one is left out.

        Raises:
            ToldError: A larger one does not verify: the archive is cut short there, and so tar says.
        """
        for item in export.items:
            try:
                await self._record(item)
                # Only the end tells the length of what is in an age file.
                size_bytes = (await self._count(item)).size_bytes if item.opened else item.stored_bytes
                counted = Counted(self._read(item), advance)
                whole = size_bytes <= _WHOLE_BYTES
                content = b"".join([piece async for piece in counted.all()]) if whole else b""
                if whole:
                    _check(item, counted)
            except ToldError as error:
                export.failed.append((item.id, str(error)))
                continue
            yield _header(item.path, size_bytes, item.completed_at)
            if whole:
                yield content
            else:
                async with aclosing(counted.all()) as pieces:
                    async for piece in pieces:
                        yield piece
                _check(item, counted)
            yield _padding(size_bytes)
            export.rows.append(item.row(item.path, counted.size_bytes, counted.sha256))
        now = max((item.completed_at for item in export.items), default=None)
        for name, content in manifests(export.rows).items():
            yield _header(name, len(content), now) + content + _padding(len(content))
        yield bytes(2 * tarfile.BLOCKSIZE)


def _check(item: Item, counted: Counted) -> None:
    if item.sha256 is not None and counted.sha256 != item.sha256:
        message = f"upload {item.id} does not verify: its bytes are not those of its receipt"
        raise UploadDamagedError(message)


def _header(path: str, size_bytes: int, at: datetime | None) -> bytes:
    info = tarfile.TarInfo(path)
    info.size, info.mode = size_bytes, 0o600
    info.mtime = 0 if at is None else int(at.timestamp())
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _padding(size_bytes: int) -> bytes:
    return bytes(-size_bytes % tarfile.BLOCKSIZE)


# ---- the manifest ---------------------------------------------------------------------------------------------------


def manifests(rows: Iterable[ManifestRow]) -> dict[str, bytes]:
    """Return the manifest in both its forms, by the name of the file."""
    ordered = sorted(rows, key=lambda row: (row.completed_at, row.id))
    listed = [{name: getattr(row, name) for name in COLUMNS} for row in ordered]
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS)
    writer.writeheader()
    for row in listed:
        writer.writerow({**row, "path": _cell(row["path"]), "sender": _cell(row["sender"] or "")})
    return {
        MANIFEST_CSV: table.getvalue().encode(),
        MANIFEST_JSON: f"{json.dumps(listed, indent=1)}\n".encode(),
    }


def read_manifest(raw: bytes) -> list[ManifestRow]:
    """Read the JSON form.

    Raises:
        ValueError: It is something else.
    """
    try:
        return [ManifestRow(**{name: item[name] for name in COLUMNS}) for item in json.loads(raw)]
    except (TypeError, KeyError, ValueError):
        raise ValueError("is no manifest of an export") from None


def _cell(text: str) -> str:
    """Return a client's text for a cell, which no spreadsheet takes for a formula."""
    shown = show(text)
    return f"'{shown}" if shown.startswith(_FORMULA) else shown
